"""results.json and compare.json, schema version 2, as frozen pydantic models.

They are what a run leaves behind for people and scripts: the report, the table and the CSV are
drawn from them alone. ``docs/results-schema.md`` is generated from the descriptions here
(`simulation.schema`). All sizes are bytes, all durations seconds; scores of classes are shares
from 0 to 1, scores of numbers in the units of the plants; every interval is a 95 % confidence
interval.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.files import write_atomic
from common.tasks import TaskName

VERSION = 2
VARIANTS = ("head_only", "local", "federated", "pooled", "deployed")
"""The five models of a plant that a report sets side by side, in this order."""

Number = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
# A mean of float32 shares may end just above 1.
Share = Annotated[float, Field(ge=0, le=1.0001, allow_inf_nan=False)]


class Record(BaseModel):
    """A part of a results file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Record):
    """A figure with its 95 % confidence interval."""

    value: Number = Field(description="The figure: the mean over seeds.")
    low: Number = Field(description="Lower end of the 95 % interval.")
    high: Number = Field(description="Upper end of the 95 % interval.")

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}")
        return self


class Deployed(Interval):
    """What the plant runs after the no-harm rule."""

    source: str = Field(description="The variant that was adopted, most often over the seeds.")
    sources: dict[str, Count] = Field(
        default_factory=dict, description="How many seeds adopted each variant."
    )
    why: str = Field("", description="One sentence: why this variant is deployed.")


class Skipped(Record):
    """A file that was left out."""

    file: str = Field(description="Path below the plant's folder.")
    why: str = Field(description="What is wrong with it.")


class Mistake(Record):
    """A wrong prediction, most confident first."""

    file: str = Field(description="Path below the plant's folder; of a row its line too.")
    text: str = Field("", description="What it says, where examples are texts.")
    truth: str = Field(description="The class of its folder or row.")
    predicted: str = Field(description="The class that the model said.")
    confidence: Share = Field(description="Probability that the model gave to `predicted`.")
    picture: str = Field(
        "",
        pattern=r"^(data:image/(jpeg|png|webp|svg\+xml);base64,[A-Za-z0-9+/=]+)?$",
        description="The image as a data URI, or empty.",
    )


class TaskPicture(Record):
    """A picture that fits the task: predicted against true, a life curve, a heat map."""

    title: str = Field(description="What it shows.")
    note: str = Field("", description="How to read it.")
    picture: str = Field(
        pattern=r"^data:image/(jpeg|png|webp|svg\+xml);base64,[A-Za-z0-9+/=]+$",
        description="The picture as a data URI.",
    )


class Privacy(Record):
    """What a plant's rounds cost in privacy: the most of all seeds."""

    unit: Literal["record", "plant"] = Field(description="Whom the noise hides.")
    hides: str = Field(description="The same in words.")
    rounds: Count = Field(description="Rounds that were charged.")
    delta: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Chance that the bound fails; that of the configuration."
    )
    epsilon: NotNegative | None = Field(
        description="Bound on the loss, the better one of two accountants; null: there is none."
    )
    epsilon_rdp: NotNegative | None = Field(description="Bound by Rényi differential privacy.")


class PlantResults(Record):
    """One plant."""

    classes: tuple[str, ...] = Field(
        (), description="Class names, in order of index; empty where numbers are learned."
    )
    numbers: tuple[str, ...] = Field(
        (), description="Names of the numbers that are learned; empty for classes."
    )
    good: str = Field("", description="The class of good parts, or empty.")
    counts: dict[str, Count] = Field(
        description="Examples in `train`, `validation` and `test`, for one seed."
    )
    notes: tuple[str, ...] = Field((), description="What a reader should know of its data.")
    skipped: tuple[Skipped, ...] = Field((), description="Files that were left out.")
    head_only: Interval = Field(description="A new head on frozen source features.")
    local: Interval = Field(description="Fine-tuned at the plant alone.")
    federated: Interval = Field(description="From the last release, as the method says.")
    pooled: Interval | None = Field(
        None, description="All plants' data in one place: a bound that only simulation has."
    )
    deployed: Deployed = Field(description="What the plant runs after the no-harm rule.")
    gain: Interval = Field(
        description="By how much deployed is better than local, paired over examples and seeds."
    )
    metrics: dict[str, dict[str, Number | None]] = Field(
        default_factory=dict,
        description="Test figures by variant and name, mean over seeds, null where one does not "
        "apply. Of classes `accuracy`, `balanced_accuracy`, `macro_f1`, `auroc` (two classes only) "
        "and `escape_rate` (defective parts that pass, with rejects of good parts held to "
        "`config.false_reject_budget`); of numbers `r2`, `rmse`, `mae` and `bias`.",
    )
    recall: dict[str, dict[str, Share | None]] = Field(
        default_factory=dict,
        description="Share of each class that is found, by variant; null where a class has no "
        "test example.",
    )
    confusion: dict[str, tuple[tuple[Count, ...], ...]] = Field(
        default_factory=dict,
        description="Confusion matrix by variant, summed over seeds; rows are the truth.",
    )
    mistakes: dict[str, tuple[Mistake, ...]] = Field(
        default_factory=dict, description="Most confident mistakes by variant."
    )
    pictures: tuple[TaskPicture, ...] = Field(
        (), description="Pictures of the deployed model that fit the task."
    )

    privacy: Privacy | None = Field(
        None, description="What its rounds cost in privacy; null where they had no noise."
    )

    @model_validator(mode="after")
    def _matrices_fit_classes(self) -> Self:
        size = len(self.classes)
        for variant, matrix in self.confusion.items():
            if len(matrix) != size or any(len(row) != size for row in matrix):
                raise ValueError(f"confusion.{variant} must be {size} by {size}, as classes")
        return self


