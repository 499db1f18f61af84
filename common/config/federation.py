"""federation.toml: what is learned, how plants train, how the centre combines their replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from common.combining import RULES
from common.config.anomaly import AnomalyConfig, PlantAnomalySection
from common.config.privacy import PrivacyConfig, objection
from common.config.section import (
    Channels,
    ClassNames,
    NotNegative,
    Positive,
    Section,
    Spreads,
)
from common.config.series import PlantSeriesSection, SeriesSection
from common.config.server import ServerConfig
from common.config.sums import SecureAggregationConfig
from common.config.table import TableColumns, TableSection
from common.config.text import PlantTextSection, TextSection
from common.config.training import MethodConfig, TrainingConfig
from common.config.update import UpdateConfig
from common.sharing import FEDERATED, SELF_SUPERVISED
from common.tasks import KINDS, TaskName, able, defaults_of, foreign_keys
from common.toml import read_toml, validate

MethodName = Literal["fedavg", "fedprox", "fedper", "fedrep", "fedbn", "ditto", "simclr"]
FEWEST_SUMMED = 3  #: plants of a secure sum


class PlantSection(Section):
    """What the simulation should know of one plant."""

    classes: ClassNames = Field((), description="Use only these class folders; empty means all.")
    good: str = Field(
        "",
        description="The class of good parts; escape rate needs it, and `image-anomaly`, which "
        "learns from it alone.",
    )
    series: PlantSeriesSection = Field(default_factory=lambda: PlantSeriesSection())
    table: TableColumns = Field(default_factory=lambda: TableColumns())
    text: PlantTextSection = Field(default_factory=lambda: PlantTextSection())
    anomaly: PlantAnomalySection = Field(default_factory=lambda: PlantAnomalySection())

    @model_validator(mode="after")
    def _good_is_a_class(self) -> Self:
        if self.good and self.classes and self.good not in self.classes:
            raise ValueError(f"good must be one of classes {list(self.classes)}, got {self.good!r}")
        return self


class FederationConfig(Section):
    """federation.toml."""

    name: str = Field("federation", min_length=1, max_length=64, description="Shown in reports.")
    task: TaskName = Field("image-classification", description="What the plants learn.")
    backbone: str = Field(
        "mobilenet_v2",
        min_length=1,
        description="Of images a torchvision classification model; of other tasks one of their "
        "family, by default as in `common/tasks.py`.",
    )
    weights: str = Field(
        "DEFAULT",
        min_length=1,
        description="Source weights: a torchvision weight name, `DEFAULT`, `none`, or the path of "
        "a `.safetensors` or `.pth` file (relative to this file). For other tasks than images "
        "`none`, their default, or a `.safetensors` file.",
    )
    mean: Channels | None = Field(
        None,
        description="Of images: input mean a channel; default: that of the weights.",
        examples=[(0.485, 0.456, 0.406)],
    )
    std: Spreads | None = Field(
        None,
        description="Of images: input deviation a channel; default: that of the weights.",
        examples=[(0.229, 0.224, 0.225)],
    )
    image_size: int = Field(
        96, ge=32, le=1024, description="Of images: side of the square input, pixels."
    )
    classes: ClassNames = Field(
        (), description="Class names, where the head travels (`fedavg`, `fedprox`)."
    )
    method: MethodName = Field("fedper", description="How plants learn together.")
    rounds: int = Field(10, ge=0, description="Rounds of training.")
    local_epochs: int = Field(2, ge=1, description="Passes over a plant's data in a round.")
    local_steps: int = Field(
        16,
        ge=0,
        description="At least so many gradient steps in a round: a plant with few images passes "
        "over them more often, or it would hardly move the backbone.",
    )
    min_plants: int = Field(2, ge=1, description="A round with fewer replies is skipped.")
    fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the connected plants that a round asks."
    )
    round_deadline: Positive = Field(3600.0, description="Seconds a plant may take for a round.")
    labels_per_class: int | None = Field(
        None,
        ge=2,
        description="Labelled examples a class (of a table's numbers: a fifth of their range by "
        "rank; of a series' numbers: all together), training and validation together; default: "
        "all but the test's. In simulation; a real plant says it in plant.toml.",
        examples=[20],
    )
    test_per_class: int | None = Field(
        None,
        ge=1,
        description="At most this many test examples a class. In simulation; a real plant says it "
        "in plant.toml.",
        examples=[150],
    )
    seed: int = Field(0, ge=0, description="Of splits, shuffles and augmentation.")
    threads: int = Field(1, ge=1, description="CPU threads a plant trains with.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to train.")
    adoption_margin: NotNegative = Field(
        0.0,
        description="How much worse on validation a release may be and still be adopted: in "
        "probability of the truth for classes, in share of the variance for numbers.",
    )
    false_reject_budget: float = Field(
        0.05, gt=0, lt=1, description="Share of good parts that may be rejected; for escape rate."
    )
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig())
    methods: MethodConfig = Field(default_factory=lambda: MethodConfig())
    series: SeriesSection = Field(default_factory=lambda: SeriesSection())
    table: TableSection = Field(default_factory=lambda: TableSection())
    server: ServerConfig = Field(default_factory=lambda: ServerConfig())
    update: UpdateConfig = Field(default_factory=lambda: UpdateConfig())
    privacy: PrivacyConfig = Field(default_factory=lambda: PrivacyConfig())
    secure_aggregation: SecureAggregationConfig = Field(
        default_factory=lambda: SecureAggregationConfig()
    )
    text: TextSection = Field(default_factory=lambda: TextSection())
    anomaly: AnomalyConfig = Field(default_factory=lambda: AnomalyConfig())
    plants: dict[str, PlantSection] = Field(
        default_factory=dict, description="Per plant, by folder name."
    )

    @property
    def norm_travels(self) -> bool:
        """Whether normalisation layers are part of an update."""
        return FEDERATED[self.method].norm and not self.methods.personal_norm

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, values: Any) -> Any:
        """Fill in what another task than images begins with."""
        task = values.get("task") if isinstance(values, dict) else None
        if isinstance(task, str) and task in KINDS and not KINDS[task].images:
            begin = defaults_of(KINDS[task], values)
            return begin | {
                key: {**begin.get(key, {}), **value} if isinstance(value, dict) else value
                for key, value in values.items()
            }
        return values

    @model_validator(mode="after")
    def _nothing_of_other_tasks(self) -> Self:
        """Refuse keys that would have no effect, where they say anything but the default."""
        for key in sorted(foreign_keys(self.task)):
            field = type(self).model_fields[key]
            if getattr(self, key) != field.get_default(call_default_factory=True):
                raise ValueError(f"{key} must be left out for task {self.task}: it has no effect")
        return self

    @model_validator(mode="after")
    def _mean_and_std_together(self) -> Self:
        if (self.mean is None) != (self.std is None):
            given, wanted = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{wanted} must be given together with {given}, got none")
        return self

    @property
    def private(self) -> bool:
        """Whether noise hides something of what a plant sends."""
        return self.privacy.unit != "none"

    @model_validator(mode="after")
    def _noise_hides_all_that_depends_on_data(self) -> Self:
        if why := objection(self):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _a_rule_has_its_plants(self) -> Self:
        server, rule = self.server, RULES[self.server.rule]
        if self.min_plants < (fewest := rule.fewest(server.faulty)):
            raise ValueError(
                f"min_plants must be at least {fewest} ({rule.formula}) for server.rule "
                f"{server.rule!r} with server.faulty {server.faulty}, got {self.min_plants}"
            )
        return self

    @model_validator(mode="after")
    def _a_sum_hides_one_among_three(self) -> Self:
        if self.secure_aggregation.enabled and self.min_plants < FEWEST_SUMMED:
            raise ValueError(
                f"min_plants must be at least {FEWEST_SUMMED} with secure_aggregation.enabled, got "
                f"{self.min_plants}: a sum of two tells each the other's update"
            )
        return self

    @model_validator(mode="after")
    def _a_sum_needs_a_rule_that_sees_none(self) -> Self:
        rule = self.server.rule
        unseen = RULES[rule].sums and (rule != "norm_bound" or self.server.radius is not None)
        if self.secure_aggregation.enabled and not unseen:
            names = " or ".join(name for name, found in RULES.items() if found.sums)
            raise ValueError(
                f"server.rule must be {names} (with server.radius) with "
                f"secure_aggregation.enabled, got {rule}: it compares single updates, and under "
                "the masks nobody sees one"
            )
        return self

    @model_validator(mode="after")
    def _a_sum_needs_a_form_that_adds_up(self) -> Self:
        update = self.update
        sums = update.form == "fp32" or (update.form == "coordinates" and update.values == "fp32")
        if self.secure_aggregation.enabled and not sums:
            raise ValueError(
                "update.form must be fp32, or coordinates with update.values = fp32, with "
                f"secure_aggregation.enabled, got {update.form} with {update.values}: the values "
                "become fixed point under the masks, and only these can be added unseen"
            )
        return self

    @model_validator(mode="after")
    def _views_are_of_images(self) -> Self:
        if self.method in SELF_SUPERVISED and not KINDS[self.task].views:
            raise ValueError(
                f"method {self.method} must have task {able('views')}, got {self.task}: it "
                "learns from two views of an image; use fedper"
            )
        return self

    @model_validator(mode="after")
    def _shared_head_needs_equal_classes(self) -> Self:
        if not FEDERATED[self.method].head:
            return self
        expected = self.classes
        for name, plant in self.plants.items():
            expected = expected or plant.classes
            if plant.classes and set(plant.classes) != set(expected):
                raise ValueError(
                    f"plants.{name}.classes must be {list(expected)} as elsewhere, because "
                    f"{self.method} shares the head, got {list(plant.classes)}; or use fedper"
                )
        return self


def load_federation(path: Path) -> FederationConfig:
    """Read federation.toml.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML; or with one line for each wrong key.
    """
    values = read_toml(path, hint="write one with `transferline-sim init`")
    return validate(FederationConfig, values, name=str(path))
