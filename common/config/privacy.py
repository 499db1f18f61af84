"""``[privacy]`` in federation.toml: how much noise hides what a plant sends, and whom it hides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from common.config.section import Positive, Section
from common.sharing import SELF_SUPERVISED
from common.tasks import KINDS, able

if TYPE_CHECKING:
    from common.config.federation import FederationConfig

#: Bits of a masked value under noise, and standard deviations that it must hold; 1e-15 lie beyond.
MOST_BITS, REACH = 20, 8

#: Fewest steps of the fixed point in a standard deviation (`client.protection.blur`).
FEWEST_STEPS = 4

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


def honest(plants: int) -> int:
    """Return how many honest plants are in any secure sum over a roster: t - c (docs/security.md).

    t = floor(2n/3) + 1 survive at least, of whom c = 2t - n - 1 may help the centre.
    """
    return plants - 2 * plants // 3


def objection(config: FederationConfig) -> str:
    """Say what of the other settings would let something through that noise is to hide."""
    unit = config.privacy.unit
    if unit == "none":
        return ""
    if config.training.batch_norm != "frozen":
        return (
            f"training.batch_norm must be 'frozen' with privacy.unit {unit!r}, got "
            f"{config.training.batch_norm!r}: statistics of the plant's images would travel, or "
            "steer the step, without noise"
        )
    return _of_records(config) if unit == "record" else _of_plants(config)


def _of_records(config: FederationConfig) -> str:
    if config.method == "fedrep":
        return (
            "method must be another than fedrep with privacy.unit 'record', got fedrep: it fits "
            "the head without noise, and the backbone's step follows the head; use fedper"
        )
    if config.method in SELF_SUPERVISED:
        return (
            f"method must be another than {config.method} with privacy.unit 'record': the gradient "
            "of an image depends on the others of its batch; use fedper, or privacy.unit 'plant'"
        )
    if not KINDS[config.task].single:
        return (
            f"task must be {able('single')} with privacy.unit 'record', got {config.task}: its "
            "input, or its loss, goes by statistics of all records, which noise does not hide; use "
            "privacy.unit 'plant'"
        )
    return ""


def _of_plants(config: FederationConfig) -> str:
    update, sums = config.update, config.secure_aggregation
    if update.form in ("top_k", "low_rank", "coordinates") and update.error_feedback:
        return (
            "update.error_feedback must be false with privacy.unit 'plant', got true: what is left "
            "over is the noise, and the next update would take it back"
        )
    if config.server.rule == "norm_bound":
        return (
            "server.rule must be another than norm_bound with privacy.unit 'plant', got "
            "norm_bound: privacy.clip bounds updates before the noise, and after it none is short"
        )
    if not sums.enabled:
        return ""
    if sums.bits > MOST_BITS:
        return (
            f"secure_aggregation.bits must be at most {MOST_BITS} with privacy.unit 'plant', got "
            f"{sums.bits}: float32 must hold every step of the grid that the noise lies on"
        )
    clip = config.privacy.clip
    spread = clip * config.privacy.noise_multiplier / math.sqrt(honest(config.min_plants))
    needed = clip + REACH * spread
    if sums.bound < needed:
        return (
            f"secure_aggregation.bound must be at least {needed:.3g} with these settings of "
            f"privacy, got {sums.bound:g}: noise that is cut off is not what was counted"
        )
    if spread < FEWEST_STEPS * sums.step:
        return (
            f"noise must be at least {FEWEST_STEPS} steps of the fixed point a plant, got "
            f"{spread / sums.step:.2g}; raise privacy.noise_multiplier or secure_aggregation.bits, "
            "or lower secure_aggregation.bound"
        )
    return ""
