"""The line to the centre's enrolment: TLS with the pinned CA as the only root, and its refusals.

`pinned_authority` reads the CA that the centre shows and compares it with the token's fingerprint;
whatever is sent, is sent by `call` over a connection that has that CA as the only root.

Covered: another CA in the middle, the right CA with another server behind it, a clock at which the
centre's certificate is not valid. Not covered: proxies, which are not used.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import EngineError, IdentityError, TransferlineError
from common.pki import fingerprint
from common.pki.certificate import CHAIN_LIMIT
from common.token import Refusal, Token
from common.wire.enrolment_pb2_grpc import EnrolmentStub

CONNECT = 10.0  #: seconds to reach the centre
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
            check_server(token.address, pem, clock=clock)
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


def check_server(address: str, authority: str, *, clock: Callable[[], datetime]) -> None:
    """Try TLS with the pinned CAs as the only roots, for errors that say what is wrong.

    Raises
    ------
    IdentityError, EngineError
        As `pinned_authority`; the first also where the certificate is not valid now.
    """
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


def call(address: str, authority: str, ask: Callable[[EnrolmentStub], ReplyT]) -> ReplyT:
    """Make one call with the pinned CAs as the only roots.

    Raises
    ------
    IdentityError
        If the centre refuses.
    EngineError
        If it cannot be reached or has a fault: trying again may help.
    """
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
