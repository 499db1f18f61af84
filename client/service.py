"""The daemon's gRPC service (``common/wire/plant.proto``) and the standard health service.

On a Unix socket that only the link's group may use, or, for a link in another zone, on TCP with
mutual TLS: each end has pinned the other's certificate. There is nothing else to call: an order in,
an answer out, who this is, and the renewal of the certificate.

Covered: pieces and messages are bounded; not a byte of a vector is taken before the centre's
signature over its head holds and its size is that of the schema; a caller that stalls is cut off;
callers are few at a time. Errors tell the link a code and nothing more. Not covered: a link that
makes the daemon busy with orders the centre did sign; they come out of the outbox.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.desk.desk import ClosedError, Desk
from client.desk.policy import pause
from client.identity import Identity
from client.joining.pair import daemon_half
from common.errors import EngineError, IdentityError, TransferlineError, UpdateError
from common.version import program_version
from common.wire import plant_pb2 as wire
from common.wire.messages import release_bytes
from common.wire.parts import Parts
from common.wire.pieces import MESSAGE_LIMIT, PROTOCOL, alone, cut, join, whole
from common.wire.plant_pb2_grpc import PlantServicer, add_PlantServicer_to_server
from common.wire.seals import check_order

log = logging.getLogger(__name__)

NAME = "transferline.plant.v1.Plant"  #: for the health service
CALLS = 16  #: at a time
RECEIVE = 300.0  #: seconds that an order may take to arrive, without a limit of bandwidth
SOCKET_MODE = 0o660
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
_STATUS = {
    IdentityError: grpc.StatusCode.UNAUTHENTICATED,
    UpdateError: grpc.StatusCode.INVALID_ARGUMENT,
    ClosedError: grpc.StatusCode.UNAVAILABLE,
}


class PlantService(PlantServicer):
    """The methods of ``plant.proto``."""

    def __init__(
        self, desk: Desk, *, identity: Identity, plant: str, now: Callable[[], datetime]
    ) -> None:
        self._desk = desk
        self._identity = identity
        self._plant = plant
        self._now = now

    def Describe(  # noqa: N802
        self, request: wire.DescribeRequest, context: grpc.ServicerContext
    ) -> wire.Description:
        """Say who this is."""
        return wire.Description(
            plant=self._plant,
            version=program_version(),
            protocol=PROTOCOL,
            fingerprint=self._identity.papers.certificate.fingerprint,
        )

    def Answer(  # noqa: N802
        self, request_iterator: Iterator[wire.Piece], context: grpc.ServicerContext
    ) -> Iterator[wire.Piece]:
        """Take one order, and give the answer."""
        with _translated(context):
            parts = self._receive(request_iterator, context)
            reply = self._desk.answer(parts, listening=context.is_active)
            del parts
            if reply is not None:
                yield from _paced(cut(reply), self._desk.bandwidth)

    def Sum(  # noqa: N802
        self, request: wire.Head, context: grpc.ServicerContext
    ) -> wire.Head:
        """Take a small message of a secure sum, and give the answer."""
        with _translated(context):
            said = self._desk.call(whole(request))
            return alone(said)

    def Renewal(  # noqa: N802
        self, request: wire.RenewalRequest, context: grpc.ServicerContext
    ) -> wire.CertificateRequest:
        """Return the request for a fresh certificate, if one is due."""
        with _translated(context):
            return wire.CertificateRequest(request=self._identity.request(at=self._now()))

    def Install(  # noqa: N802
        self, request: wire.Certificate, context: grpc.ServicerContext
    ) -> wire.Installed:
        """Take over what the centre issued."""
        with _translated(context):
            before = self._identity.papers
            until = self._identity.install(
                request.certificate, authority=request.authority, at=self._now()
            )
            now = self._identity.papers
            if now.certificate.serial != before.certificate.serial:
                log.info("certificate renewed, valid until %s", until.isoformat(timespec="minutes"))
            if now.trust.pem != before.trust.pem:
                shown = ", ".join(one[:16] for one in now.trust.fingerprints)
                log.info("CA trusted from now on: %s", shown)
            return wire.Installed(not_after=until.isoformat())

    def _receive(self, pieces: Iterator[wire.Piece], context: grpc.ServicerContext) -> Parts:
        """Take an order in, not faster than the bandwidth allows, and not for ever."""
        bandwidth = self._desk.bandwidth

        def accept(head: wire.Head) -> None:
            said = Parts(head=head.head, seal=head.seal)
            order = check_order(said, trust=self._identity.papers.trust, at=self._now())
            self._identity.meet(order.signer)
            if head.size != (wanted := release_bytes(head.head)):
                raise UpdateError(f"vector must have {wanted} bytes, got {head.size}")
            cut_off.after(RECEIVE + pause(head.size, elapsed=0.0, bandwidth=bandwidth))

        cut_off = _CutOff(context.cancel)
        cut_off.after(RECEIVE)
        try:
            return join(_paced(pieces, bandwidth), accept=accept)
        finally:
            cut_off.never()


class Service:
    """The server; to be started once and stopped once.

    Parameters
    ----------
    servicer : the methods.
    """

    def __init__(self, servicer: PlantService) -> None:
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=CALLS + 4, thread_name_prefix="call"),
            options=_OPTIONS,
            maximum_concurrent_rpcs=CALLS,
        )
        add_PlantServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._socket: Path | None = None

    def listen_unix(self, path: Path, *, group: int | None = None) -> str:
        """Listen on a socket that is made anew; return its address.

        Parameters
        ----------
        group : whose members may use it; None for that of this process.

        Raises
        ------
        EngineError
            If the path is too long for a socket, its folder cannot be written, or the group is not
            this process's to give.
        """
        address = f"unix:{path}"
        if group is not None and group != os.getegid() and os.geteuid() != 0:
            raise EngineError(
                f"the daemon's group must be that of link.user, {group}, got {os.getegid()}; start "
                "it as root, or with that group"
            )
        try:
            path.unlink(missing_ok=True)
            with _new_files(SOCKET_MODE, group=group):
                self._server.add_insecure_port(address)
        except (OSError, RuntimeError) as error:
            raise EngineError(
                f"cannot listen on {path}: {_reason(error)}; a socket's path has at most 107 "
                "characters, and its folder must be writable"
            ) from error
        self._socket = path
        return address

    def listen_tcp(self, address: str, *, folder: Path) -> str:
        """Listen on TCP with mutual TLS; return the address, with the port that was given.

        Parameters
        ----------
        folder : the plant's; see `client.joining.pair`.

        Raises
        ------
        EngineError
            If the port is in use or the host is not of this machine.
        """
        try:
            half = daemon_half(folder)
            credentials = grpc.ssl_server_credentials(
                [(half.key, half.certificate)],
                root_certificates=half.pinned,
                require_client_auth=True,
            )
            port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise EngineError(
                f"cannot listen on {address}: it is in use, or not of this machine; change "
                "link.listen in plant.toml"
            ) from error
        return f"{address.rpartition(':')[0]}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        self._say(health_pb2.HealthCheckResponse.SERVING)

    def refuse(self) -> None:
        """Tell the health service's callers that the end is near."""
        self._say(health_pb2.HealthCheckResponse.NOT_SERVING)

    def stop(self, *, grace: float = 2.0) -> None:
        """Take no more calls, give those in progress some seconds, and remove the socket."""
        self.refuse()
        self._server.stop(grace).wait()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", NAME):
            self._health.set(name, status)


