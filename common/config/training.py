"""``[training]`` and ``[methods]`` of federation.toml: how a plant trains, in rounds and alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.config.section import NotNegative, Positive, Rate, Section

BatchNorm = Literal["frozen", "adapt", "train"]


class TrainingConfig(Section):
    """How a plant trains, in rounds and alone."""

    batch_size: int = Field(16, ge=2, description="Examples a step.")
    learning_rate: Rate = Field(
        3e-4, description="AdamW step of the backbone's last stage after warm-up."
    )
    round_learning_rate: Rate = Field(
        1e-4,
        description="AdamW step of the backbone in rounds, constant. Smaller than the step above: "
        "AdamW starts anew each round with steps of full length, and at 3e-4 the mean of several "
        "plants' steps destroys what the source weights know.",
    )
    head_learning_rate: Rate = Field(1e-3, description="AdamW step of the head.")
    stage_decay: float = Field(
        1.0, gt=0, le=1, description="Each stage further from the head learns this much slower."
    )
    weight_decay: NotNegative = Field(1e-4, description="AdamW weight decay.")
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of the target spread over all classes."
    )
    head_epochs: int = Field(
        300, ge=0, description="Passes of the head over cached features before the backbone moves."
    )
    epochs: int = Field(
        30, ge=1, description="Passes over the data when a plant trains alone or fine-tunes."
    )
    patience: int = Field(
        20, ge=1, description="Stop after this many epochs that are worse on validation."
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps over which the step size grows from 0."
    )
    clip_norm: Positive = Field(5.0, description="Largest gradient norm.")
    batch_norm: BatchNorm = Field(
        "frozen",
        description="Batch-norm statistics: `frozen` keeps those of the release; `adapt` "
        "re-estimates them on the plant's data before training, then keeps them; `train` moves "
        "them with every batch (harmful below some hundred images).",
    )
    freeze_until: str = Field(
        "",
        description="Stages before this one do not train, neither in rounds nor at a plant alone, "
        "for example `features.14`.",
    )
    augment: NotNegative = Field(
        1.0, description="Strength of flips, turns and light; 0 turns augmentation off."
    )


class MethodConfig(Section):
    """Numbers of the single methods."""

    l2sp: NotNegative = Field(0.01, description="`l2sp`: weight of the pull to the source.")
    prox: NotNegative = Field(0.01, description="`fedprox`: weight of the pull to the release.")
    ditto: NotNegative = Field(
        0.1, description="`ditto`: weight of the personal model's pull to the release."
    )
    personal_norm: bool = Field(
        False, description="Normalisation layers stay at the plant, under any method."
    )
    local_first: bool = Field(
        True,
        description="A plant that has no model of its own trains one alone before its first round, "
        "and another when its labelled examples have changed: without it nothing can say whether a "
        "release is worse.",
    )
    personal_fine_tune: bool = Field(
        True, description="Fine-tune the last release at the plant before it may be adopted."
    )
