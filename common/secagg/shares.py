"""Shamir's secret sharing of 32-byte secrets, over the integers modulo a prime above 2^256.

A. Shamir, "How to share a secret", Communications of the ACM 22, 1979. Any ``threshold`` shares
give the secret back, fewer say nothing about it. A wrong share gives a wrong secret without an
error: who recovers must verify the result against a commitment (`common.secagg.coordinator`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from common.errors import AggregationError

PRIME = 2**256 + 297  #: the smallest one above 2^256
SECRET = 32  #: bytes
SHARE = 33  #: bytes


def split(secret: bytes, *, threshold: int, count: int) -> list[bytes]:
    """Return ``count`` shares; the one at position i belongs to index i + 1.

    Parameters
    ----------
    secret : 32 bytes.
    threshold : shares that give it back, 1 to ``count``.
    """
    if len(secret) != SECRET or not 1 <= threshold <= count:
        raise AggregationError(
            f"a secret of {SECRET} bytes must be shared with 1 <= threshold <= count, got "
            f"{len(secret)} bytes, {threshold} and {count}"
        )
    # Coefficients from the highest power down; the last is the secret.
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial.append(int.from_bytes(secret, "big"))
    return [_at(polynomial, index).to_bytes(SHARE, "big") for index in range(1, count + 1)]


def recover(shares: Mapping[int, bytes], *, threshold: int) -> bytes | None:
    """Return the secret from exactly ``threshold`` shares by index, or None if they give none.

    Parameters
    ----------
    shares : by index from 1, as in `split`. An index comes from the roster, never from a message:
        index 0 is the secret itself.

    Raises
    ------
    AggregationError
        If there are not exactly ``threshold`` shares, or an index is below 1.
    """
    if len(shares) != threshold or min(shares) < 1:
        raise AggregationError(
            f"exactly {threshold} shares with indices from 1 must be there, got {sorted(shares)}"
        )
    value = at(shares, 0)
    return value[1:] if value[0] == 0 else None


def at(shares: Mapping[int, bytes], place: int) -> bytes:
    """Return the value at ``place`` of the polynomial through shares, as `SHARE` bytes."""
    total = 0
    for index, share in shares.items():
        above = below = 1
        for other in shares:
            if other != index:
                above = above * (place - other) % PRIME
                below = below * (index - other) % PRIME
        total += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    return (total % PRIME).to_bytes(SHARE, "big")


def _at(polynomial: list[int], index: int) -> int:
    value = 0
    for coefficient in polynomial:
        value = (value * index + coefficient) % PRIME
    return value
