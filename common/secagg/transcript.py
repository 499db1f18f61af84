"""How the protocol's values become bytes: one way to join fields, to hash them, to derive keys.

Every hash, signature and derivation begins with a label of its own and the protocol's version, and
fields are length-prefixed, so that no two different values share an encoding.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = b"transferline secagg 1"


def enc(*fields: bytes) -> bytes:
    """Return the fields, each after its length in 8 bytes."""
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)


def digest(label: str, *fields: bytes | memoryview) -> bytes:
    """Return SHA-256 of labelled fields, joined as `enc` does but not copied; 32 bytes."""
    state = hashlib.sha256(enc(VERSION, label.encode()))
    for field in fields:
        view = memoryview(field).cast("B")
        state.update(len(view).to_bytes(8, "big"))
        state.update(view)
    return state.digest()


def derive(secret: bytes, *, salt: bytes, label: str, fields: tuple[bytes, ...]) -> bytes:
    """Return 32 bytes by HKDF-SHA256 (RFC 5869)."""
    info = enc(VERSION, label.encode(), *fields)
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, kw_only=True, order=True)
class SessionId:
    """Which session: keys are made for one, and never used in another."""

    federation: str
    run: str
    round: int
    attempt: int

    def to_bytes(self) -> bytes:
        numbers = (self.round.to_bytes(8, "big"), self.attempt.to_bytes(8, "big"))
        return enc(self.federation.encode(), self.run.encode(), *numbers)