class ReplyResults(Record):
    """What one plant answered in one round."""

    outcome: str = Field(description="`done`, or how it failed.")
    reason: str = Field("", description="Why it failed.")
    weight: NotNegative = Field(0, description="Examples it counts for.")
    scores: dict[str, dict[str, Number]] = Field(
        default_factory=dict,
        description="Validation scores by stage (`local`, `incoming`, `trained`), then by metric.",
    )
    seconds: dict[str, NotNegative] = Field(default_factory=dict, description="Seconds by phase.")
    bytes_up: Count = Field(0, description="Bytes from the plant to the server.")
    bytes_down: Count = Field(0, description="Bytes from the server to the plant.")


class RoundResults(Record):
    """One round of one seed."""

    seed: int = Field(description="Seed of the run.")
    round: Count = Field(description="Number of the round, from 1.")
    outcome: str = Field(description="`committed` or `skipped`.")
    reason: str = Field("", description="Why it was skipped.")
    release: str | None = Field(None, description="Hash of the release that it made.")
    seconds: NotNegative = Field(0, description="Seconds it took.")
    replies: dict[str, ReplyResults] = Field(default_factory=dict, description="Replies by plant.")


class Mean(Record):
    """The five variants, mean over plants."""

    head_only: Interval = Field(description="Head only.")
    local: Interval = Field(description="Local.")
    federated: Interval = Field(description="Federated.")
    pooled: Interval | None = Field(None, description="Pooled, where it was run.")
    deployed: Interval = Field(description="Deployed.")


class Results(Record):
    """results.json."""

    version: Literal[2] = Field(2, description="Version of this schema.")
    transferline: str = Field(description="Version of Transferline that wrote the file.")
    name: str = Field(description="Name of the federation.")
    task: TaskName = Field("image-classification", description="What the plants learned.")
    metric: str = Field("balanced_accuracy", description="What the scores are.")
    word: str = Field("balanced accuracy", description="The same for readers.")
    lower: bool = Field(False, description="Whether a lower score is the better one.")
    share: bool = Field(True, description="Whether scores are shares from 0 to 1.")
    engine: str = Field(description="`local` or `flower`.")
    method: str = Field(description="How the plants learned together.")
    seeds: tuple[int, ...] = Field(min_length=1, description="Seeds that were run.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="federation.toml with every default filled in."
    )
    mean: Mean = Field(description="Scores, mean over plants.")
    gain: Interval = Field(
        description="By how much deployed is better than local, paired, mean over plants."
    )
    plants: dict[str, PlantResults] = Field(min_length=1, description="Plants by name.")
    rounds: tuple[RoundResults, ...] = Field((), description="Rounds of all seeds, in order.")
    seconds: dict[str, NotNegative] = Field(default_factory=dict, description="Seconds by phase.")


class Scores(Record):
    """Scores of one model at every plant."""

    plants: dict[str, Interval] = Field(min_length=1, description="Score by plant.")
    mean: Interval = Field(description="Mean over plants.")


class Answers(Record):
    """What a method's model answers at one plant, before the no-harm rule."""

    classes: tuple[str, ...] = Field(description="Class names, in order of index.")
    confusion: tuple[tuple[Count, ...], ...] = Field(
        description="Confusion matrix, summed over seeds; rows are the truth."
    )
    mistakes: tuple[Mistake, ...] = Field(
        (), description="Most confident mistakes of the first seed."
    )


class MethodScores(Scores):
    """One method, before and after the no-harm rule."""

    deployed: Scores | None = Field(
        None, description="After the no-harm rule; null for methods where nothing travels."
    )
    answers: dict[str, Answers] = Field(
        default_factory=dict,
        description="What its models answer, by plant; empty where numbers are learned.",
    )
    seconds: dict[str, NotNegative] = Field(
        default_factory=dict,
        description="Seconds by phase, all seeds; where nothing travels `training alone`, added "
        "up over the plants.",
    )


class Comparison(Record):
    """compare.json."""

    version: Literal[2] = Field(2, description="Version of this schema.")
    name: str = Field(description="Name of the federation.")
    metric: str = Field("balanced_accuracy", description="What the scores are.")
    word: str = Field("balanced accuracy", description="The same for readers.")
    lower: bool = Field(False, description="Whether a lower score is the better one.")
    share: bool = Field(True, description="Whether scores are shares from 0 to 1.")
    seeds: tuple[int, ...] = Field(min_length=1, description="Seeds, the same for all methods.")
    methods: dict[str, MethodScores] = Field(
        min_length=1, description="Methods by name, in the order asked for."
    )
    runs: dict[str, str] = Field(
        default_factory=dict,
        description="results.json of each method's run, relative to this file.",
    )


def save_results(path: Path, results: Results | Comparison) -> None:
    """Write results.json or compare.json, atomically; `StateError` if the folder refuses."""
    write_atomic(path, (results.model_dump_json(indent=2) + "\n").encode())


def title(model: type[BaseModel]) -> str:
    """Return the file that a model is: ``results.json``."""
    return (model.__doc__ or "").removesuffix(".")


def write_plants_csv(path: Path, results: Results) -> None:
    """Write plants.csv: a row a plant, three columns a variant, empty where it was not run."""
    columns = {
        name + ending: (name, end)
        for name in (*VARIANTS, "gain")
        for ending, end in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    counts = ("train", "validation", "test")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["plant", *columns, "source", *counts])
    for plant, row in results.plants.items():
        figures = [getattr(getattr(row, name), end, "") for name, end in columns.values()]
        sizes = [row.counts.get(key, "") for key in counts]
        table.writerow([plant, *figures, row.deployed.source, *sizes])
    write_atomic(path, text.getvalue().encode())
