"""Named tensors and their flat view.

A model travels as one flat float32 vector: in Flower every array is an object with HTTP
requests of its own at each hop, so 62 arrays cost three times as much as one. A `Schema` says
where each tensor lies in the vector; both sides compare its digest before they use a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from common.errors import UpdateError

Vector = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Schema:
    """Names and shapes of float32 tensors, in the order in which they lie in the flat vector."""

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Tensors) -> Schema:
        return cls({name: tuple(value.shape) for name, value in tensors.items()})

    @classmethod
    def from_json(cls, text: str) -> Schema:
        return cls({str(name): tuple(int(n) for n in shape) for name, shape in json.loads(text)})

    def to_json(self) -> str:
        return json.dumps([[name, list(shape)] for name, shape in self.shapes.items()])

    @cached_property
    def size(self) -> int:
        """Number of values in the flat vector."""
        return sum(prod(shape) for shape in self.shapes.values())

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of values of each tensor, in order."""
        return tuple(prod(shape) for shape in self.shapes.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical text, as hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def slices(self) -> Iterator[tuple[str, tuple[int, ...], slice]]:
        """Yield (name, shape, place in the vector) in order."""
        start = 0
        for name, shape in self.shapes.items():
            stop = start + prod(shape)
            yield name, shape, slice(start, stop)
            start = stop

    def subset(self, names: frozenset[str]) -> Schema:
        """Return the schema of the given tensors, in this schema's order."""
        return Schema({name: shape for name, shape in self.shapes.items() if name in names})

    def flatten(self, tensors: Tensors) -> Vector:
        """Copy the tensors into one vector of shape (size,).

        Raises
        ------
        UpdateError
            If a tensor is missing, is one too many, or has another shape.
        """
        if tensors.keys() != self.shapes.keys():
            missing = sorted(self.shapes.keys() - tensors.keys())
            extra = sorted(tensors.keys() - self.shapes.keys())
            raise UpdateError(
                f"tensors must be those of the schema; missing {missing}, unexpected {extra}"
            )
        vector = np.empty(self.size, dtype=np.float32)
        for name, shape, place in self.slices():
            if tensors[name].shape != shape:
                raise UpdateError(
                    f"tensor {name} must have shape {shape}, got {tensors[name].shape}"
                )
            vector[place] = tensors[name].reshape(-1)
        return vector

    def unflatten(self, vector: Vector) -> dict[str, npt.NDArray[np.float32]]:
        """Return views of the vector by name.

        Raises
        ------
        UpdateError
            If the vector is not float32 of shape (size,).
        """
        if vector.dtype != np.float32 or vector.shape != (self.size,):
            raise UpdateError(
                f"vector must be float32 of shape ({self.size},), got {vector.dtype} {vector.shape}"
            )
        return {name: vector[place].reshape(shape) for name, shape, place in self.slices()}


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a plant sends back: the difference to the release, for the tensors that travel.

    Attributes
    ----------
    schema : names and shapes of the tensors that travel.
    vector : trained minus released values, float32, shape (schema.size,).
    weight : number of training examples.
    moving : names of the tensors that the settings let move; the others are as they were.
    """

    schema: Schema
    vector: Vector
    weight: int
    moving: frozenset[str] = frozenset()
