"""The proxy does to real sockets what it says, and nothing else."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.proxy import Proxy, Way


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while piece := self.request.recv(65536):
                self.request.sendall(piece)
        except OSError:
            self.server.lost.set()  # type: ignore[attr-defined]


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.lost = threading.Event()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[Proxy]:
    with Proxy(f"127.0.0.1:{echo.server_address[1]}") as found:
        yield found


def connect(proxy: Proxy, *, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection((proxy.address.host, proxy.address.port), timeout=timeout)


def ask(line: socket.socket, text: bytes) -> bytes:
    line.sendall(text)
    got = b""
    while len(got) < len(text):
        piece = line.recv(65536)
        if not piece:
            break
        got += piece
    return got


def ask_often(line: socket.socket) -> None:
    """Ask until the line breaks, at most a hundred times; a reset may show a moment later."""
    for _ in range(100):
        ask(line, bytes(50_000))
        time.sleep(0.01)


def wait_until(condition: object, *, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_bytes_pass_unchanged_and_are_counted(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 4000
    with connect(proxy) as line:
        assert ask(line, sent) == sent
        assert proxy.open() == 1
    assert (proxy.counts.up, proxy.counts.down) == (len(sent), len(sent))
    assert proxy.counts.connections == 1
    wait_until(lambda: proxy.open() == 0)


def test_an_orderly_end_passes_too(proxy: Proxy) -> None:
    with connect(proxy) as line:
        line.sendall(b"last words")
        line.shutdown(socket.SHUT_WR)
        assert line.recv(100) == b"last words"
        assert line.recv(100) == b""


def test_delay(proxy: Proxy) -> None:
    with connect(proxy) as line:
        ask(line, b"warm")
        proxy.delay(0.15)
        start = time.monotonic()
        assert ask(line, b"x") == b"x"
        assert 0.3 <= time.monotonic() - start < 2
        proxy.restore()
        start = time.monotonic()
        ask(line, b"x")
        assert time.monotonic() - start < 0.15


def test_throttle(proxy: Proxy) -> None:
    proxy.throttle(1_000_000)
    with connect(proxy) as line:
        start = time.monotonic()
        line.sendall(bytes(300_000))
        line.shutdown(socket.SHUT_WR)
        while line.recv(65536):
            pass
        assert time.monotonic() - start >= 0.3


def test_cut_resets_open_connections_and_refuses_new_ones(proxy: Proxy) -> None:
    with connect(proxy) as line:
        ask(line, b"x")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            line.recv(1)
    # Where the reset comes quickly, connecting itself fails.
    with pytest.raises(ConnectionError), connect(proxy) as line:
        ask_often(line)
    proxy.restore()
    with connect(proxy) as line:
        assert ask(line, b"again") == b"again"


def test_black_hole_keeps_connections_open_and_delivers_afterwards(proxy: Proxy) -> None:
    with connect(proxy) as line, connect(proxy, timeout=0.2) as other:
        ask(line, b"x")
        proxy.black_hole()
        line.settimeout(0.2)
        line.sendall(b"held")
        with pytest.raises(TimeoutError):
            line.recv(1)
        with pytest.raises(TimeoutError):
            other.recv(1)
        with connect(proxy, timeout=0.2) as late:  # accepted, and silent
            late.sendall(b"late")
            with pytest.raises(TimeoutError):
                late.recv(1)
            proxy.restore()
            line.settimeout(5)
            late.settimeout(5)
            assert line.recv(10) == b"held"
            assert late.recv(10) == b"late"


def test_half_close_is_seen_by_the_far_side_only(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy, timeout=0.3) as line:
        ask(line, b"x")
        proxy.half_close()
        assert echo.lost.wait(5)
        line.sendall(b"into the void")
        with pytest.raises(TimeoutError):
            line.recv(1)
        with connect(proxy) as fresh:
            assert ask(fresh, b"fresh") == b"fresh"
        proxy.restore()
        line.settimeout(5)
        with pytest.raises(ConnectionResetError):
            line.recv(1)


def test_cut_after_so_many_bytes_cuts_once(proxy: Proxy) -> None:
    proxy.cut_after(200_000, way=Way.UP)
    with connect(proxy) as line, pytest.raises(ConnectionError):
        ask_often(line)
    assert 0 < proxy.counts.up <= 200_000
    assert proxy.counts.resets == 1
    with connect(proxy) as line:
        assert len(ask(line, bytes(400_000))) == 400_000


def test_a_target_that_is_not_there_resets() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nobody = Proxy(f"127.0.0.1:{port}")
    with nobody, pytest.raises(ConnectionResetError), connect(nobody) as line:
        line.recv(1)
