"""Serves metrics over HTTP: ``GET /metrics`` and nothing else.

On TCP, or on a Unix socket for a daemon without a network. It holds at most `CONNECTIONS` at a time
and gives each a few seconds. It has no encryption and no login: bind it to loopback or to the
network of the monitoring. When the state cannot be read, a scrape gets 503 with the error's code,
so that Prometheus shows the target as down.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import stat
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from common.closing import Closing
from common.errors import ConfigError, TransferlineError

log = logging.getLogger(__name__)

#: Connections at a time; more are closed at once.
CONNECTIONS = 8

#: Seconds that a connection may take to send its request, and to take the answer.
PATIENCE = 10.0


class Endpoint(Closing):
    """Serves metrics from a thread of its own, until it is closed; made by `serve`.

    Attributes
    ----------
    address : where, with the port that was given.
    """

    def __init__(self, server: socketserver.BaseServer, *, address: str) -> None:
        self._server = server
        self.address = address
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.2,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the address."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self.address.startswith("unix:"):
            Path(self.address.removeprefix("unix:")).unlink(missing_ok=True)


def serve(address: str, registry: CollectorRegistry) -> Endpoint:
    """Answer scrapes of a registry.

    Parameters
    ----------
    address : ``host:port`` (port 0: any free one) or ``unix:PATH``, for this user alone (0600).

    Raises
    ------
    ConfigError
        If the address is not one of these, or cannot be bound.
    """
    try:
        if address.startswith("unix:"):
            return _on_unix(Path(address.removeprefix("unix:")), registry)
        host, port = _parts(address)
        kind = _Tcp6Server if ":" in host else _TcpServer
        server = kind((host, port), _handler(registry))
    except OSError as error:
        raise ConfigError(
            f"metrics must be an address that is free here, got {address!r} "
            f"({error.strerror or error}); choose another one, or empty for none"
        ) from error
    return Endpoint(server, address=f"{address.rpartition(':')[0]}:{server.server_address[1]}")


def _on_unix(path: Path, registry: CollectorRegistry) -> Endpoint:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()  # of a process that was killed; two daemons on a folder are refused before
    server = _UnixServer(str(path), _handler(registry))
    path.chmod(0o600)
    return Endpoint(server, address=f"unix:{path}")


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"metrics must be host:port or unix:PATH, got {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


class _Bounded(socketserver.ThreadingMixIn):
    """A thread a connection, as long as there are not too many."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: object) -> None:
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: object, client_address: object) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)  # type: ignore[attr-defined]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log it instead of printing it: a scraper that hangs up is no news."""
        del request, client_address
        error = sys.exc_info()[1]
        log.log(
            logging.DEBUG if isinstance(error, OSError) else logging.ERROR,
            "metrics: %r", error, exc_info=not isinstance(error, OSError),
        )  # fmt: skip


class _TcpServer(_Bounded, socketserver.TCPServer): ...


class _Tcp6Server(_TcpServer):
    address_family = socket.AF_INET6


class _UnixServer(_Bounded, socketserver.UnixStreamServer): ...


def _handler(registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        server_version, sys_version = "transferline", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._answer(HTTPStatus.NOT_FOUND, b"only /metrics is here\n")
                return
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            try:
                body = encode(registry)
            except TransferlineError as error:
                log.warning("metrics cannot be read: %s", error)
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.code}\n".encode())
                return
            self._answer(HTTPStatus.OK, body, kind=kind)

        def _answer(self, status: HTTPStatus, body: bytes, *, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            log.debug("metrics: " + format, *args)  # noqa: G003

    return Handler
