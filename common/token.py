"""What both sides of enrolment agree on; above all the token that `invite` prints.

The token is one line of text. It holds the secret, the fingerprint of the centre's CA (so that the
plant sends the secret to nobody else), the plant's name, the address of enrolment, and when it
ends. A checksum finds a token that was cut off or mistyped before anything is sent.

Not covered: somebody who reads the token on its way to the plant can join in its place, once; the
plant then sees its own token refused. Send it by a channel that you trust.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from common.errors import IdentityError
from common.pki import Certificate, check_name

PROTOCOL = 1  #: of enrolment.proto
JOIN, RENEWAL = "join", "renewal"  #: kinds of envelopes

PREFIX = "tl1-"
TEXT_LIMIT = 1024  #: characters
SECRET_LIMIT = 128  #: bytes
ADDRESS_LIMIT = 255  #: bytes of an address
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}", re.ASCII)
_SUM = 4  #: bytes of the checksum


class Refusal(StrEnum):
    """Why the centre did not enrol or renew: the one word that a plant gets to see."""

    PROTOCOL = "protocol"  #: another version of the program
    REQUEST = "request"  #: damaged, too large, or signed by another key
    TOKEN = "token"  #: unknown, used, expired, or for another plant
    KEYS = "keys"  #: the engine does not take the link's key
    CERTIFICATE = "certificate"  #: expired, foreign, or replaced
    REVOKED = "revoked"  #: the plant does not take part any more
    BUSY = "busy"  #: too many requests
    CENTRE = "centre"  #: a fault of the centre's own


@dataclass(frozen=True, kw_only=True)
class Token:
    """An invitation.

    Attributes
    ----------
    secret : shown to the centre once; kept out of ``repr``.
    authority : SHA-256 of the CA's certificate, hex.
    plant : whom it is for.
    address : of enrolment, ``host:port``.
    expires : aware; the centre's clock decides.
    """

    secret: str = field(repr=False)
    authority: str
    plant: str
    address: str
    expires: datetime

    def text(self) -> str:
        """Write it as one line.

        Raises
        ------
        IdentityError
            If the address or the name cannot be one.
        """
        if not _sound(self):
            raise IdentityError(
                f"token must have an address of host:port, got {self.address!a}; correct "
                "centre.toml"
            )
        fields = [
            self.secret.encode(),
            bytes.fromhex(self.authority),
            check_name(self.plant).encode(),
            self.address.encode(),
            int(self.expires.timestamp()).to_bytes(8, "big"),
        ]
        body = b"".join(len(one).to_bytes(1, "big") + one for one in fields)
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read the line; blanks around it do not matter.

        Raises
        ------
        IdentityError
            If it is no token, or not a whole one. The message does not show it.
        """
        text = text.strip()
        if not text.startswith(PREFIX) or len(text) > TEXT_LIMIT:
            raise IdentityError(
                f"token must be the line that `transferline-server invite` printed, it begins with "
                f"{PREFIX}; copy it again"
            )
        try:
            coded = text.removeprefix(PREFIX)
            raw = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
            body = raw[:-_SUM]
            if raw[-_SUM:] != _checksum(body):
                raise ValueError("mistyped")
            secret, authority, plant, address, expires = _split(body)
            token = cls(
                secret=secret.decode("ascii"),
                authority=authority.hex(),
                plant=check_name(plant.decode()),
                address=address.decode("ascii"),
                expires=datetime.fromtimestamp(int.from_bytes(expires, "big"), UTC),
            )
        except (ValueError, OverflowError, OSError):
            token = None
        # Written again it must be the same line.
        if token is None or not _sound(token) or token.text() != text:
            # Neither the cause nor the line: both show the secret.
            raise IdentityError(
                "token must be whole, a part is missing or wrong; copy the line again"
            )
        return token


def secret_hash(secret: str) -> str:
    """Return what is kept of a secret: its SHA-256, hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def join_fields(secret: str, *, request: str, link_key: str) -> dict[str, str]:
    """Return what the identity key signs when a plant joins: token, request and link key as one."""
    parts = {"token": secret, "request": request, "link_key": link_key}
    return {name: secret_hash(part) for name, part in parts.items()}


def renewal_due(certificate: Certificate, *, at: datetime) -> bool:
    """Whether more than half of a certificate's time is over."""
    return at >= certificate.not_before + (certificate.not_after - certificate.not_before) / 2


def _sound(token: Token) -> bool:
    return (
        0 < len(token.secret) <= SECRET_LIMIT
        and re.fullmatch(r"[0-9a-f]{64}", token.authority) is not None
        and len(token.address) <= ADDRESS_LIMIT
        and ADDRESS.fullmatch(token.address) is not None
    )


def _split(body: bytes) -> list[bytes]:
    fields = []
    while body:
        length = body[0]
        if len(body) <= length:
            raise ValueError("cut off")
        fields.append(body[1 : 1 + length])
        body = body[1 + length :]
    return fields


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + body).digest()[:_SUM]
