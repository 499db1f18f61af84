"""The exact weighted mean of updates, as they arrive.

Floating-point sums depend on the order of their terms, so two runs in which the plants answer in
another order would give two releases. Here each weighted value is rounded once to a 64-bit
fixed-point integer, and integers are added: the sum has the same bits whatever the order. Secure
aggregation adds integers too, so masked and open rounds share this arithmetic.

Memory is one int64 accumulator and one chunk, however many plants answer.

The mean is FedAvg's: McMahan et al. 2017, https://arxiv.org/abs/1602.05629
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from common.errors import AggregationError, UpdateError
from common.update import Vector

#: Values worked on at a time: 512 KiB of float64, which stays in cache.
CHUNK = 1 << 16

#: The coarsest fixed-point step that is accepted.
COARSEST = Fraction(1, 1 << 24)

_LARGEST = 2**63 - 1
_FINEST_EXPONENT = 126


def scale_for(plants: int, *, max_weight: int, bound: float) -> int:
    """Return the largest power of two by which values can be multiplied so that no sum overflows.

    Each of ``plants`` terms is at most ``max_weight * bound * scale``, and one half for rounding.

    Raises
    ------
    AggregationError
        If the fixed-point step would be coarser than 2**-24.
    """
    room = Fraction(_LARGEST - plants) / (plants * max_weight * Fraction(bound))
    if room * COARSEST < 1:
        raise AggregationError(
            f"plants x max_weight x max_update_norm must be at most 2**39, got {plants} x "
            f"{max_weight} x {bound:g}; lower server.max_weight or server.max_update_norm"
        )
    exponent = (room.numerator // room.denominator).bit_length() - 1
    return 1 << min(exponent, _FINEST_EXPONENT)


class Mean:
    """A weighted mean that does not depend on the order in which its terms arrive.

    Parameters
    ----------
    size : values in a vector.
    plants : how many vectors may come, at most.
    max_weight : a vector counts for at most this many examples.
    bound : the largest absolute value that is accepted.

    Attributes
    ----------
    scale : fixed-point units in 1.0, a power of two.
    weight : sum of the weights counted so far.
    count : vectors counted so far.

    Raises
    ------
    AggregationError
        If the numbers leave too coarse a fixed-point step; see `scale_for`.
    """

    def __init__(self, size: int, *, plants: int, max_weight: int, bound: float) -> None:
        self.scale = scale_for(plants, max_weight=max_weight, bound=bound)
        self.weight = 0
        self.count = 0
        self._plants = plants
        self._max_weight = max_weight
        self._bound = bound
        self._total = np.zeros(size, dtype=np.int64)

    def add(self, vector: Vector, *, weight: int) -> int:
        """Count one vector in and return the weight it counts for, capped.

        A refused vector leaves the sum as it was.

        Parameters
        ----------
        vector : float32, shape (size,).
        weight : at least 1.

        Raises
        ------
        UpdateError
            If the vector has another shape or type, or a value beyond the bound, NaN included.
        AggregationError
            If more vectors come than the scale leaves room for.
        """
        self._check(vector, weight)
        weight = min(weight, self._max_weight)
        # Exact in float64: 24 bits of value, at most 20 of weight, and a power of two.
        factor = float(weight * self.scale)
        for place in self._places():
            part = vector[place].astype(np.float64)
            part *= factor
            np.rint(part, out=part)
            self._total[place] += part.astype(np.int64)
        self.weight += weight
        self.count += 1
        return weight

    def result(self) -> Vector:
        """Return the mean, float32 of shape (size,).

        Raises
        ------
        AggregationError
            If nothing was counted.
        """
        if not self.count:
            raise AggregationError("a mean must have at least one update, got none")
        mean = np.empty(self._total.size, dtype=np.float32)
        divisor = float(self.weight * self.scale)
        for place in self._places():
            mean[place] = self._total[place] / divisor
        return mean

    def _check(self, vector: Vector, weight: int) -> None:
        if vector.dtype != np.float32 or vector.shape != self._total.shape:
            raise UpdateError(
                f"update must be float32 of shape {self._total.shape}, got {vector.dtype} "
                f"{vector.shape}"
            )
        if weight < 1:
            raise UpdateError(f"weight must be at least 1, got {weight}")
        if self.count == self._plants:
            raise AggregationError(f"a mean for {self._plants} plants must not get more updates")
        for place in self._places():
            part = vector[place]
            low, high = float(part.min()), float(part.max())
            # Asked this way round, because every comparison with NaN is false.
            if not (-self._bound <= low and high <= self._bound):
                raise UpdateError(
                    f"values must be within ±{self._bound:g}, got {low:g} to {high:g}"
                )

    def _places(self) -> Iterator[slice]:
        for start in range(0, self._total.size, CHUNK):
            yield slice(start, min(start + CHUNK, self._total.size))
