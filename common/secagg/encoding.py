"""From an update to words that can be added under masks, and back from the sum.

A value is weighted, clipped to the bound, scaled to a signed integer of ``bits``, made unsigned by
an offset, and packed into fields of 64-bit words: the lowest fields of all words hold the first
stretch of the vector, the next fields the next. A field is wide enough for the sum over the whole
cohort, so no sum can carry into the next. After the fields come whole words, the lanes: two
constants whose sums must be the number of plants times them, the weight, and the count of values
that were clipped.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import AggregationError, UpdateError
from common.secagg.masks import CHUNK, Words

Vector = npt.NDArray[np.float32]

ONE, MARK = 1, 0x5EC_A66  #: the constant lanes
LANES = 4
_MOST = 100  #: plants


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the vectors of one round become words; the same for each plant of the cohort.

    Attributes
    ----------
    size : values in a vector.
    bits : of one value, sign included, 2 to 32.
    bound : values beyond it are clipped.
    max_weight : of one plant.
    plants : size of the cohort, 1 to 100.
    """

    size: int
    bits: int
    bound: float
    max_weight: int
    plants: int

    def __post_init__(self) -> None:
        """Refuse what could overflow.

        Raises
        ------
        AggregationError
            If a number is out of its range.
        """
        limits = {
            "size": (self.size, 1, 2**40),
            "bits": (self.bits, 2, 32),
            "max_weight": (self.max_weight, 1, (2**32 - 1) // _MOST),
            "plants": (self.plants, 1, _MOST),
        }
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise AggregationError(f"encoding.{name} must be {low} to {high}, got {value}")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise AggregationError(f"encoding.bound must be above 0, got {self.bound}")

    @property
    def field(self) -> int:
        """Bits of one field: a value and the carry of the sum."""
        return self.bits + math.ceil(math.log2(self.plants)) if self.plants > 1 else self.bits

    @property
    def per_word(self) -> int:
        return 64 // self.field

    @property
    def packed(self) -> int:
        """Words that hold the values."""
        return -(-self.size // self.per_word)

    @property
    def words(self) -> int:
        """Words in all, lanes included."""
        return self.packed + LANES

    @property
    def steps(self) -> int:
        """Integer that the bound becomes."""
        return int(2 ** (self.bits - 1) - 1)

    def to_bytes(self) -> bytes:
        """Return the fields as text, for what a signature or a hash covers."""
        return repr((self.size, self.bits, self.bound, self.max_weight, self.plants)).encode()


class Packer:
    """Encodes one vector, chunk by chunk (`common.secagg.masks.add_masks` calls `fill`).

    Parameters
    ----------
    vector : float32, shape (size,); finite.
    weight : examples behind it, 1 to ``max_weight``.

    Attributes
    ----------
    clipped : values beyond the bound.

    Raises
    ------
    UpdateError
        If the vector has another size or a value is NaN or infinite, or the weight is out of range.
    """

    def __init__(self, vector: Vector, *, weight: int, encoding: Encoding) -> None:
        if vector.shape != (encoding.size,) or vector.dtype != np.float32:
            raise UpdateError(
                f"update must be float32 of shape ({encoding.size},), got {vector.dtype} "
                f"{vector.shape}"
            )
        if not 1 <= weight <= encoding.max_weight:
            raise UpdateError(f"weight must be 1 to {encoding.max_weight}, got {weight}")
        self._vector, self._encoding = vector, encoding
        self._weight, self._buffers = weight, threading.local()
        self.clipped, self._largest = 0, 0.0
        for start in range(0, vector.size, CHUNK):
            self._look(vector[start : start + CHUNK])

    def _look(self, values: Vector) -> None:
        """Count values beyond the bound; UpdateError if one is not finite."""
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise UpdateError("update must be finite, got NaN or infinity")
        largest = max(-low, high)
        if largest > self._encoding.bound:
            self.clipped += int(np.count_nonzero(np.abs(values) > self._encoding.bound))
        self._largest = max(self._largest, largest)

    def fill(self, words: Words, start: int, stop: int) -> None:
        """Write words[start:stop]; threads may write different chunks at once."""
        encoding = self._encoding
        packed = words[start : min(stop, encoding.packed)]
        if packed.size:
            self._pack(packed, start)
        if stop > encoding.packed:
            lanes = (ONE, MARK, self._weight, self.clipped)
            first = max(start, encoding.packed)
            words[first:stop] = lanes[first - encoding.packed : stop - encoding.packed]

    def _pack(self, words: Words, start: int) -> None:
        """Encode what the words from ``start`` on hold: a field is a stretch of the vector.

        Added to a `_Number`'s magic, a value has no bits left for fractions: it is rounded to the
        nearest whole number, which then lies in its lowest bits, above those of the magic as an
        integer. The sum of what is too much in each field is taken off in the end, modulo 2^64.
        """
        encoding, number = self._encoding, self._number
        scratch = self._scratch(words.size)
        factor, edge = number.type(self._factor), number.type(self._edge)
        clamps = self._largest * self._factor > self._edge - 1
        excess, surplus = number.bits - 2 ** (encoding.bits - 1), 0
        for place in range(encoding.per_word):
            first = place * encoding.packed + start
            values = self._vector[first : first + words.size]
            target = words if place == 0 else scratch.words[: words.size]
            wide = number is _DOUBLE
            scaled = target.view(np.float64) if wide else scratch.single[: words.size]
            np.multiply(values, factor, out=scaled[: values.size])
            scaled[values.size :] = 0  # past the end of the vector
            if clamps:  # after scaling: rounding must not step over the edge
                np.minimum(scaled, edge, out=scaled)
                np.maximum(scaled, -edge, out=scaled)
            np.add(scaled, number.magic, out=scaled)
            if not wide:
                np.copyto(target.view(np.int64), scaled.view(np.int32))
            if place:
                np.left_shift(target, np.uint64(place * encoding.field), out=target)
                np.add(words, target, out=words)
            surplus += excess << (place * encoding.field)
        np.subtract(words, np.uint64(surplus % 2**64), out=words)

    @property
    def _factor(self) -> float:
        """What a value is multiplied by."""
        share = self._weight / self._encoding.max_weight
        return share * self._encoding.steps / self._encoding.bound

    @property
    def _edge(self) -> int:
        """Largest whole number that a value of this plant may become."""
        return int(self._weight / self._encoding.max_weight * self._encoding.steps)

    @property
    def _number(self) -> _Number:
        """The shorter one that holds every whole number of this plant, whatever the bits are."""
        return _SINGLE if self._edge <= _SINGLE.exact else _DOUBLE

    def _scratch(self, size: int) -> _Scratch:
        """Return this thread's buffers; fresh ones for each chunk would cost more than the work."""
        found: _Scratch | None = getattr(self._buffers, "scratch", None)
        if found is None or found.words.size < size:
            found = self._buffers.scratch = _Scratch(size)
        return found


class _Number:
    """Floating point in which values are scaled and rounded.

    Attributes
    ----------
    magic : in the middle of where neighbours are 1 apart; ``bits`` is it, read as an integer.
    exact : whole numbers up to it, of either sign, may be added to the magic.
    """

    def __init__(self, kind: type[np.floating[Any]], whole: type[np.integer[Any]]) -> None:
        self.type, digits = kind, np.finfo(kind).nmant
        self.magic = kind(3 * 2 ** (digits - 1))
        self.bits = int(self.magic.view(whole))
        self.exact = 2 ** (digits - 1)


_SINGLE, _DOUBLE = _Number(np.float32, np.int32), _Number(np.float64, np.int64)


class _Scratch:
    """Buffers of one chunk."""

    def __init__(self, size: int) -> None:
        self.words = np.empty(size, np.uint64)
        self.single = np.empty(size, np.float32)


@dataclass(frozen=True, kw_only=True)
class Total:
    """What a sum says.

    Attributes
    ----------
    vector : float64, shape (size,): the sum of weight times update.
    weight : the sum of weights.
    clipped : values clipped, over all plants.
    steps : the largest value of the sum, in steps of the fixed point.
    """

    vector: npt.NDArray[np.float64]
    weight: int
    clipped: int
    steps: int


def decode(words: Words, *, encoding: Encoding, survivors: int) -> Total:
    """Read a sum of ``survivors`` encoded vectors.

    Raises
    ------
    AggregationError
        If the lanes or a field are not those of so many plants.
    """
    one, mark, weight, clipped = (int(lane) for lane in words[encoding.packed :])
    if (one, mark) != (survivors * ONE, survivors * MARK):
        raise AggregationError(
            f"the sum must be of {survivors} plants, got lanes {one} and {mark}; no mask fits"
        )
    if not survivors <= weight <= survivors * encoding.max_weight:
        raise AggregationError(f"the sum's weight must fit {survivors} plants, got {weight}")
    vector = np.empty(encoding.per_word * encoding.packed)
    ones, offset = np.uint64(2**encoding.field - 1), survivors * 2 ** (encoding.bits - 1)
    steps = 0
    for place in range(encoding.per_word):
        for start in range(0, encoding.packed, CHUNK):
            chunk = words[start : min(start + CHUNK, encoding.packed)]
            fields = ((chunk >> np.uint64(place * encoding.field)) & ones).view(np.int64)
            fields -= offset
            steps = max(steps, int(np.abs(fields).max()))
            first = place * encoding.packed + start
            vector[first : first + fields.size] = fields
    if steps > survivors * encoding.steps:
        raise AggregationError("a field of the sum is out of its range; a plant broke the encoding")
    vector *= encoding.bound * encoding.max_weight / encoding.steps
    return Total(vector=vector[: encoding.size], weight=weight, clipped=clipped, steps=steps)
