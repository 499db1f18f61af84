"""``[server]`` of federation.toml: how the centre combines replies, and which it refuses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config.section import Positive, Section

RuleName = Literal[
    "mean",
    "norm_bound",
    "median",
    "trimmed_mean",
    "geometric_median",
    "centred_clipping",
    "krum",
    "multi_krum",
    "bulyan",
]


class ServerConfig(Section):
    """How the centre combines replies, and which it refuses."""

    rule: RuleName = Field(
        "mean",
        description="How replies become one vector; all but `mean` hold against some plants that "
        "lie (docs/robust.md).",
    )
    faulty: int = Field(
        1, ge=0, le=1000, description="Plants that may lie, for every `rule` but `mean`."
    )
    radius: Positive | None = Field(
        None,
        description="Length to which `norm_bound` shortens updates and `centred_clipping` "
        "differences; default: the median of their lengths.",
        examples=[5.0],
    )
    optimiser: Literal["mean", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = Field(
        "mean", description="What turns the mean update into the next release."
    )
    learning_rate: Positive = Field(
        1.0,
        description="Server step; 1 for `mean` and `fedavgm`, about 0.01 for the adaptive ones.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="First-moment decay (not for `mean`).")
    second_momentum: float = Field(
        0.99, ge=0, lt=1, description="Second-moment decay of `fedadam` and `fedyogi`."
    )
    tau: Positive = Field(1e-3, description="Adaptivity floor of the adaptive optimisers.")
    max_weight: int = Field(
        1000, ge=1, le=1_000_000, description="A plant counts for at most this many examples."
    )
    max_update_norm: Positive = Field(
        100.0, description="A reply whose update has a larger Euclidean norm is refused."
    )
