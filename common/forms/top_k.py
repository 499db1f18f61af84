"""The largest values of an update, and which they are.

Which: a bit for every value where that is shorter, else four bytes for every value sent. Sparse
updates with memory: Stich et al. 2018, https://arxiv.org/abs/1809.07599.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import UpdateError
from common.forms.payload import exactly
from common.forms.values import ValueName, Values
from common.update import Schema, Vector

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TopK:
    """`top_k` (`common.forms.Form`).

    Attributes
    ----------
    share : of the values that are sent, above 0 and at most 1.
    values : how they are written.
    """

    schema: Schema
    share: float
    values: ValueName

    @property
    def kept(self) -> int:
        """Values that are sent."""
        return max(1, math.ceil(self.share * self.schema.size))

    @property
    def size(self) -> int:
        stretches = len(self.schema.shapes)
        return self._which + Values(self.values).size(self.kept, stretches=stretches)

    def encode(self, vector: Vector) -> bytes:
        large = np.abs(vector)
        # Those above the k-th largest value, then the first of those equal to it.
        edge = np.partition(large, large.size - self.kept)[large.size - self.kept]
        chosen = large > edge
        equal = np.flatnonzero(large == edge)
        chosen[equal[: self.kept - int(chosen.sum())]] = True
        places = np.flatnonzero(chosen)
        written = Values(self.values).write(vector[places], self._lengths(places))
        which = np.packbits(chosen) if self._by_bits else places.astype("<u4")
        return which.tobytes() + written

    def decode(self, payload: bytes) -> Vector:
        data = exactly(payload, self.size)
        places = self._places(data[: self._which])
        vector = np.zeros(self.schema.size, np.float32)
        vector[places] = Values(self.values).read(data[self._which :], self._lengths(places))
        return vector

    @property
    def _by_bits(self) -> bool:
        return self.schema.size < 32 * self.kept or self.schema.size >= 2**32

    @property
    def _which(self) -> int:
        """Bytes that say which values are sent."""
        return -(-self.schema.size // 8) if self._by_bits else 4 * self.kept

    def _places(self, data: memoryview) -> Places:
        """Read which values are sent; ascending, each once, within the vector."""
        if self._by_bits:
            bits = np.unpackbits(np.frombuffer(data, np.uint8))
            places = np.flatnonzero(bits)
        else:
            places = np.frombuffer(data, "<u4").astype(np.int64)
        if (
            places.size != self.kept
            or places[-1] >= self.schema.size
            or (places[1:] <= places[:-1]).any()
        ):
            raise UpdateError(
                f"update must name {self.kept} places of {self.schema.size}, each once and in order"
            )
        return places

    def _lengths(self, places: Places) -> Places:
        """Return how many of the values belong to each tensor."""
        ends = np.cumsum(self.schema.lengths)
        return np.diff(np.searchsorted(places, ends), prepend=0)
