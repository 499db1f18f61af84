"""How plants join and stay in: the enrolment service, over TLS.

``Join`` takes a one-time token, the plant's certificate request and its link's public key; the
plant's identity key signs all three together, so that none can be exchanged for another. ``Renew``
takes an envelope that is signed by a certificate in use.

Covered: forged, used, expired and other plants' tokens; the same join sent again (it gets the same
certificate for a few minutes); a request or link key that is not the signer's; renewal by an
expired, replaced or revoked certificate; sizes, before anything is read; attempts per address and
in all. A plant sees one word of why it was refused (`Refusal`); the line is in the centre's log.

Not covered: a flood of connections, which is for the firewall; a stolen token that is used before
its plant uses it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import grpc

from common.config import CentreConfig
from common.errors import EngineError, IdentityError, TransferlineError
from common.pki import Authority, Role, Trust, read_certificate
from common.pki.certificate import TEXT_LIMIT, key_fingerprint
from common.pki.keys import KEY_LIMIT, REQUEST_LIMIT, check_link_key, read_request
from common.signing import Sealed, open_bare, open_seal
from common.token import (
    JOIN,
    PROTOCOL,
    RENEWAL,
    SECRET_LIMIT,
    Refusal,
    join_fields,
    renewal_due,
)
from common.wire import enrolment_pb2 as wire
from common.wire.enrolment_pb2_grpc import EnrolmentServicer, add_EnrolmentServicer_to_server
from server.limiter import Limiter, address_of
from server.state.registry import Registry
from server.state.tables import ENROLLED, PlantRow

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 64 * 1024  #: bytes of a request
ENVELOPE_LIMIT = TEXT_LIMIT + 2 * REQUEST_LIMIT  #: characters of an envelope: what fits in is small
WORKERS = 4  #: requests at a time; more wait
WAITING = 64  #: requests that wait; more are turned away

ReplyT = TypeVar("ReplyT")

_STATUS = {
    Refusal.PROTOCOL: grpc.StatusCode.FAILED_PRECONDITION,
    Refusal.REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.CENTRE: grpc.StatusCode.INTERNAL,
}


class RefusedError(IdentityError):
    """A request that is refused; the plant sees ``refusal``, the centre's log the message."""

    def __init__(self, message: str, refusal: Refusal) -> None:
        super().__init__(message)
        self.refusal = refusal


