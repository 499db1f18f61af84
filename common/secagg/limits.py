"""What a plant demands of a sum, and what it remembers of sums over a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from common.secagg.transcript import SessionId


class Record(Protocol):
    """What a plant remembers over a restart."""

    def begin(self, sid: SessionId) -> None:
        """Store that a session was begun; AggregationError unless it is later than the last."""
        ...

    def check(self, release: str, *, most: int) -> None:
        """Raise AggregationError if so many vectors went out for a release already."""
        ...

    def contribute(self, release: str, *, most: int) -> None:
        """Store that one more vector goes out for a release; as `check` if too many did."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the plant demands of a sum, whatever an order says.

    Attributes
    ----------
    accepted : fingerprints of the identities that the plant engineer agreed to sum with, hex.
    minimum_cohort : fewest plants of a sum, itself included.
    bound, bits, max_weight : largest that an order's encoding may have.
    contributions : most vectors that go out for one release.
    """

    accepted: frozenset[str]
    minimum_cohort: int
    bound: float
    bits: int = 32
    max_weight: int = 1_000_000
    contributions: int = 4
