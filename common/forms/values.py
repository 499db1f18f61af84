"""How the single values of a form become bytes: 4, 2 or 1 each.

`int8` has a scale for each stretch (a tensor, or what is sent of it): the largest absolute value of
the stretch is 127. `fp16` has 11 bits of every value above 6e-5 and steps of 6e-8 below. What is
beyond its range of 65504 is sent as that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.update import Vector

ValueName = Literal["fp32", "fp16", "int8"]
Lengths = Sequence[int] | npt.NDArray[np.int64]

_WIDTH: dict[ValueName, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_LARGEST = np.float32(np.finfo(np.float16).max)
_STEPS = np.float32(127)


@dataclass(frozen=True)
class Values:
    """Writes and reads values; the sum of the stretches' lengths is their number."""

    name: ValueName

    def size(self, count: int, *, stretches: int) -> int:
        """Return the bytes of so many values in so many stretches."""
        scales = 4 * stretches if self.name == "int8" else 0
        return count * _WIDTH[self.name] + scales

    def write(self, values: Vector, lengths: Lengths) -> bytes:
        """Return the bytes of finite float32 values."""
        if self.name == "fp32":
            return values.astype("<f4").tobytes()
        if self.name == "fp16":
            return np.clip(values, -_LARGEST, _LARGEST).astype("<f2").tobytes()
        scales = np.zeros(len(lengths), np.float32)
        steps = np.empty(values.size, np.int8)
        for number, place in enumerate(_places(lengths)):
            part = values[place]
            # A scale is at least the smallest normal number, so that no quotient is beyond 127.
            scales[number] = max(np.abs(part).max(initial=0) / _STEPS, np.finfo(np.float32).tiny)
            steps[place] = np.rint(np.clip(part / scales[number], -_STEPS, _STEPS))
        return scales.astype("<f4").tobytes() + steps.tobytes()

    def read(self, data: memoryview, lengths: Lengths) -> Vector:
        """Return the values of exactly ``size`` bytes, float32; they need not be finite."""
        if self.name == "fp32":
            return np.frombuffer(data, "<f4").astype(np.float32, copy=False)
        if self.name == "fp16":
            return np.frombuffer(data, "<f2").astype(np.float32)
        scales = np.frombuffer(data[: 4 * len(lengths)], "<f4")
        values = np.frombuffer(data[4 * len(lengths) :], np.int8).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # found by whoever admits the update
            for scale, place in zip(scales, _places(lengths), strict=True):
                values[place] *= scale
        return values


def _places(lengths: Lengths) -> Iterator[slice]:
    start = 0
    for length in lengths:
        yield slice(start, start + int(length))
        start += int(length)
