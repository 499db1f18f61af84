"""The way to a plant's daemon, for the link and the commands: gRPC on its socket, or mutual TLS.

Light on purpose: the bridge imports it for every message, so it reaches neither numpy, pydantic nor
torch. Parts pass through untouched; only their sizes are looked at.

A daemon that is not there yet, or is just started again, is waited for; the order is then handed in
once more, and gets the same bytes. Over TCP both ends show a certificate that the other has pinned
(`client.link.zones`), and a dead connection is noticed within a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc

from common import errors
from common.closing import Closing
from common.errors import ConfigError, EngineError, TransferlineError
from common.wire import plant_pb2 as wire
from common.wire.parts import Parts
from common.wire.pieces import MESSAGE_LIMIT, alone, cut, join, whole
from common.wire.plant_pb2_grpc import PlantStub

VARIABLE = "TRANSFERLINE_PLANT"  #: environment: the daemon's address, for what Flower starts
DAEMON = "transferline-daemon"  #: name in the daemon's certificate
KEY, CERTIFICATE, PEER = "tls.key", "tls.pem", "daemon.pem"  #: in the link's folder

SOON = 10.0  #: seconds for calls that only ask
RETRY = 0.5  #: seconds between two tries
CONNECT = 5.0  #: seconds that one connection may take
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.enable_http_proxy", 0),  # the daemon is near, whatever the environment says
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)

T = TypeVar("T")


class Description(NamedTuple):
    """Who the daemon is; ``fingerprint`` is that of the plant's identity."""

    plant: str
    version: str
    protocol: int
    fingerprint: str


def answer(
    address: str,
    parts: Parts,
    *,
    seconds: float,
    patience: float = 60.0,
    folder: Path | None = None,
) -> Parts:
    """Hand one order in and return the answer; see `PlantClient.answer`."""
    with PlantClient(address, folder=folder) as client:
        return client.answer(parts, seconds=seconds, patience=patience)


def call(
    address: str,
    parts: Parts,
    *,
    seconds: float,
    patience: float = 60.0,
    folder: Path | None = None,
) -> Parts:
    """Hand a small message of a secure sum in and return the answer; see `PlantClient.call`."""
    with PlantClient(address, folder=folder) as client:
        return client.call(parts, seconds=seconds, patience=patience)


class PlantClient(Closing):
    """A connection to one daemon; to be used as a context.

    Parameters
    ----------
    address : ``unix:PATH`` or ``HOST:PORT``.
    folder : the link's, with its key and the pinned certificate; only for ``HOST:PORT``.

    Raises
    ------
    ConfigError
        If there is no such kind of address, or a key is needed and missing.
    """

    def __init__(self, address: str, *, folder: Path | None = None) -> None:
        self.address = address
        if address.startswith("unix:"):
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        elif ":" in address and folder is not None:
            options = (*_OPTIONS, ("grpc.ssl_target_name_override", DAEMON))
            self._channel = grpc.secure_channel(address, _credentials(folder), options=options)
        else:
            raise ConfigError(
                f"{VARIABLE} must be unix:PATH, or HOST:PORT with the link's keys, got {address!r}"
            )
        self._stub = PlantStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the connection; what runs at the plant goes on."""
        self._channel.close()

    def describe(self) -> Description:
        """Return who the daemon is.

        Raises
        ------
        EngineError
            If nobody answers.
        """
        request = wire.DescribeRequest()
        said = self._call(lambda: self._stub.Describe(request, timeout=SOON), patience=0.0)
        return Description(said.plant, said.version, said.protocol, said.fingerprint)

    def answer(self, parts: Parts, *, seconds: float, patience: float = 60.0) -> Parts:
        """Hand one order in and return the answer.

        Parameters
        ----------
        seconds : after which the call ends without an answer; the plant stops at the order's own
            deadline, so a minute more than that.
        patience : seconds to wait for a daemon that is not there, or went away.

        Raises
        ------
        IdentityError, UpdateError
            If the daemon does not take the order: its seal, or its form.
        EngineError
            If there was no answer in time.
        """
        end = time.monotonic() + seconds

        def ask() -> Parts:
            left = max(RETRY, end - time.monotonic())
            return join(self._stub.Answer(cut(parts), timeout=left))

        return self._call(ask, patience=patience, seconds=seconds)

    def call(self, parts: Parts, *, seconds: float, patience: float = 60.0) -> Parts:
        """Hand a small message of a secure sum in and return the answer; as `answer`."""
        end = time.monotonic() + seconds

        def ask() -> Parts:
            left = max(RETRY, end - time.monotonic())
            return whole(self._stub.Sum(alone(parts), timeout=left))

        return self._call(ask, patience=patience, seconds=seconds)

    def renewal(self) -> str:
        """Return the sealed request for a fresh certificate; "" while none is due."""
        request = wire.RenewalRequest()
        asked = self._call(lambda: self._stub.Renewal(request, timeout=SOON), patience=0.0)
        return str(asked.request)

    def install(self, certificate: str, *, authority: str = "") -> str:
        """Hand in what the centre issued, PEM; return until when it is valid, ISO 8601.

        Parameters
        ----------
        authority : the CA in force, PEM, as the centre sent it with the certificate.

        Raises
        ------
        IdentityError
            If the daemon does not take it.
        """
        fresh = wire.Certificate(certificate=certificate, authority=authority)
        done = self._call(lambda: self._stub.Install(fresh, timeout=SOON), patience=0.0)
        return str(done.not_after)

    def _call(self, call: Callable[[], T], *, patience: float, seconds: float = 0.0) -> T:
        """Call, and again while the daemon is away; translate what gRPC raises.

        Parameters
        ----------
        patience : seconds that it may be away at a time.
        seconds : that all tries may take together, where there is patience.
        """
        end = time.monotonic() + seconds
        away: float | None = None
        while True:
            began = time.monotonic()
            try:
                return call()
            except grpc.RpcError as error:
                now = time.monotonic()
                if away is None or now - began > 2 * CONNECT:  # it was there, and went away
                    away = now
                late = now - away >= patience or now >= end
                if error.code() not in _AGAIN or late:
                    raise _translated(error, self.address) from error
            time.sleep(RETRY)


def _credentials(folder: Path) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=(folder / PEER).read_bytes(),
            private_key=(folder / KEY).read_bytes(),
            certificate_chain=(folder / CERTIFICATE).read_bytes(),
        )
    except OSError as error:
        raise ConfigError(
            f"cannot read {error.filename}: {error.strerror}; copy the folder link/ of the plant "
            "once its daemon has run"
        ) from error


def _translated(error: grpc.RpcError, address: str) -> TransferlineError:
    """Return our error for gRPC's: the daemon tells no more than a code."""
    said, status = error.details() or "", error.code()
    kinds = {
        kind.code: kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, TransferlineError)
    }
    if said in kinds:
        return kinds[said](f"{said}: the plant does not take this; its log says why")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EngineError(f"daemon at {address} must answer in time, got none; see its log")
    return EngineError(
        f"daemon at {address} must be running, got {status.name.lower()}; start it with "
        "transferline-plant up"
    )
