"""Who takes part, and the keys of a session.

Secrets are drawn from the operating system, live in memory only, and are erased when they have been
used. ``c`` and ``s`` differ because ``s`` is revealed when a plant drops out, and must not open
ciphertexts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from common.errors import AggregationError
from common.secagg.transcript import SessionId, derive, enc

NONCE = bytes(12)  #: each share key encrypts once
TAG = 16  #: bytes by which a ciphertext is longer


@dataclass(frozen=True, kw_only=True, repr=False)
class Secrets:
    """One plant's secrets for one session; never printed, never stored."""

    c: X25519PrivateKey
    s: X25519PrivateKey
    b: bytes

    @classmethod
    def draw(cls) -> Secrets:
        return cls(c=X25519PrivateKey.generate(), s=X25519PrivateKey.generate(), b=os.urandom(32))

    def commitment(self, sid: SessionId, plant: bytes) -> bytes:
        """Return what binds ``b`` without telling it."""
        return commit(self.b, sid, plant)


def commit(b: bytes, sid: SessionId, plant: bytes) -> bytes:
    """Return the commitment that an advert carries."""
    return derive(b, salt=sid.to_bytes(), label="commit", fields=(plant,))


def check_key(theirs: bytes) -> None:
    """Refuse a public key with which everybody knows what is exchanged.

    Raises
    ------
    AggregationError
        If it is a point of small order.
    """
    _exchange(X25519PrivateKey.generate(), theirs)


def share_key(
    own: X25519PrivateKey, theirs: bytes, *, roster: bytes, way: tuple[bytes, bytes]
) -> bytes:
    """Return the key under which shares go from ``way[0]`` to ``way[1]``."""
    return derive(_exchange(own, theirs), salt=roster, label="share", fields=way)


def pair_key(
    own: X25519PrivateKey, theirs: bytes, *, order: bytes, pair: tuple[bytes, bytes]
) -> bytes:
    """Return the key of the mask that two plants share; ``pair`` is sorted."""
    assert pair[0] < pair[1]
    return derive(_exchange(own, theirs), salt=order, label="pair", fields=pair)


def self_key(b: bytes, *, order: bytes, plant: bytes) -> bytes:
    """Return the key of the mask that only its plant knows."""
    return derive(b, salt=order, label="self", fields=(plant,))


def encrypt(key: bytes, plain: bytes, *, about: tuple[bytes, ...]) -> bytes:
    """Return the ciphertext, bound to what it is about."""
    return ChaCha20Poly1305(key).encrypt(NONCE, plain, enc(*about))


def decrypt(key: bytes, sealed: bytes, *, about: tuple[bytes, ...]) -> bytes:
    """Open a ciphertext.

    Raises
    ------
    AggregationError
        If it was made with another key, for another session or pair, or altered.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(NONCE, sealed, enc(*about))
    except InvalidTag as error:
        raise AggregationError("a share must open with the key of its pair; it does not") from error


def _exchange(own: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:  # a point of small order
        raise AggregationError("a session key must be a sound X25519 key, got another") from error
