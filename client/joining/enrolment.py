"""How a plant joins a federation, and how its link fetches fresh certificates.

`join` makes the plant's keys, reads the CA that the centre shows, compares it with the token's
fingerprint, and only then connects, with that CA as the only root, and sends the token. The keys
wait in ``identity/joining`` until the centre has answered: a join that was cut off goes on with the
same keys, and one that is refused leaves what was there.

`renew` carries a renewal that the daemon signed (`client.identity`) and brings the answer back; it
needs no key, so the link can do it.

Covered: another CA in the middle, the right CA with another server behind it, an answer for another
plant or key, a clock at which the centre's certificate is not valid, a kill at any moment.

Not covered: who may read the plant's folder (`client.layout`); proxies, which are not used.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from client.identity import AUTHORITY, CERTIFICATE, IDENTITY
from client.link.files import LINK
from common.errors import EngineError, IdentityError, StateError, TransferlineError
from common.files import read_json, sync_folder, write_atomic, write_json
from common.pki import (
    TOLERANCE,
    Role,
    Trust,
    fingerprint,
    make_identity,
    make_link_key,
    make_request,
)
from common.pki.certificate import CHAIN_LIMIT, key_fingerprint, read_certificate
from common.pki.keys import IDENTITY_KEY, LINK_KEY, LINK_PUBLIC
from common.signing import Signer, seal
from common.token import ADDRESS, JOIN, PROTOCOL, Refusal, Token, join_fields, secret_hash
from common.wire import enrolment_pb2 as wire
from common.wire.enrolment_pb2_grpc import EnrolmentStub

JOINING, JOINED, TOKEN = "joining", "joined.json", "token"

CONNECT = 10.0  #: seconds to reach the centre
ANSWER = 60.0  #: seconds for its answer: it has to tell the engine
REPLY_LIMIT = 2**20  #: bytes of an answer

_UNTIMELY = (9, 10)  #: OpenSSL's codes: not valid yet, expired
ReplyT = TypeVar("ReplyT")

_EXPLAINED = {
    Refusal.PROTOCOL: "plant and centre must run the same version, they do not; install the "
    "centre's",
    Refusal.REQUEST: "request must be sound and signed by this plant's key, the centre got "
    "another; its log says more, try again",
    Refusal.TOKEN: "token must be new, for this plant and not expired, the centre refused it; ask "
    "the operator for a new one",
    Refusal.KEYS: "link key must be a new one, the centre's engine refused it; ask the operator "
    "for a new token",
    Refusal.CERTIFICATE: "certificate must be the plant's last one and not expired, the centre "
    "refused it; ask the operator to revoke and readmit the plant, then join with the new token",
    Refusal.REVOKED: "plant must take part in the federation, the centre has revoked it; ask the "
    "operator to readmit it, then join with the new token",
    Refusal.BUSY: "centre must not be asked so often, it refuses for now; wait a minute",
    Refusal.CENTRE: "centre could not do it, the fault is its own; ask the operator, its log says "
    "more, then try again",
}
_PASSING = (Refusal.BUSY, Refusal.CENTRE)  #: trying again may help


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What a plant is told when it joins.

    Attributes
    ----------
    fleet, enrolment : addresses of the centre, ``host:port``.
    task : federation.toml's settings, JSON.
    """

    plant: str
    federation: str
    fleet: str
    enrolment: str
    task: str


@dataclass(frozen=True, kw_only=True)
class Renewed:
    """What the centre answered to a renewal.

    Attributes
    ----------
    certificate : for the daemon to install.
    authority : the CAs as the centre announced them, for the daemon to install.
    roots : those of them that the pinned CA vouches for, as the link's ``ca.pem``.
    """

    certificate: str
    authority: str
    roots: str