class Enrolment(EnrolmentServicer):
    """The service.

    Parameters
    ----------
    pki : folder of the CA, opened anew for each request: the operator may rotate it meanwhile.
    task : returns federation.toml's settings as JSON, for the plant's `check`.
    register : makes a link's public key known to the engine and returns its node; for a key that is
        known already, the node that it has.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        pki: Path,
        centre: CentreConfig,
        task: Callable[[], str],
        register: Callable[[str], int],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = registry
        self._pki = pki
        self._centre = centre
        self._task = task
        self._register = register
        self._clock = clock
        # Apart, so that strangers at the door do not keep enrolled plants from renewing.
        self._joins = Limiter(centre.attempts_per_minute, clock=clock)
        self._renewals = Limiter(centre.attempts_per_minute, clock=clock)
        self._one_at_a_time = threading.Lock()

    def Join(  # noqa: N802  # so says the .proto
        self, request: wire.JoinRequest, context: grpc.ServicerContext
    ) -> wire.JoinReply:
        """Answer the RPC of that name."""
        return self._answer("join", context, self._joins, lambda: self._join(request))

    def Renew(  # noqa: N802  # so says the .proto
        self, request: wire.RenewRequest, context: grpc.ServicerContext
    ) -> wire.RenewReply:
        """Answer the RPC of that name."""
        return self._answer("renewal", context, self._renewals, lambda: self._renew(request))

    def _answer(
        self,
        what: str,
        context: grpc.ServicerContext,
        limiter: Limiter,
        work: Callable[[], ReplyT],
    ) -> ReplyT:
        peer = address_of(context.peer())
        try:
            if not limiter.admit(peer):
                raise RefusedError(
                    f"attempts_per_minute must be at most {self._centre.attempts_per_minute}, got "
                    "more; see who asks so often",
                    Refusal.BUSY,
                )
            return work()
        except RefusedError as error:
            log.warning("%s from %s refused (%s): %s", what, peer, error.refusal, error)
            _abort(context, error.refusal)
        except TransferlineError as error:
            log.error("%s from %s failed: %s", what, peer, error)  # noqa: TRY400  # a user's line
            _abort(context, Refusal.CENTRE)

    def _join(self, request: wire.JoinRequest) -> wire.JoinReply:
        _check_protocol(request.protocol)
        with _refusing(Refusal.REQUEST):
            _check_size("token", request.token, SECRET_LIMIT)
            _check_size("link_key", request.link_key, KEY_LIMIT)
            _check_size("seal", request.seal, ENVELOPE_LIMIT)
            name, key = read_request(request.request)
            link_key = check_link_key(request.link_key)
            signed = open_bare(request.seal, kind=JOIN, key=key)
            if signed != join_fields(
                request.token, request=request.request, link_key=request.link_key
            ):
                raise IdentityError(
                    f"join of {name} must be as its identity key signed it, got another token, "
                    "request or link key; it was put together by somebody else"
                )
        fingerprint = key_fingerprint(key)
        authority = Authority.open(self._pki)
        with self._one_at_a_time:
            with _refusing(Refusal.TOKEN):
                self._registry.redeem(
                    request.token, plant=name, fingerprint=fingerprint, link_key=link_key
                )
            row = self._enrolled(name, fingerprint, link_key)
            if row is None:
                with _refusing(Refusal.KEYS):
                    node = self._register(link_key)
                certificate = authority.sign_request(
                    request.request,
                    name=name,
                    days=self._centre.certificate_days,
                    at=self._clock(),
                )
                said = read_certificate(certificate)
                with _refusing(Refusal.TOKEN):
                    row = self._registry.enrol(
                        plant=name,
                        certificate=certificate,
                        fingerprint=fingerprint,
                        serial=said.serial,
                        not_after=said.not_after,
                        link_key=link_key,
                        node_id=node,
                    )
                log.info("plant %s joined", name)
        return wire.JoinReply(
            plant=name,
            certificate=row.certificate,
            authority=authority.announcement,
            federation=authority.federation,
            fleet_address=self._centre.address,
            task=self._task(),
        )

    def _enrolled(self, name: str, fingerprint: str, link_key: str) -> PlantRow | None:
        """Return the plant if it is enrolled with these keys: it asks once more."""
        for row in self._registry.plants():
            if (row.name, row.state) == (name, ENROLLED) and (
                row.fingerprint, row.link_key
            ) == (fingerprint, link_key):  # fmt: skip
                return row
        return None

    def _renew(self, request: wire.RenewRequest) -> wire.RenewReply:
        _check_protocol(request.protocol)
        with _refusing(Refusal.REQUEST):
            _check_size("request", request.request, ENVELOPE_LIMIT)
        now, authority = self._clock(), Authority.open(self._pki)
        with _refusing(Refusal.CERTIFICATE):
            sealed = _open_renewal(request.request, trust=Trust.of(authority.pem), at=now)
        name = sealed.signer.name
        with _refusing(Refusal.REVOKED):
            row = self._registry.plant(name)
            if row.state != ENROLLED:
                raise IdentityError(f"plant {name} must be enrolled to renew, it is {row.state}")
        with _refusing(Refusal.CERTIFICATE):
            if row.fingerprint != sealed.signer.fingerprint:
                raise IdentityError(
                    f"certificate of {name} must be for the key it joined with last, got an older"
                )
        with _refusing(Refusal.REQUEST):
            asked = _request_in(sealed)
        # Asked early (its last answer was lost, or to hear of a new CA) it gets what it has.
        certificate = row.certificate
        if renewal_due(read_certificate(certificate), at=now) or not authority.issued(certificate):
            certificate = authority.sign_request(
                asked, name=name, days=self._centre.certificate_days, at=now
            )
            said = read_certificate(certificate)
            with _refusing(Refusal.REVOKED):
                self._registry.renewed(
                    name, certificate=certificate, serial=said.serial, not_after=said.not_after
                )
            log.info("plant %s has a certificate until %s", name, said.not_after.date())
        return wire.RenewReply(certificate=certificate, authority=authority.announcement)


def serve(service: Enrolment, *, address: str, pki: Path) -> tuple[grpc.Server, int]:
    """Start the service with the TLS certificate in ``server.pem``; a renewed one is taken up.

    Parameters
    ----------
    address : ``host:port`` of this machine; port 0 takes a free one.

    Returns
    -------
    The server, to be stopped by its ``stop``, and its port.

    Raises
    ------
    IdentityError
        If the certificate cannot be read.
    EngineError
        If the port is in use.
    """
    current = Keypair(pki)
    credentials = grpc.dynamic_ssl_server_credentials(
        current.load(),
        current.changed,  # type: ignore[arg-type]  # None means that nothing changed
        require_client_authentication=False,
    )
    options = [
        ("grpc.max_receive_message_length", MESSAGE_LIMIT),
        ("grpc.so_reuseport", 0),  # else two centres share a port and neither notices
        ("grpc.max_concurrent_streams", WORKERS),
        ("grpc.max_connection_idle_ms", 60_000),
        ("grpc.server_handshake_timeout_ms", 10_000),
    ]
    server = grpc.server(
        ThreadPoolExecutor(WORKERS, thread_name_prefix="enrolment"),
        options=options,
        maximum_concurrent_rpcs=WAITING,
    )
    add_EnrolmentServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise EngineError(
            f"enrolment must have {address} for itself, cannot listen there; stop what uses the "
            "port, or change enrolment in centre.toml"
        ) from error
    server.start()
    return server, port


class Keypair:
    """``server.key`` and ``server.pem``, looked at for every connection."""

    def __init__(self, pki: Path) -> None:
        self._key, self._chain = pki / "server.key", pki / "server.pem"
        self._seen: tuple[int, int] = (0, 0)

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read both.

        Raises
        ------
        IdentityError
            If one is missing or unreadable.
        """
        try:
            self._seen = self._state()
            pair = (self._key.read_bytes(), self._chain.read_bytes())
        except OSError as error:
            raise IdentityError(
                f"{self._chain} and {self._key.name} must be the server's certificate, cannot read "
                f"them: {error.strerror}; run `transferline-server rotate`"
            ) from error
        return grpc.ssl_server_certificate_configuration([pair])

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what to use from now on, None to go on with what there is."""
        try:
            return None if self._state() == self._seen else self.load()
        except (OSError, IdentityError):
            log.warning("%s cannot be read, going on with the last one", self._chain)
            return None

    def _state(self) -> tuple[int, int]:
        return self._key.stat().st_mtime_ns, self._chain.stat().st_mtime_ns


def _open_renewal(text: str, *, trust: Trust, at: datetime) -> Sealed:
    """Verify who asks for renewal; the centre issued the certificate, so its clock is exact."""
    sealed = open_seal(text, kind=RENEWAL, trust=trust, role=Role.PLANT, at=at)
    name, last = sealed.signer.name, sealed.signer.not_after
    if at >= last:
        raise IdentityError(
            f"certificate of {name} must be valid, it ended {last:%Y-%m-%d %H:%M} UTC; revoke "
            f"{name}, then readmit it"
        )
    return sealed


def _request_in(sealed: Sealed) -> str:
    """Return the certificate request in a renewal: of the signer's own name and key."""
    asked, signer = sealed.fields.get("request"), sealed.signer
    if not isinstance(asked, str) or sealed.fields.get("serial") != signer.serial:
        raise IdentityError(
            f"renewal of {signer.name} must hold a request and the serial in use, got others"
        )
    name, key = read_request(asked)
    if (name, key_fingerprint(key)) != (signer.name, signer.fingerprint):
        raise IdentityError(
            f"renewal of {signer.name} must be for its own name and key, got another"
        )
    return asked


def _check_protocol(protocol: int) -> None:
    if protocol != PROTOCOL:
        raise RefusedError(
            f"protocol must be {PROTOCOL}, got {protocol}; install the same version on both sides",
            Refusal.PROTOCOL,
        )


def _check_size(name: str, text: str, limit: int) -> None:
    if not 0 < len(text) <= limit:
        raise IdentityError(f"{name} must have 1 to {limit} characters, got {len(text)}")


@contextmanager
def _refusing(refusal: Refusal) -> Iterator[None]:
    """Turn what an identity must not be into a refusal."""
    try:
        yield
    except RefusedError:
        raise
    except IdentityError as error:
        raise RefusedError(str(error), refusal) from error


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    context.abort(_STATUS.get(refusal, grpc.StatusCode.PERMISSION_DENIED), refusal.value)
