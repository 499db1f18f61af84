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
        28,
        ge=2,
        le=32,
        description="Fixed-point bits of one value, spent on `bound` times `server.max_weight`: "
        "with fewer lower those two as well (docs/updates.md). 28 take 4 bytes a value under the "
        "masks of up to 16 plants, 25 of up to 100.",
    )
    bound: Positive = Field(
        1.0, description="Values of an update beyond it are clipped at the plant, and counted."
    )
    stage_deadline: Positive = Field(
        60.0,
        description="Seconds for each message of the protocol beside training: keys, shares, who "
        "is left, unmasking. Who does not answer by then has dropped out.",
    )

    @property
    def step(self) -> float:
        """Between neighbouring values of the fixed point."""
        return self.bound / (2.0 ** (self.bits - 1) - 1)
