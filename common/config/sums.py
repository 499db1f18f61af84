"""``[secure_aggregation]`` of federation.toml."""

from __future__ import annotations

from pydantic import Field

from common.config.section import Positive, Section


class SecureAggregationConfig(Section):
    """Secure aggregation: the centre learns the sum of the updates, and none of them."""

    enabled: bool = Field(
        False,
        description="Sum under masks. Needs three plants or more; each must have accepted the "
        "others (`transferline-plant peers`). In simulation they accept each other.",
    )
    bits: int = Field(
        24, ge=2, le=32, description="Fixed-point bits of one value; with 24 nothing is lost."
    )
    bound: Positive = Field(
        1.0, description="Values of an update beyond it are clipped at the plant, and counted."
    )
    stage_deadline: Positive = Field(
        60.0,
        description="Seconds for each message of the protocol beside training: keys, shares, who "
        "is left, unmasking. Who does not answer by then has dropped out.",
    )
