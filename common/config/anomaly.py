"""Learning from good parts alone: what the federation says, and what only a plant knows."""

from __future__ import annotations

from pydantic import Field

from common.config.section import Section


class AnomalyConfig(Section):
    """How parts that are unlike the good ones are found (`image-anomaly`)."""

    memory: int = Field(
        1000,
        ge=16,
        le=50_000,
        description="Patches of good parts that a plant remembers. They stay at the plant; each "
        "takes 4 bytes times the width of the features (0.5 kB for mobilenet_v2).",
    )
    fine_tune: bool = Field(
        False,
        description="A plant alone trains the backbone too, and so it does with the last release. "
        "Otherwise its memory is filled on the backbone as it came, which is what PatchCore is.",
    )


class PlantAnomalySection(Section):
    """What a plant says of its defective parts (`image-anomaly`)."""

    validation_defects: int = Field(
        0,
        ge=0,
        description="So many real defective parts judge a new model; they take no part in the "
        "test. At least 5; with 0 a plant adopts no release by itself, as defects made up on good "
        "parts cannot vouch for one.",
    )
