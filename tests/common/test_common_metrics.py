from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from common import endpoint
from common.endpoint import serve
from common.errors import ConfigError, StateError
from common.metrics import (
    OTHER,
    Sheet,
    code,
    counter,
    gauge,
    known_phases,
    known_scores,
    page,
)

PARTS = counter("parts_made_total", "Parts made, by line.", "line")
HEAT = gauge("oven_celsius", "Heat of the oven.")


class Oven(Collector):
    """A collector that can be made to fail, and to wait."""

    def __init__(self) -> None:
        self.fails = False
        self.open = threading.Event()
        self.open.set()

    def collect(self) -> Iterator[Metric]:
        self.open.wait(10)
        if self.fails:
            raise StateError("cannot use /secret/state.db: it is on fire")
        sheet = Sheet((PARTS, HEAT))
        sheet.put(PARTS, 3, "a")
        sheet.put(HEAT, 200.5)
        return iter(sheet)


@pytest.fixture
def oven() -> Oven:
    return Oven()


@pytest.fixture
def registry(oven: Oven) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(oven)
    return found


def get(address: str, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    if address.startswith("unix:"):
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(address.removeprefix("unix:"))
    else:
        connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_a_scrape_gets_the_metrics(kind: str, registry: CollectorRegistry, tmp_path: Path) -> None:
    address = {"tcp": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": f"unix:{tmp_path}/m.sock"}[kind]
    with serve(address, registry) as served:
        status, text = get(served.address)
    assert status == 200
    assert 'parts_made_total{line="a"} 3.0' in text
    assert "# HELP oven_celsius Heat of the oven.\n# TYPE oven_celsius gauge\n" in text


@pytest.mark.parametrize("path", ["/", "/metricsx", "/metrics/", "/../etc/passwd"])
def test_nothing_else_is_there(registry: CollectorRegistry, path: str) -> None:
    with serve("127.0.0.1:0", registry) as served:
        assert get(served.address, path)[0] == 404
        assert get(served.address, "/metrics?name=x")[0] == 200
        assert get(served.address, method="POST")[0] == 501


def test_an_error_is_a_503_with_its_code_alone(oven: Oven, registry: CollectorRegistry) -> None:
    with serve("127.0.0.1:0", registry) as served:
        oven.fails = True
        assert get(served.address) == (503, "state\n")
        oven.fails = False
        assert get(served.address)[0] == 200


def test_connections_are_limited(oven: Oven, registry: CollectorRegistry) -> None:
    with serve("127.0.0.1:0", registry) as served:
        host, _, port = served.address.rpartition(":")
        idle = [
            socket.create_connection((host, int(port)), timeout=5)
            for _ in range(endpoint.CONNECTIONS)
        ]
        extra = socket.create_connection((host, int(port)), timeout=5)
        assert extra.recv(1) == b""
        for one in (*idle, extra):
            one.close()
        for _ in range(50):
            try:
                assert get(served.address)[0] == 200
                break
            except http.client.RemoteDisconnected:
                threading.Event().wait(0.05)
        else:
            pytest.fail("the connections that were closed still count")


def test_a_slow_connection_is_ended(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", 0.2)
    with serve("127.0.0.1:0", registry) as served:
        host, _, port = served.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as slow:
            slow.sendall(b"GET /metrics HTT")
            assert slow.recv(1) == b""


def test_closing_frees_the_address(registry: CollectorRegistry, tmp_path: Path) -> None:
    first = serve("127.0.0.1:0", registry)
    with pytest.raises(ConfigError, match=r"^metrics must be an address that is free here, got"):
        serve(first.address, registry)
    first.close()
    with serve(first.address, registry) as again:
        assert get(again.address)[0] == 200
    path = tmp_path / "m.sock"
    serve(f"unix:{path}", registry).close()
    assert not path.exists()


def test_a_socket_left_by_a_killed_process_is_replaced(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    path = tmp_path / "m.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with serve(f"unix:{path}", registry) as served:
        assert get(served.address)[0] == 200
        assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("not a socket")
    with pytest.raises(ConfigError, match="must be an address that is free here"):
        serve(f"unix:{path}", registry)
    assert path.read_text() == "not a socket"


@pytest.mark.parametrize(
    "address", ["", "9464", "host:", ":9464", "host:x", "127.0.0.1:70000", "no.such.host.invalid:0"]
)
def test_an_address_that_is_none_is_refused(registry: CollectorRegistry, address: str) -> None:
    with pytest.raises(ConfigError, match=r"^metrics must be"):
        serve(address, registry)


def test_words_that_are_not_known_become_one() -> None:
    known = ("a", "b")
    assert [code(word, known) for word in ("a", "b", "c", "", None, 3, ["a"])] == [
        "a", "b", *[OTHER] * 5,
    ]  # fmt: skip


def test_the_page_has_a_line_for_each() -> None:
    assert page((PARTS, HEAT)).splitlines()[2:] == [
        "| `parts_made_total` | counter | `line` | Parts made, by line. |",
        "| `oven_celsius` | gauge |  | Heat of the oven. |",
    ]


def test_what_a_plant_reports_is_read_with_care() -> None:
    scores = {"trained": {"loss": None, "accuracy": 1, "made-up": 2}, "deployed": "x", "odd": {}}
    assert known_scores(scores) == {("trained", "accuracy"): 1.0}
    assert known_phases({"train": 2, "nap": 3, "tea": 1.5, "tune": "x"}) == {
        "train": 2,
        OTHER: 4.5,
    }
