"""``[update]`` of federation.toml: in which form a plant sends its update."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config.section import Section

FormName = Literal["fp32", "fp16", "int8", "top_k", "low_rank", "coordinates"]


class UpdateConfig(Section):
    """In which form updates travel; see docs/updates.md."""

    form: FormName = Field(
        "fp32",
        description="`fp32`, `fp16`: every value in 4 or 2 bytes; `int8`: in 1, with a scale for "
        "each tensor; `top_k`: the largest values; `low_rank`: two thin factors of each large "
        "matrix; `coordinates`: values at places that all plants share.",
    )
    share: float = Field(
        0.1, gt=0, le=1, description="Share of the values that `top_k` and `coordinates` send."
    )
    rank: int = Field(4, ge=1, le=1024, description="Columns of a factor of `low_rank`.")
    values: Literal["fp32", "fp16", "int8"] = Field(
        "fp16", description="How `top_k`, `low_rank` and `coordinates` write what they send."
    )
    error_feedback: bool = Field(
        True,
        description="Keep at the plant what `top_k`, `low_rank` and `coordinates` left out, and "
        "add it to the next update.",
    )
