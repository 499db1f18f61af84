"""How good predicted numbers are, and how sure that is.

Intervals are bootstraps over examples: every example is drawn again as often as there are
examples, and the score is worked out from the weights. Where examples come in groups that are
not independent (windows of one machine), groups are drawn instead of examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import DataError, TrainingError

Array = npt.NDArray[Any]

#: Resamples in one go, so that memory stays small.
_CHUNK = 50


def number_scores(predicted: Array, truth: Array) -> dict[str, Any]:
    """Return all scores of predicted numbers, ready for JSON.

    Parameters
    ----------
    predicted, truth : shape (n, outputs).

    Returns
    -------
    ``r2`` (mean over outputs of the share of variance explained), ``rmse``, ``mae`` and ``bias``
    (mean of predicted minus true), in the units of the truth.

    Raises
    ------
    DataError
        If there are no examples.
    TrainingError
        If a prediction is not finite.
    """
    check(predicted, truth)
    error = predicted.astype(np.float64) - truth
    around = np.square(truth - truth.mean(axis=0, dtype=np.float64)).sum(axis=0)
    return {
        "r2": float(np.mean(1 - np.square(error).sum(axis=0) / np.maximum(around, 1e-12))),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mae": float(np.abs(error).mean()),
        "bias": float(error.mean()),
    }


def check(predicted: Array, truth: Array) -> None:
    """Refuse an empty prediction, and one that is not finite."""
    if not len(truth):
        raise DataError("a prediction must be of at least one example, got none")
    if not np.isfinite(predicted).all():
        raise TrainingError("predictions must be finite, got NaN or infinity; lower learning_rate")


@dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """Numbers that one model predicted, or two on the same examples, to be drawn again.

    Attributes
    ----------
    measure : ``r2``, ``rmse`` or ``mae``.
    truth, one, other : shape (n, outputs); ``other`` is None for one model alone.
    groups : which examples are drawn together, shape (n,); None: each by itself.
    """

    measure: str
    truth: Array
    one: Array
    other: Array | None = None
    groups: Array | None = None

    def value(self) -> float:
        """Return the score of one, minus that of the other."""
        return float(self._score(np.ones((1, len(self.truth))))[0])

    def draw(self, times: int, rng: np.random.Generator) -> Array:
        """Return the score of examples drawn again, shape (times,)."""
        found = [
            self._score(self._weights(min(_CHUNK, times - start), rng))
            for start in range(0, times, _CHUNK)
        ]
        return np.concatenate(found) if found else np.empty(0)

    def _weights(self, times: int, rng: np.random.Generator) -> Array:
        """Say how often each example is drawn, shape (times, n)."""
        size = len(self.truth)
        place = np.arange(size)
        if self.groups is not None:
            place = np.unique(self.groups, return_inverse=True)[1]
            size = int(place.max()) + 1
        drawn = rng.integers(0, size, size=(times, size))
        flat = (drawn + size * np.arange(times)[:, None]).ravel()
        counts = np.bincount(flat, minlength=times * size).reshape(times, size)
        return counts[:, place].astype(np.float64)

    def _score(self, weights: Array) -> Array:
        score = self._of(self.one, weights)
        return score if self.other is None else score - self._of(self.other, weights)

    def _of(self, predicted: Array, weights: Array) -> Array:
        """Return the score by weights of the examples, shape (times,)."""
        error = predicted.astype(np.float64) - self.truth
        total = weights.sum(axis=1, keepdims=True)
        if self.measure == "mae":
            return np.asarray((weights @ np.abs(error) / total).mean(axis=1))
        squared = weights @ np.square(error) / total
        if self.measure == "rmse":
            return np.asarray(np.sqrt(squared.mean(axis=1)))
        truth = self.truth.astype(np.float64) - self.truth.mean(axis=0, dtype=np.float64)
        variance = weights @ np.square(truth) / total - np.square(weights @ truth / total)
        return np.asarray((1 - squared / np.maximum(variance, 1e-12)).mean(axis=1))
