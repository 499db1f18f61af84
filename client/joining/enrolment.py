"""How a plant joins a federation, and how its link fetches fresh certificates.

`join` makes the plant's keys, sees that the centre shows the CA of the token's fingerprint
(`client.joining.line`), and only then connects, with that CA as the only root, and sends the token.
The keys wait in ``identity/joining`` until the centre has answered: a join that was cut off goes on
with the same keys, and one that is refused leaves what was there.

`renew` carries a renewal that the daemon signed (`client.identity`) and brings the answer back; it
needs no key, so the link can do it.

Covered: an answer for another plant or key, a kill at any moment. Not covered: who may read the
plant's folder (`client.layout`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.identity import AUTHORITY, CERTIFICATE, IDENTITY
from client.joining.line import call, check_server, pinned_authority
from client.link.files import LINK
from common.errors import IdentityError, StateError
from common.files import read_json, sync_folder, write_atomic, write_json
from common.pki import (
    TOLERANCE,
    Role,
    Trust,
    make_identity,
    make_link_key,
    make_request,
)
from common.pki.certificate import key_fingerprint, read_certificate
from common.pki.keys import IDENTITY_KEY, LINK_KEY, LINK_PUBLIC
from common.signing import Signer, seal
from common.token import ADDRESS, JOIN, PROTOCOL, Token, join_fields, secret_hash
from common.wire import enrolment_pb2 as wire

JOINING, JOINED, TOKEN = "joining", "joined.json", "token"
ANSWER = 60.0  #: seconds for the centre's answer: it has to tell the engine


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
    check_server(address, authority, clock=clock)
    reply = call(
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
    reply: wire.JoinReply = call(
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
