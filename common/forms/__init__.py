"""The form of an update: how a difference to the release becomes bytes, and values again.

Both sides make the same form from three things that they share: the configuration of the order, the
schema of the update, and the order's run and round. So nothing but the bytes travels, and the
centre knows how many they must be before it looks at one.

========================  ==========================================================  ============
form                      what is sent                                                values lost
========================  ==========================================================  ============
`fp32`, `fp16`            every value, in 4 or 2 bytes                                none, rounding
`int8`                    every value as a byte, with a scale for each tensor         rounding
`top_k`                   the largest values and which they are                       the others
`low_rank`                two thin factors of each large matrix                       the rest of it
`coordinates`             values at places that all plants share, drawn from the      the others
                          order; they can be added without being seen
========================  ==========================================================  ============

What a form that drops values leaves unsaid stays at the plant and is added to its next update:
error feedback, Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847. Over the rounds what was
sent and what is left add up to all updates.
"""

from __future__ import annotations

from typing import Protocol

from common.config import UpdateConfig
from common.errors import ConfigError
from common.forms.coordinates import Coordinates
from common.forms.dense import Dense
from common.forms.draw import Turn
from common.forms.low_rank import LowRank
from common.forms.top_k import TopK
from common.update import Schema, Vector


class Form(Protocol):
    """One form, for the updates of one round."""

    @property
    def size(self) -> int:
        """Bytes of every payload."""
        ...

    def encode(self, vector: Vector) -> bytes:
        """Return the payload of a finite float32 vector of shape (schema.size,)."""
        ...

    def decode(self, payload: bytes) -> Vector:
        """Return what a payload says, float32 of shape (schema.size,).

        Raises
        ------
        UpdateError
            If it is not of ``size`` bytes, or no plant could have written it. Values need not be
            finite.
        """
        ...


class Linear(Protocol):
    """A form in which sums can be formed: few values of many, the same places at every plant.

    ``project`` of a sum is the sum of what was projected, and ``lift`` brings it back.
    """

    @property
    def kept(self) -> int:
        """Values that are left of the vector."""
        ...

    def project(self, vector: Vector) -> Vector:
        """Return float32 of shape (kept,)."""
        ...

    def lift(self, values: Vector) -> Vector:
        """Return float32 of shape (schema.size,); zero where nothing was sent."""
        ...


def drops(config: UpdateConfig) -> bool:
    """Whether values are left out, so that error feedback is worth its place on disk."""
    return config.form in ("top_k", "low_rank", "coordinates")


def form_of(config: UpdateConfig, *, schema: Schema, turn: Turn) -> Form:
    """Return the form that an order asks for."""
    match config.form:
        case "fp32" | "fp16" | "int8":
            return Dense(schema=schema, values=config.form)
        case "top_k":
            return TopK(schema=schema, share=config.share, values=config.values)
        case "low_rank":
            return LowRank(schema=schema, rank=config.rank, values=config.values, turn=turn)
        case "coordinates":
            return Coordinates(schema=schema, share=config.share, values=config.values, turn=turn)


def linear_of(config: UpdateConfig, *, schema: Schema, turn: Turn) -> Linear:
    """Return the linear form that an order asks for, for a sum that nobody sees the terms of.

    Raises
    ------
    ConfigError
        If the form is none; `common.config` refuses such a configuration.
    """
    match config.form:
        case "fp32":
            return Coordinates(schema=schema, share=1.0, values="fp32", turn=turn)
        case "coordinates":
            return Coordinates(schema=schema, share=config.share, values="fp32", turn=turn)
        case _:
            raise ConfigError(f"update.form must be fp32 or coordinates, got {config.form}")


__all__ = [
    "Coordinates",
    "Dense",
    "Form",
    "Linear",
    "LowRank",
    "TopK",
    "Turn",
    "drops",
    "form_of",
    "linear_of",
]