def join(
    token: Token, folder: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Joined:
    """Join a federation; the same token on the same folder again gives the same answer.

    Parameters
    ----------
    folder : of the plant. Written are ``identity/`` (identity.key, identity.pem, ca.pem,
        joined.json) and ``link/`` (link.key, link.pub, ca.pem), all 0600; a plant that was
        readmitted gets new keys.

    Raises
    ------
    IdentityError
        If somebody else answers at the address, or the centre refuses the token.
    EngineError
        If the centre cannot be reached or has a fault: the same token may be tried again.
    StateError
        If the folder cannot be written.
    """
    identity = folder / IDENTITY
    identity.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_same_plant(identity, token.plant)
    if (told := _told(identity, token)) is not None:
        return told
    check_time(token, folder, at=clock())
    waiting = identity / JOINING
    if _told(waiting, token) is None:
        _ask_to_join(token, waiting, clock=clock)
    _settle(folder)
    settled = _told(identity, token)
    assert settled is not None
    return settled


def renew(
    request: str,
    *,
    address: str,
    authority: str,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Renewed:
    """Have the centre renew a certificate.

    Parameters
    ----------
    request : the envelope that the daemon signed.
    address : of enrolment, ``host:port``.
    authority : the pinned CAs, PEM.

    Raises
    ------
    IdentityError
        If somebody else answers at the address, or the centre refuses: revoked, expired.
    EngineError
        If the centre cannot be reached or has a fault: try again later.
    """
    _check_server(address, authority, clock=clock)
    reply = _call(
        address,
        authority,
        lambda stub: stub.Renew(
            wire.RenewRequest(protocol=PROTOCOL, request=request), timeout=ANSWER
        ),
    )
    trust = Trust.of(authority).accept(reply.authority, at=clock())
    return Renewed(certificate=reply.certificate, authority=reply.authority, roots=trust.pem)


def _ask_to_join(token: Token, waiting: Path, *, clock: Callable[[], datetime]) -> None:
    """Have the centre answer, and keep the answer beside the keys; joined.json comes last."""
    mark = waiting / TOKEN
    digest = secret_hash(token.secret)
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(waiting, ignore_errors=True)
        write_atomic(mark, digest.encode(), mode=0o600)
    key, link_key = make_identity(waiting), make_link_key(waiting)
    request = make_request(key, name=token.plant)
    authority = pinned_authority(token, clock=clock)
    message = wire.JoinRequest(
        protocol=PROTOCOL,
        token=token.secret,
        request=request,
        link_key=link_key,
        seal=seal(
            JOIN,
            join_fields(token.secret, request=request, link_key=link_key),
            signer=Signer(key=key),
        ),
    )
    reply: wire.JoinReply = _call(
        token.address, authority, lambda stub: stub.Join(message, timeout=ANSWER)
    )
    trust = Trust.of(authority).accept(reply.authority, at=clock())
    said = trust.verify(reply.certificate, role=Role.PLANT, at=clock())
    for what, got, wanted in (
        ("plant", said.name, token.plant),
        ("key", said.fingerprint, key_fingerprint(key.public_key())),
        ("federation", reply.federation, said.federation),
    ):
        if got != wanted:
            raise IdentityError(
                f"certificate must be for the {what} {wanted}, the centre sent one for {got!a}; "
                "ask the operator"
            )
    if not ADDRESS.fullmatch(reply.fleet_address):
        raise IdentityError(
            f"fleet address must be host:port, the centre sent {reply.fleet_address[:80]!a}; ask "
            "the operator"
        )
    write_atomic(waiting / CERTIFICATE, reply.certificate.encode(), mode=0o600)
    write_atomic(waiting / AUTHORITY, trust.pem.encode(), mode=0o600)
    told = Joined(
        plant=token.plant,
        federation=said.federation,
        fleet=reply.fleet_address,
        enrolment=token.address,
        task=reply.task,
    )
    write_json(waiting / JOINED, {"token": digest, **asdict(told)})


def _settle(folder: Path) -> None:
    """Put keys and answer where they belong; a second time does the same."""
    identity, link = folder / IDENTITY, folder / LINK
    waiting = identity / JOINING
    try:
        for name, place in (
            (IDENTITY_KEY, identity),
            (CERTIFICATE, identity),
            (AUTHORITY, identity),
            (LINK_KEY, link),
            (LINK_PUBLIC, link),
            (AUTHORITY, link),
            (JOINED, identity),
        ):
            write_atomic(place / name, (waiting / name).read_bytes(), mode=0o600)
        shutil.rmtree(waiting)
        sync_folder(identity)
    except OSError as error:
        raise StateError(
            f"cannot use {waiting}: {error.strerror}; free or unlock the folder, then join again "
            "with the same token"
        ) from error


def _told(folder: Path, token: Token) -> Joined | None:
    """Return what the centre answered to this token, None if it has not."""
    if not (folder / JOINED).exists():
        return None
    fields: dict[str, Any] = read_json(folder / JOINED)
    return Joined(**fields) if fields.pop("token", "") == secret_hash(token.secret) else None


def _check_same_plant(identity: Path, name: str) -> None:
    path = identity / CERTIFICATE
    if not path.exists():
        return
    held = read_certificate(path.read_text("ascii", errors="replace"))
    if held.name != name:
        raise IdentityError(
            f"{identity.parent} must be the folder of plant {name}, got that of {held.name}; "
            "choose another with --dir"
        )


def check_time(token: Token, folder: Path, *, at: datetime) -> None:
    """Return if a token has not ended yet, or was answered in this folder already.

    The centre's clock decides; what it may differ by is left to it.

    Raises
    ------
    IdentityError
        Otherwise.
    """
    identity = folder / IDENTITY
    answered = any(_told(place, token) for place in (identity, identity / JOINING))
    if at > token.expires + TOLERANCE and not answered:
        raise IdentityError(
            f"token must be used in time, it ended at {token.expires:%Y-%m-%d %H:%M} UTC and "
            f"now it is {at.astimezone(UTC):%Y-%m-%d %H:%M}; ask the operator for a new invitation"
        )


def pinned_authority(token: Token, *, clock: Callable[[], datetime]) -> str:
    """Return the CA of the token's fingerprint, PEM, as the centre shows it; nothing is sent yet.

    Raises
    ------
    IdentityError
        If somebody else answers at the address.
    EngineError
        If nobody does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    shown = _handshake(token.address, context, _chain)
    for certificate in shown:
        pem = certificate.public_bytes(Encoding.PEM).decode()
        if fingerprint(pem) == token.authority:
            _check_server(token.address, pem, clock=clock)
            return pem
    raise IdentityError(
        f"centre at {token.address} must show the CA of the token, {token.authority[:16]}, it "
        "shows another; somebody may be in between, nothing was sent: ask the operator"
    )


def _chain(connection: ssl.SSLSocket) -> list[x509.Certificate]:
    """Return the certificates that the other side sent, unverified."""
    if (public := getattr(connection, "get_unverified_chain", None)) is not None:
        sent = public()  # Python 3.13 and later
    else:
        inner = getattr(connection, "_sslobj")  # noqa: B009  # what the public one calls
        sent = [
            ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain()
        ]
    found = []
    for der in sent[: CHAIN_LIMIT + 1]:
        with suppress(ValueError):
            found.append(x509.load_der_x509_certificate(der))
    return found


def _check_server(address: str, authority: str, *, clock: Callable[[], datetime]) -> None:
    """Try TLS with the pinned CAs as the only roots, for errors that say what is wrong."""
    context = ssl.create_default_context(cadata=authority)
    try:
        _handshake(address, context, lambda connection: None)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _UNTIMELY:
            raise IdentityError(
                f"certificate of the centre at {address} must be valid now, "
                f"{clock():%Y-%m-%d %H:%M} UTC, got: {error.verify_message}; set this machine's "
                "clock, else ask the operator"
            ) from error
        raise IdentityError(
            f"centre at {address} must have a certificate of its CA for that address, got: "
            f"{error.verify_message}; somebody may be in between, nothing was sent: ask the "
            "operator"
        ) from error


def _handshake(
    address: str, context: ssl.SSLContext, look: Callable[[ssl.SSLSocket], ReplyT]
) -> ReplyT:
    """Make a TLS connection, look at it, and close it."""
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=CONNECT) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return look(secure)
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _call(address: str, authority: str, ask: Callable[[EnrolmentStub], ReplyT]) -> ReplyT:
    """Make one call with the pinned CAs as the only roots."""
    credentials = grpc.ssl_channel_credentials(authority.encode())
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", REPLY_LIMIT),
    ]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        try:
            return ask(EnrolmentStub(channel))  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            raise _explained(address, error) from error


def _explained(address: str, error: grpc.RpcError) -> TransferlineError:
    """Turn the centre's one word into a line; anything else is the network."""
    assert isinstance(error, grpc.Call)
    said = (error.details() or "").strip()
    if said not in list(Refusal):
        return _unreachable(address, " ".join(said.split())[:200] or error.code().name)
    refusal = Refusal(said)
    kind = EngineError if refusal in _PASSING else IdentityError
    return kind(_EXPLAINED[refusal])


def _unreachable(address: str, why: str) -> EngineError:
    shown = "".join(one if one.isprintable() else "?" for one in why)
    return EngineError(
        f"centre at {address} must answer, got: {shown}; check the address, the firewall and that "
        "the centre is up, then try again"
    )
