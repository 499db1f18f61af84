"""The NASA score of remaining useful life: late warnings cost more than early ones.

Saxena, Goebel, Simon and Eklund, "Damage propagation modeling for aircraft engine run-to-failure
simulation", PHM 2008, https://doi.org/10.1109/PHM.2008.4711414. One engine that is far off
outweighs a hundred that are right, so it belongs beside the root mean squared error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: A prediction so many cycles too early, or too late, costs e - 1.
EARLY, LATE = 13.0, 10.0


def nasa_score(predicted: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Return the sum over all units, 0 at best."""
    late = np.asarray(predicted, dtype=np.float64).ravel() - np.asarray(truth).ravel()
    return float(np.expm1(np.where(late < 0, -late / EARLY, late / LATE)).sum())
