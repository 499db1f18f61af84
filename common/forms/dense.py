"""Every value of an update, in 4, 2 or 1 bytes."""

from __future__ import annotations

from dataclasses import dataclass

from common.forms.payload import exactly
from common.forms.values import ValueName, Values
from common.update import Schema, Vector


@dataclass(frozen=True, kw_only=True)
class Dense:
    """`fp32`, `fp16` and `int8` (`common.forms.Form`)."""

    schema: Schema
    values: ValueName

    @property
    def size(self) -> int:
        return Values(self.values).size(self.schema.size, stretches=len(self.schema.shapes))

    def encode(self, vector: Vector) -> bytes:
        return Values(self.values).write(vector, self.schema.lengths)

    def decode(self, payload: bytes) -> Vector:
        return Values(self.values).read(exactly(payload, self.size), self.schema.lengths)
