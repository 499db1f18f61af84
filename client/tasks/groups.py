"""Examples drawn again by group: those of one group (a board, a batch, a file) are one evidence.

Groups are drawn among those that hold the same classes, so that no class vanishes. Where only one
holds them there is nothing to draw it from, and its examples are drawn instead: an interval from so
few groups is too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Resamples in one go, so that memory stays small.
_CHUNK = 50


def drawn(groups: Array, truth: Array, *, times: int, rng: np.random.Generator) -> Array:
    """Say how often each example is drawn.

    Parameters
    ----------
    groups, truth : group and class of each example, shape (n,).

    Returns
    -------
    float64, shape (times, n).
    """
    place = np.unique(groups, return_inverse=True)[1]
    label = np.unique(truth, return_inverse=True)[1]
    holds = np.zeros((place.max() + 1, label.max() + 1), dtype=bool)
    holds[place, label] = True
    kind = np.unique(holds, axis=0, return_inverse=True)[1].reshape(-1)
    alone = np.bincount(kind)[kind[place]] == 1
    # What is drawn: a whole group, or an example of a class of a group without its like.
    unit = np.where(alone, len(holds) + np.arange(len(place)), place)
    among = np.where(alone, kind.max() + 1 + place * holds.shape[1] + label, kind[place])
    weights = np.empty((times, len(place)))
    for one in np.unique(among):
        inside = np.flatnonzero(among == one)
        units, position = np.unique(unit[inside], return_inverse=True)
        size = len(units)
        counts = rng.multinomial(size, np.full(size, 1 / size), size=times)
        weights[:, inside] = counts[:, position]
    return weights


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedTally:
    """What one model, or one of two, gets right of examples in groups.

    Attributes
    ----------
    truth : class of each example, shape (n,).
    right : 1 where the one model is right alone, -1 where the other is, otherwise 0, shape (n,).
    groups : shape (n,).
    plain : accuracy, which weighs examples alike; otherwise classes are.
    """

    truth: Array
    right: Array
    groups: Array
    plain: bool

    def value(self) -> float:
        """Return the score of one, minus that of the other."""
        return float(self._score(np.ones((1, len(self.truth))))[0])

    def draw(self, times: int, rng: np.random.Generator) -> Array:
        """Return the score of groups drawn again, shape (times,)."""
        found = [np.empty(0)]
        for start in range(0, times, _CHUNK):
            size = min(_CHUNK, times - start)
            found.append(self._score(drawn(self.groups, self.truth, times=size, rng=rng)))
        return np.concatenate(found)

    def _score(self, weights: Array) -> Array:
        label = np.zeros(len(self.truth)) if self.plain else self.truth
        parts = [
            weights[:, label == one] @ self.right[label == one] / weights[:, label == one].sum(1)
            for one in np.unique(label)
        ]
        return np.asarray(np.mean(parts, axis=0))