class _CutOff:
    """Ends a call that takes too long."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._timer: threading.Timer | None = None

    def after(self, seconds: float) -> None:
        """Cancel the call after so many seconds from now, whatever was said before."""
        self.never()
        self._timer = threading.Timer(seconds, self._cancel)
        self._timer.daemon = True
        self._timer.start()

    def never(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def _translated(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn our errors into a status and a code; what they say stays in the log."""
    try:
        yield
    except TransferlineError as error:
        log.warning("%s", error)
        status = _STATUS.get(type(error), grpc.StatusCode.INTERNAL)
        context.abort(status, error.code)
    except grpc.RpcError:
        log.warning("the link went away in the middle of an order")


def _paced(pieces: Iterator[wire.Piece], bandwidth: float | None) -> Iterator[wire.Piece]:
    """Pass pieces on, not faster than the bandwidth allows."""
    started, done = time.monotonic(), 0
    for piece in pieces:
        yield piece
        done += len(piece.data)
        if wait := pause(done, elapsed=time.monotonic() - started, bandwidth=bandwidth):
            time.sleep(wait)


@contextmanager
def _new_files(mode: int, *, group: int | None) -> Iterator[None]:
    """Let what is made inside have a mode and a group from its first moment.

    Nothing is changed afterwards by name: the socket's folder belongs to the link, which could put
    another file there meanwhile.
    """
    mask = os.umask(0o777 & ~mode)
    before = os.getegid()
    try:
        if group is not None and group != before:
            os.setegid(group)
        yield
    finally:
        if os.getegid() != before:
            os.setegid(before)
        os.umask(mask)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "the address is not usable"
