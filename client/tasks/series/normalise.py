"""Channels normalised at the plant, by operating condition.

A turbine at take-off and at cruise are two different machines to its sensors: what is a fault at
the one is normal at the other. So the plant finds its operating conditions (k-means on the
settings), and normalises each channel by the mean and deviation that it has in that condition. All
of it is fitted on training data only, and never leaves the plant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import PlainValidator

from client.tasks.series.extra import scipy

Array = npt.NDArray[Any]
#: An array that is read again from the lists that JSON has of it.
Kept = Annotated[Array, PlainValidator(np.asarray)]

#: A deviation below this share of a channel's largest absolute value is rounding: it is constant.
CONSTANT = 1e-6
#: Samples that k-means looks at, at most.
_MOST = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Normaliser:
    """What a plant knows of its channels.

    Attributes
    ----------
    centres : of the operating conditions, in settings divided by ``scale``, shape (k, settings).
    scale : deviation of each setting, shape (settings,).
    mean, spread : by condition, shape (k, channels); the spread of a constant channel is infinite,
        so that it becomes 0 whatever it says later.
    """

    centres: Kept
    scale: Kept
    mean: Kept
    spread: Kept

    @classmethod
    def fit(cls, values: Array, settings: Array, *, conditions: int) -> Normaliser:
        """Fit on training samples.

        Parameters
        ----------
        values : shape (samples, channels).
        settings : shape (samples, settings).
        conditions : how many operating conditions to look for; 1: none.
        """
        scale = settings.std(axis=0) if settings.size else np.ones(settings.shape[1])
        scale = np.where(scale > rounding(settings), scale, 1.0)
        centres = np.zeros((1, settings.shape[1]))
        if conditions > 1 and settings.shape[1]:
            centres = _centres(settings / scale, conditions)
        found = cls(centres=centres, scale=scale, mean=values[:1] * 0, spread=values[:1] * 0 + 1)
        condition = found.condition(settings)
        mean = np.zeros((len(centres), values.shape[1]))
        spread = np.full_like(mean, np.inf)
        for place in range(len(centres)):
            rows = values[condition == place]
            if len(rows):
                mean[place], deviation = rows.mean(axis=0), rows.std(axis=0)
                varies = deviation > rounding(values)
                spread[place, varies] = deviation[varies]
        return cls(centres=centres, scale=scale, mean=mean, spread=spread)

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Whether a channel never moves in any condition, shape (channels,)."""
        return np.asarray(np.isinf(self.spread).all(axis=0))

    def condition(self, settings: Array) -> npt.NDArray[np.intp]:
        """Return the nearest operating condition of each sample."""
        if len(self.centres) == 1:
            return np.zeros(len(settings), dtype=np.intp)
        scaled = settings / self.scale
        distances = ((scaled[:, None, :] - self.centres) ** 2).sum(axis=2)
        return np.asarray(distances.argmin(axis=1))

    def __call__(self, values: Array, settings: Array) -> Array:
        """Return normalised values, shape (samples, channels)."""
        place = self.condition(settings)
        return np.asarray((values - self.mean[place]) / self.spread[place])


def rounding(values: Array) -> Array:
    """Return the deviation up to which each column is constant, in its own units."""
    return np.asarray(CONSTANT * np.abs(values).max(axis=0))


def _centres(settings: Array, conditions: int) -> Array:
    """Find centres by k-means; fewer than asked for where the settings differ less."""
    rows = settings[:: max(1, len(settings) // _MOST)]
    distinct = np.unique(rows.round(6), axis=0)
    if len(distinct) <= conditions:
        return np.asarray(distinct)
    best: Array | None = None
    least = np.inf
    for start in range(5):  # a start may put two centres into one condition
        centres, place = scipy("cluster.vq").kmeans2(
            rows, conditions, minit="++", rng=np.random.default_rng(start), missing="warn"
        )
        within = float(((rows - centres[place]) ** 2).sum())
        if within < least:
            best, least = centres, within
    assert best is not None
    return np.asarray(best)
