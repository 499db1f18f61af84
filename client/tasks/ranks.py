"""How well scores rank defective parts above good ones, and how sure that is.

The AUROC is the mean over defective parts of the share of good ones that they are above (Mann and
Whitney 1947). Its interval is a bootstrap that draws good and defective parts again, each as often
as there are parts, or groups of them where they come in groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tasks.groups import drawn
from common.errors import DataError, TrainingError

Array = npt.NDArray[Any]

#: Resamples in one go, so that memory stays small.
_CHUNK = 250


def placements(scores: Array, truth: Array) -> Array:
    """Return for each part the share of the other class that it is on the right side of.

    Parameters
    ----------
    scores : higher for defective parts, shape (n,).
    truth : 0 for good and 1 for defective, shape (n,); both occur.

    Returns
    -------
    float64, shape (n,); parts of equal score count one half. The mean of either class is the AUROC.
    """
    bad = truth == 1
    above = _wins(scores[bad], scores[~bad])
    found = np.empty(len(scores))
    found[bad], found[~bad] = above.mean(axis=1), above.mean(axis=0)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """Scores of one model, or of two on the same parts, to be drawn again.

    Attributes
    ----------
    truth : 0 for good and 1 for defective, shape (n,).
    one, other : higher for defective parts, shape (n,); ``other`` is None for one model alone.
    groups : which parts are drawn together, shape (n,); None: each by itself.
    """

    truth: Array
    one: Array
    other: Array | None = None
    groups: Array | None = None

    def __post_init__(self) -> None:
        if set(np.unique(self.truth)) != {0, 1}:
            raise DataError("an AUROC must be of good and of defective parts, got one kind alone")
        if not np.isfinite(self.one).all():
            raise TrainingError("scores must be finite, got NaN or infinity; lower learning_rate")

    def value(self) -> float:
        """Return the AUROC of one, minus that of the other."""
        return float(self._margin().mean())

    def draw(self, times: int, rng: np.random.Generator) -> Array:
        """Return the AUROC of parts drawn again, shape (times,)."""
        margin = self._margin()
        found = [np.empty(0)]
        for start in range(0, times, _CHUNK):
            size = min(_CHUNK, times - start)
            if self.groups is None:
                bad, good = (_counts(size, side, rng) for side in margin.shape)
            else:
                weights = drawn(self.groups, self.truth, times=size, rng=rng)
                bad, good = weights[:, self.truth == 1], weights[:, self.truth != 1]
            pairs = bad.sum(axis=1) * good.sum(axis=1)
            found.append(((bad @ margin) * good).sum(axis=1) / pairs)
        return np.concatenate(found)

    def _margin(self) -> Array:
        """Return wins of defective over good parts, of one minus of the other, (bad, good)."""
        bad = self.truth == 1
        margin = _wins(self.one[bad], self.one[~bad])
        return margin if self.other is None else margin - _wins(self.other[bad], self.other[~bad])


def _wins(bad: Array, good: Array) -> Array:
    difference = bad[:, None] - good[None, :]
    return np.asarray((np.sign(difference) + 1) / 2, dtype=np.float64)


def _counts(times: int, size: int, rng: np.random.Generator) -> Array:
    """Say how often each of ``size`` parts is drawn, shape (times, size)."""
    return rng.multinomial(size, np.full(size, 1 / size), size=times).astype(np.float64)
