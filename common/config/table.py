"""Tables: what is learned from rows, and which columns a plant has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from common.config.section import Section

Columns = Annotated[tuple[str, ...], Strict(False)]


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
        "never on both sides of the split. It is not learned from.",
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
    typical: dict[str, float] = Field(
        default_factory=dict,
        description="Typical size of a column's values, by name: a plant whose median is 30 times "
        "more or less is told that its units may differ.",
        examples=[{"power_kW": 450.0}],
    )
