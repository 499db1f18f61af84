"""A centre as it is run: SuperLink behind nginx, over TLS, started, hurt and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from common.config import CentreConfig
from common.errors import ConfigError, EngineError, IdentityError
from common.pki import make_link_key
from server.centre import Centre
from server.daemon import check_free
from server.engine.control import Control
from server.engine.edge import find_nginx
from server.engine.inner import Inner
from server.state.tables import utcnow

pytestmark = [
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

#: Paths as they are sent, and what comes back. Nothing but a POST to a Fleet call gets through.
OUTSIDE = [
    ("POST", "/v1/fleet/pull-messages", {"415"}),
    ("GET", "/v1/fleet/pull-messages", {"403"}),
    *(
        ("POST", path, {"400", "403", "404"})
        for path in (
            "/",
            "/health",
            "/docs",
            "/openapi.json",
            "/v1/control/list-runs",
            "/v1/control/start-run",
            "/v1/runtime/get-nodes",
            "/v1/fleet/../control/list-runs",
            "/v1/fleet/%2e%2e/control/list-runs",
            "/v1/fleet/..%2fcontrol%2flist-runs",
            "/v1/control/list-runs/../../fleet/pull-messages",
            "/v1/control/list-runs%2f..%2f..%2ffleet/pull-messages",
            "//v1/control/list-runs",
            "/v1//control/list-runs",
            "/v1/fleet/pull-messages/../../control/list-runs",
            "/v1/fleet/pull-messages?x=/v1/control/list-runs",
            "/V1/CONTROL/list-runs",
            "https://localhost/v1/control/list-runs",
        )
    ),
]


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def make(folder: Path, *, everywhere: bool = False, nginx: str = "nginx") -> Centre:
    edge, enrolment, metrics = free_ports(3)
    config = CentreConfig(
        name="acme",
        address=f"localhost:{edge}",
        enrolment=f"localhost:{enrolment}",
        bind="0.0.0.0" if everywhere else "127.0.0.1",
        metrics=f"{'0.0.0.0' if everywhere else '127.0.0.1'}:{metrics}",
        nginx=nginx,
    )
    return Centre.create(folder, config)


class Up:
    """``transferline-server up``, and what it says."""

    def __init__(self, centre: Centre, out: Path) -> None:
        self._out = out
        with out.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", "up", str(centre.folder)],
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def says(self, pattern: str, *, times: int = 1, seconds: float = 60.0) -> re.Match[str]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self._out.read_text()
            found = list(re.finditer(pattern, text))
            if len(found) >= times:
                return found[-1]
            assert self.process.poll() is None, text
            time.sleep(0.1)
        raise AssertionError(f"no {pattern!r} in {self._out.read_text()}")

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return make(tmp_path / "centre")


@pytest.fixture
def up(centre: Centre, tmp_path: Path) -> Iterator[Up]:
    running = Up(centre, tmp_path / "up.log")
    yield running
    running.end()


def request(centre: Centre, method: str, path: str) -> str:
    """Send a path as it is, and return the status of the answer."""
    host, _, port = centre.config.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(centre.authority_pem))
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n"
        secure.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return secure.recv(4096).split(b" ", 2)[1].decode()


def of_folder(folder: Path) -> list[str]:
    """Return the processes that have to do with a folder."""
    return [
        f"{process.info['pid']} {process.info['cmdline']}"
        for process in psutil.process_iter(["pid", "cmdline"])
        if any(str(folder) in part for part in process.info["cmdline"] or ())
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_nginx("nginx") is None, reason="nginx is not installed")
def test_a_centre_lives_and_ends(centre: Centre, up: Up, tmp_path: Path) -> None:
    pid = int(up.says(r"superlink runs \(process (\d+)\)")[1])
    up.says("edge runs")
    assert {
        (method, path): code
        for method, path, codes in OUTSIDE
        if (code := request(centre, method, path)) not in codes
    } == {}
    with (
        Control(centre.config.address, authority=centre.authority_pem) as outside,
        pytest.raises(EngineError, match="404"),
    ):
        outside.start({})
    with (
        Control(address_behind_the_edge(centre), authority=centre.authority_pem) as neighbour,
        pytest.raises(EngineError, match=r"(?i)certificate|disconnected|reset|broken"),
    ):
        neighbour.start({})  # somebody else on this machine: no key
    nodes_come_and_go(centre, tmp_path)

    second = subprocess.run(
        [sys.executable, "-m", "server.cli", "up", str(centre.folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"process {up.process.pid} has it up already" in second.stderr

    a_lost_engine_knows_its_plants_again(centre, tmp_path / "plant", pid)
    assert int(up.says(r"superlink runs, again \(process (\d+)\)")[1]) != pid
    up.says("plant-a is registered again")
    (node,) = nodes_of(centre)
    assert centre.registry.plant("plant-a").node_id == node != 77
    assert request(centre, "POST", "/v1/fleet/pull-messages") == "415"

    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(30) == 0
    assert of_folder(centre.folder) == []
    assert not centre.is_up


def a_lost_engine_knows_its_plants_again(centre: Centre, folder: Path, pid: int) -> None:
    """Kill SuperLink with its database, after a plant has joined."""
    registry, key = centre.registry, make_link_key(folder)
    secret = registry.invite("plant-a", valid=timedelta(hours=1))
    registry.redeem(secret, plant="plant-a", fingerprint="ab", link_key=key)
    registry.enrol(
        plant="plant-a",
        certificate="pem",
        fingerprint="ab",
        serial="01",
        not_after=utcnow() + timedelta(days=30),
        link_key=key,
        node_id=77,
    )
    os.kill(pid, signal.SIGKILL)
    for file in centre.folder.glob("superlink.db*"):
        file.unlink()


def nodes_of(centre: Centre) -> list[int]:
    with behind_the_edge(centre) as control:
        return [node.node_id for node in control.nodes()]


def address_behind_the_edge(centre: Centre) -> str:
    text = (centre.folder / "edge" / "nginx.conf").read_text()
    address = re.search(r"server (127\.0\.0\.1:\d+);", text)
    assert address is not None
    return address[1]


def behind_the_edge(centre: Centre) -> Control:
    return Control(
        address_behind_the_edge(centre),
        authority=centre.authority_pem,
        inner=Inner.of(centre.pki),
    )


def nodes_come_and_go(centre: Centre, folder: Path) -> None:
    """Register, find and cut off a node at the SuperLink behind the edge."""
    key = make_link_key(folder)
    with behind_the_edge(centre) as control:
        node = control.register(key, name="plant")
        assert control.register(key, name="plant") == node
        assert [(one.node_id, one.online) for one in control.nodes()] == [(node, False)]
        control.unregister(node)
        control.unregister(node)
        assert control.nodes() == []
        with pytest.raises(IdentityError, match="link key must be new"):
            control.register(key, name="plant")
        with pytest.raises(IdentityError, match="OpenSSH"):
            control.register("ssh-rsa nonsense", name="plant")
        assert control.active() == []


@pytest.mark.slow
def test_without_nginx_only_this_machine_is_served(tmp_path: Path) -> None:
    centre = make(tmp_path / "centre", everywhere=True, nginx="none-such")
    up = Up(centre, tmp_path / "up.log")
    try:
        up.says(r"nginx must be installed .* apt install nginx-light")
        up.says(r"superlink runs")
        tree = [psutil.Process(up.process.pid)]
        tree += tree[0].children(recursive=True)
        listening = {
            (found.laddr.ip.removeprefix("::ffff:"), found.laddr.port)
            for process in tree
            for found in process.net_connections("inet")
            if found.status == psutil.CONN_LISTEN
        }
    finally:
        up.end()
    config = centre.config
    ports = {
        int(address.rpartition(":")[2])
        for address in (config.address, config.enrolment, config.metrics)
    }
    assert {host for host, _ in listening} == {"127.0.0.1"}
    assert ports <= {port for _, port in listening}


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"metrics must be able to listen at nonsense, .* `metrics`"
    ):
        check_free("nonsense", what="metrics", key="metrics")


def test_a_port_in_use_is_told(centre: Centre) -> None:
    port = int(centre.config.address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(EngineError, match=rf"127\.0\.0\.1:{port} .* change `address`"):
            check_free(f"127.0.0.1:{port}", what="the TLS edge", key="address")
        done = subprocess.run(
            [sys.executable, "-m", "server.cli", "up", str(centre.folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "another program uses it; stop that one" in done.stderr
    assert "Traceback" not in done.stderr
    assert of_folder(centre.folder) == []


def test_a_damaged_state_is_told_before_anything_starts(centre: Centre) -> None:
    path = centre.folder / "state.db"
    with sqlite3.connect(path) as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.close()
    data = bytearray(path.read_bytes())
    data[-4096:-4000] = b"\x5a" * 96  # the header of the last page, which `up` need not read
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "up", str(centre.folder)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "state.db" in done.stderr
    assert "restore" in done.stderr
    assert "Traceback" not in done.stderr
    assert of_folder(centre.folder) == []
