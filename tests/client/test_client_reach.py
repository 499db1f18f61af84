"""Reaching a centre over real TLS, and the ways in which that fails."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from client.joining import reach
from client.joining.reach import reach_edge, reach_enrolment


class Edge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        asked.append((self.path, dict(self.headers)))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


asked: list[tuple[str, dict[str, str]]] = []


@pytest.fixture
def serve(centre: Any, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return ``serve(authority, at=now, days=30)``: starts an edge and returns its address."""
    running: list[tuple[HTTPServer, threading.Thread]] = []
    asked.clear()

    def start(authority: Any = centre.authority, *, at: datetime | None = None) -> str:
        key, chain = authority.issue_tls(["localhost"], days=30, at=at)
        pair = tmp_path / f"{len(running)}.pem"
        pair.write_text(key + chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        server = HTTPServer(("127.0.0.1", 0), Edge)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"localhost:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_centre_that_is_well(serve: Callable[..., str], centre: Any) -> None:
    address = serve()
    found = reach_edge(address, authority=centre.authority.pem)
    assert found.error == ""
    assert 0 < found.seconds < reach.TIMEOUT
    assert found.ahead is not None
    assert abs(found.ahead) < 2
    assert asked == [("/v1/fleet/", {"Host": "localhost", "Connection": "close"})]
    assert reach_enrolment(address, authority=centre.authority.pem).error == ""


@pytest.mark.parametrize("off", [600, -600])
def test_how_far_the_clock_is_off(serve: Callable[..., str], centre: Any, off: float) -> None:
    found = reach_edge(serve(), authority=centre.authority.pem, now=lambda: time.time() + off)
    assert found.ahead == pytest.approx(off, abs=2)


def test_another_centre_is_not_ours(
    serve: Callable[..., str], centre: Any, other_centre: Any
) -> None:
    address = serve(other_centre.authority)
    for look in (reach_edge, reach_enrolment):
        found = look(address, authority=centre.authority.pem)
        assert found.error.startswith("its certificate is not the federation's")
        assert not found.untimely
        assert found.ahead is None
    assert asked == []


@pytest.mark.parametrize("days", [40, -40])
def test_a_clock_that_makes_the_certificate_invalid_is_named(
    serve: Callable[..., str], centre: Any, days: int
) -> None:
    address = serve(at=datetime.now(UTC) - timedelta(days=days))
    found = reach_edge(address, authority=centre.authority.pem)
    assert found.untimely
    assert found.error.startswith("its certificate is not valid at this machine's time")
    assert found.ahead is not None
    assert abs(found.ahead) < 2
    assert reach_enrolment(address, authority=centre.authority.pem).untimely


def test_where_nobody_answers(
    serve: Callable[..., str], centre: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = centre.authority.pem
    monkeypatch.setattr(reach, "TIMEOUT", 0.3)
    with socket() as silent, socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        port, gone = silent.getsockname()[1], closed.getsockname()[1]
        assert "no answer within 0.3 s" in reach_edge(f"127.0.0.1:{port}", authority=pem).error
        assert reach_edge(f"127.0.0.1:{gone}", authority=pem).error == "connection refused"
    found = reach_edge("no-such-host.invalid:443", authority=pem)
    assert found.error == "no-such-host.invalid is not a known host"
    for address in ("", "localhost", "localhost:port", "localhost:99999999"):
        assert reach_edge(address, authority=pem).error


def test_a_server_without_tls(centre: Any) -> None:
    server = HTTPServer(("127.0.0.1", 0), Edge)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    try:
        found = reach_edge(f"127.0.0.1:{server.server_port}", authority=centre.authority.pem)
    finally:
        thread.join(10)
        server.server_close()
    assert found.error.startswith("it does not speak TLS")
