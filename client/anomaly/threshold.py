"""Where to draw the line when there are only good parts: a threshold with a promise.

n good parts that the memory has not seen are scored, and the threshold is the k-th smallest of
their scores, k = ⌈(n + 1)(1 − budget)⌉. A part is rejected if its score is above. If the parts to
come are like these n (exchangeable), a good one is rejected with a probability of at most the
budget, whatever the distribution of scores: split conformal prediction (Vovk, Gammerman and
Shafer, "Algorithmic Learning in a Random World", 2005; Laxhammar and Falkman 2010 for anomalies).

What the promise is not. It is a mean over calibrations: for the n parts at hand the true rate is
drawn from Beta(n + 1 − k, k), so with few parts it may be well above the budget; `highest_rate` is
its upper end. It breaks when good parts change: new material, new light, another camera. It says
nothing about defective parts, whose escape rate only defective parts can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import DataError

#: Confidence of `Threshold.highest_rate`, one-sided.
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Scores above ``value`` are rejected.

    Attributes
    ----------
    parts : good parts that it was calibrated on.
    budget : share of good parts that may be rejected.
    """

    value: float
    parts: int
    budget: float

    @property
    def expected_rate(self) -> float:
        """Share of good parts that will be rejected, in the mean over calibrations."""
        return (self.parts + 1 - rank(self.parts, budget=self.budget)) / (self.parts + 1)

    @property
    def highest_rate(self) -> float:
        """Share that will be rejected at most, with a confidence of 95 % in this calibration."""
        above = self.parts + 1 - rank(self.parts, budget=self.budget)
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if _at_least(above, self.parts, middle) < CONFIDENCE:
                low = middle
            else:
                high = middle
        return high


def fewest(budget: float) -> int:
    """Return how many good parts a threshold of this budget must be calibrated on."""
    return math.ceil(1 / budget - 1 - 1e-9)


def rank(parts: int, *, budget: float) -> int:
    """Return k: the threshold is the k-th smallest of the scores."""
    # 20 * 0.95 is 19.000000000000004 in some orders of multiplication.
    return math.ceil((parts + 1) * (1 - budget) - 1e-9)


def calibrate(scores: npt.NDArray[np.floating], *, budget: float) -> Threshold:
    """Draw the line.

    Parameters
    ----------
    scores : of good parts that neither the memory nor the training has seen, shape (n,).
    budget : share of good parts that may be rejected, between 0 and 1.

    Raises
    ------
    DataError
        If there are fewer parts than `fewest`: then no threshold keeps the promise.
    """
    if len(scores) < fewest(budget):
        raise DataError(
            f"good parts for the threshold must be at least {fewest(budget)} for a false-reject "
            f"budget of {budget:g}, got {len(scores)}; add good parts or raise the budget"
        )
    place = rank(len(scores), budget=budget)
    return Threshold(value=float(np.sort(scores)[place - 1]), parts=len(scores), budget=budget)


def _at_least(hits: int, tries: int, chance: float) -> float:
    """Return the probability of at least so many hits."""
    if not 0 < chance < 1:
        return float(chance >= 1 or hits == 0)
    logs = (
        math.lgamma(tries + 1)
        - math.lgamma(k + 1)
        - math.lgamma(tries - k + 1)
        + k * math.log(chance)
        + (tries - k) * math.log1p(-chance)
        for k in range(hits)
    )
    return 1.0 - math.fsum(math.exp(value) for value in logs)
