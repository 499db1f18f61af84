"""Plant-level privacy: noise over a clipped update, on a grid of whole numbers.

McMahan et al. 2018, https://arxiv.org/abs/1710.06963, with the noise of Kairouz, Liu and Steinke
2021, "The Distributed Discrete Gaussian Mechanism", https://arxiv.org/abs/2102.06387: the update is
brought to a grid and gets discrete Gaussian noise. Without secure aggregation the noise at each
plant is the whole. With it the sum carries it: each plant adds its part, such that the parts of
the ``honest`` plants that are in any sum (t - c, docs/security.md) make the whole; the grid is that
of the sum's encoding, so that the masked integers are exactly these.

Values go to the grid towards zero, so that no update becomes longer by it and the noise needs no
allowance for that. The sum of discrete Gaussians is none exactly: by theorem 1 of the paper it is
further off by 10 (m - 1) exp(-2 pi**2 s**2 / 2) a value for m plants and s steps of standard
deviation, which is below 1e-60 from the 4 steps on that the configuration demands
(`common.config.privacy.FEWEST_STEPS`).

Not covered: values that the settings keep still, which are sent as zeros and depend on no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import TrainingError
from common.noise import Noise
from common.update import Update

#: Steps in a standard deviation where the grid is free to choose; float32 holds such values.
STEPS = 2.0**16

_EXACT = 2**24  #: whole numbers that float32 holds


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Add noise to all that moves, as discrete as what is sent.

    Attributes
    ----------
    multiplier : standard deviation of the whole noise, in units of ``length``.
    length : longest update.
    honest : plants whose parts make the whole noise; 1 without secure aggregation.
    step : of the grid; 0 to choose one.
    """

    multiplier: float
    length: float
    honest: int = 1
    step: float = 0.0
    noise: Noise | None = field(default=None, repr=False)

    @property
    def deviation(self) -> float:
        """Standard deviation of this plant's part, in the units of ``length``."""
        return self.multiplier * self.length / math.sqrt(self.honest)

    def apply(self, update: Update) -> Update:
        """Return the update with noise; the values of tensors that do not move become zero.

        Raises
        ------
        TrainingError
            If the update is not finite.
        """
        moving = np.zeros(update.schema.size, dtype=bool)
        for name, _, place in update.schema.slices():
            moving[place] = name in update.moving
        values = update.vector[moving].astype(np.float64)
        if not np.isfinite(values).all():
            raise TrainingError("update must be finite, got NaN or infinity; nothing was sent")
        step = self.step or self.deviation / STEPS
        whole = np.trunc(values / step)
        drawn = (self.noise or Noise()).discrete(values.size, scale=self.deviation / step)
        vector = np.zeros(update.schema.size, dtype=np.float32)
        vector[moving] = np.clip(whole + drawn, -_EXACT, _EXACT) * step
        return replace(update, vector=vector)
