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

    def contribute(self, release: str) -> None:
        """Store that one more vector goes out for a release; AggregationError if too many did."""
        ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the plant demands of a sum, whatever an order says.

    Attributes
    ----------
    accepted : fingerprints of the identities that the plant engineer agreed to sum with, hex.
    minimum_cohort : fewest plants of a sum, itself included.
    bound, bits, max_weight : largest that an order's encoding may have.
    """

    accepted: frozenset[str]
    minimum_cohort: int
    bound: float
    bits: int = 32
    max_weight: int = 1_000_000
