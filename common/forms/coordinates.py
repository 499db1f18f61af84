"""Values at places that all plants share, drawn from the order: what can be summed unseen.

The vector is cut into as many blocks as values are sent, and of each block one value is sent. Where
a block begins is drawn from the run, and every round takes the next one: after as many rounds as a
block has values each value was sent once, by all plants in the same round. A plain draw for each
round would leave one value in three unsent by then.

Random masks of this kind: Konečný et al. 2016, https://arxiv.org/abs/1610.05492.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from common.forms.draw import Turn
from common.forms.payload import exactly
from common.forms.values import ValueName, Values
from common.update import Schema, Vector

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """`coordinates` (`common.forms.Form` and `common.forms.Linear`).

    Attributes
    ----------
    share : of the values that are sent, above 0 and at most 1.
    values : how they are written.
    turn : run and round of the order.
    """

    schema: Schema
    share: float
    values: ValueName
    turn: Turn

    @property
    def kept(self) -> int:
        return min(self.schema.size, max(1, math.ceil(self.share * self.schema.size)))

    @property
    def size(self) -> int:
        return Values(self.values).size(self.kept, stretches=len(self.schema.shapes))

    @cached_property
    def places(self) -> Places:
        """Places of the values that are sent, ascending, shape (kept,)."""
        edges = np.arange(self.kept + 1, dtype=np.int64) * self.schema.size // self.kept
        words = self.turn.words("coordinates", self.kept)
        begin = (words >> np.uint64(32)).astype(np.int64)
        places: Places = edges[:-1] + (begin + self.turn.round) % np.diff(edges)
        return places

    def project(self, vector: Vector) -> Vector:
        return vector[self.places]

    def lift(self, values: Vector) -> Vector:
        vector = np.zeros(self.schema.size, np.float32)
        vector[self.places] = values
        return vector

    def encode(self, vector: Vector) -> bytes:
        return Values(self.values).write(self.project(vector), self._lengths)

    def decode(self, payload: bytes) -> Vector:
        return self.lift(Values(self.values).read(exactly(payload, self.size), self._lengths))

    @property
    def _lengths(self) -> Places:
        """Return how many of the values belong to each tensor."""
        ends = np.cumsum(self.schema.lengths)
        return np.diff(np.searchsorted(self.places, ends), prepend=0)
