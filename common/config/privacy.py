"""``[privacy]`` in federation.toml: how much noise hides what a plant sends, and whom it hides."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config.section import Positive, Section

Unit = Literal["none", "record", "plant"]
Delta = Annotated[float, Field(gt=0, lt=1)]


class PrivacyConfig(Section):
    """Differential privacy of what plants send (docs/security.md)."""

    unit: Unit = Field(
        "none",
        description="Whom the noise hides: one training image (`record`: DP-SGD at the plant), "
        "all that a plant has (`plant`: its update is clipped and gets noise), or nobody (`none`). "
        "With either, plants count alike, and scores and durations stay at the plant.",
    )
    noise_multiplier: float = Field(
        1.0,
        ge=0.01,
        le=10_000,
        description="Standard deviation of the noise, in units of `clip`; below 0.3 it hides "
        "nothing worth the name.",
    )
    clip: Positive = Field(
        1.0,
        description="Longest gradient of one image (`record`) or longest update (`plant`), "
        "Euclidean; what is longer is shortened.",
    )
    sample_rate: float = Field(
        0.2,
        gt=0,
        le=1,
        description="`record`: chance of each image to be in a step, drawn anew for each step.",
    )
    steps: int = Field(
        20, ge=1, le=100_000, description="`record`: steps in a round; they take the place of "
        "`local_epochs` and `local_steps`."
    )  # fmt: skip
    delta: Delta = Field(
        1e-5, description="Chance that the bound on the loss fails, for the epsilon in reports."
    )
