"""What both sides draw alike, from the run and the round of an order.

Only raw output of a bit generator is used: numpy promises that its stream stays the same from
version to version, and it does not promise that of distributions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Which update of a run this is; every plant of the cohort has the same."""

    run: str
    round: int

    def words(self, label: str, count: int) -> npt.NDArray[np.uint64]:
        """Return random words, the same at every round of the run and at every plant."""
        key = hashlib.sha256(f"transferline/form/{label}/{self.run}".encode()).digest()[:16]
        return np.random.Philox(key=int.from_bytes(key, "big")).random_raw(count)
