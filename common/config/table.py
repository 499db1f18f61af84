"""Tables: what is learned from rows, and which columns a plant has."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from common.config.section import Section

Columns = Annotated[tuple[str, ...], Strict(False)]


def _a_range_or_levels(value: tuple[float | str, ...]) -> tuple[float | str, ...]:
    numbers = [one for one in value if not isinstance(one, str)]
    if not numbers and len(set(value)) == len(value) >= 2:
        return value
    ascending = all(low < high for low, high in pairwise(numbers))
    if len(numbers) == len(value) >= 2 and ascending:
        return value
    raise ValueError(
        "must be a range [low, high], more ascending numbers, or a list of at least two different "
        f"names, got {list(value)}"
    )


Shared = Annotated[tuple[float | str, ...], Strict(False), AfterValidator(_a_range_or_levels)]


class TableColumns(Section):
    """What a plant's table holds; in federation.toml for all plants, in plant.toml for one."""

    target: str = Field(
        "",
        description="Column to learn. In plant.toml it goes before the federation's.",
        examples=["strength"],
    )
    drop: Columns = Field(
        (), description="Columns that are not used: numbers of orders, what is known only later."
    )
    categories: Columns = Field(
        (), description="Columns of numbers that are names: line 1, 2, 3; read as categories."
    )
    group: str = Field(
        "",
        description="Column that says which rows are not independent (a batch, a day): these are "
        "never on both sides of the split. It is not learned from. Without one, rows that are "
        "alike in all that is learned from are together.",
    )


class TableSection(TableColumns):
    """Tables, for task `tabular`: the target, and the network that all plants share."""

    learn: Literal["numbers", "classes"] = Field(
        "numbers", description="Whether the target is a number or the name of a class."
    )
    width: int = Field(128, ge=4, le=4096, description="Width of the shared trunk.")
    blocks: int = Field(3, ge=1, le=32, description="Blocks of the shared trunk.")
    heads: int = Field(
        8, ge=1, le=64, description="Attention heads of `ft_transformer`; must divide the width."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the blocks.")
    bins: int = Field(
        16,
        ge=0,
        le=256,
        description="Pieces into which a number is cut before it enters `resnet_mlp`, by the "
        "plant's own quantiles; 0 leaves it as it is.",
    )
    shared: dict[str, Shared] = Field(
        default_factory=dict,
        description="Columns that every plant has, with the range of a number (evenly cut; more "
        "than two numbers say where) or the names of a category: they enter the trunk by a layer "
        "that all plants share. A plant's other columns enter by its own stem.",
        examples=[{"cement_kg": [100.0, 550.0], "line": ["north", "south"]}],
    )
    typical: dict[str, float] = Field(
        default_factory=dict,
        description="Typical size of a column's values, by name: a plant whose median is 30 times "
        "more or less is told that its units may differ.",
        examples=[{"power_kW": 450.0}],
    )
