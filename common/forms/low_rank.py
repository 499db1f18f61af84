"""Two thin factors for each large matrix of an update; the rest of the tensors as they are.

A tensor is read as a matrix with its first axis down and all others across. Factors of
gradients: PowerSGD, Vogels et al. 2019, https://arxiv.org/abs/1905.13727. They are found by two
steps from a start drawn from the run, a little wider than what is sent: randomised SVD, Halko et
al. 2011, https://arxiv.org/abs/0909.4061.

The factors depend on the plant's own update, so two plants' cannot be added: not for secure sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from common.forms.draw import Turn
from common.forms.payload import exactly
from common.forms.values import ValueName, Values
from common.update import Schema, Vector

STEPS = 2
MORE = 4  #: columns of the start beyond those that are sent

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """`low_rank` (`common.forms.Form`).

    Attributes
    ----------
    rank : of what is sent of a matrix.
    values : how factors, and the tensors that are sent whole, are written.
    turn : run of the order.
    """

    schema: Schema
    rank: int
    values: ValueName
    turn: Turn

    @property
    def size(self) -> int:
        return Values(self.values).size(sum(self._lengths), stretches=len(self._lengths))

    def encode(self, vector: Vector) -> bytes:
        parts: list[Vector] = []
        for place, rows, columns in self._tensors():
            if self._splits(rows, columns):
                matrix = vector[place].reshape(rows, columns)
                parts += [factor.reshape(-1) for factor in self._factors(matrix)]
            else:
                parts.append(vector[place])
        return Values(self.values).write(np.concatenate(parts), self._lengths)

    def decode(self, payload: bytes) -> Vector:
        values = Values(self.values).read(exactly(payload, self.size), self._lengths)
        vector = np.empty(self.schema.size, np.float32)
        start = 0

        def take(count: int) -> Vector:
            nonlocal start
            start += count
            return values[start - count : start]

        with np.errstate(over="ignore", invalid="ignore"):  # found by whoever admits the update
            for place, rows, columns in self._tensors():
                if self._splits(rows, columns):
                    left = take(rows * self.rank).reshape(rows, self.rank)
                    right = take(columns * self.rank).reshape(columns, self.rank)
                    vector[place] = _product(left, right.T).reshape(-1)
                else:
                    vector[place] = take(rows * columns)
        return vector

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        """Length of each factor and of each tensor that is sent whole."""
        lengths: list[int] = []
        for _, rows, columns in self._tensors():
            if self._splits(rows, columns):
                lengths += [rows * self.rank, columns * self.rank]
            else:
                lengths.append(rows * columns)
        return tuple(lengths)

    def _tensors(self) -> Iterator[tuple[slice, int, int]]:
        """Yield (place, rows, columns) of every tensor; what is no matrix has one column."""
        for _, shape, place in self.schema.slices():
            count = place.stop - place.start
            rows = shape[0] if len(shape) > 1 and count else count
            yield place, rows, count // rows if rows else 1

    def _splits(self, rows: int, columns: int) -> bool:
        """Whether the factors are smaller than the matrix."""
        return self.rank * (rows + columns) < rows * columns

    def _factors(self, matrix: Matrix) -> tuple[Matrix, Matrix]:
        """Return orthonormal columns (rows, rank), and (columns, rank) that carry the lengths."""
        columns, wide = matrix.shape[1], min(self.rank + MORE, *matrix.shape)
        words = self.turn.words(f"low_rank/{columns}", columns * wide)
        signs = (words >> np.uint64(63)).astype(np.float32) * 2 - 1
        right: Matrix = signs.reshape(columns, wide)
        left: Matrix = np.empty(0, np.float32)
        # Scaled, so that no product of finite values leaves float32's range.
        size = np.abs(matrix).max(initial=0)
        scaled = matrix / size if size > 0 else matrix
        for _ in range(STEPS):
            left = np.linalg.qr(_product(scaled, right))[0].astype(np.float32)
            right = _product(scaled.T, left)
        turned, lengths, kept = np.linalg.svd(right.T, full_matrices=False)
        left = _product(left, turned[:, : self.rank])
        right = (lengths[: self.rank, None] * kept[: self.rank]).T
        return left, right.astype(np.float32) * size


def _product(left: Matrix, right: Matrix) -> Matrix:
    """Return the matrix product.

    Not by BLAS: its bits depend on its threads, which are slow beside others.
    """
    product: Matrix = np.einsum("ij,jk->ik", left, right)
    return product
