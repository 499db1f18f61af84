"""Kinds of data that a plant can learn from; `TASKS` has them by name.

A new kind of data is a file here (or a folder), a line in `TASKS`, a line in `common.tasks.KINDS`,
and, where its networks are new, a family in `common.backbones`. What a task must bring is `Task`:

- **Reading.** ``of(config, settings)`` makes a task from federation.toml and plant.toml; ``load``
  turns a plant's folder into a `PlantData` (`client.tasks.data`): one tensor of inputs, one of
  targets, and the split of `client.tasks.split`. What does not fit is a `DataError` of one line:
  `check`, `join` and the first round all read by ``load``, so that a plant is told early.
  ``read`` does the same for examples that have no label, for a model to judge, by what that
  model means (`client.tasks.meaning`), not by what is in the plant's folder.
- **Preparing.** ``training_transform`` and ``evaluation_transform`` turn a raw batch into what the
  network's ``embed`` takes, on the device; the first gets a generator for its randomness.
- **Learning and scoring.** ``loss``, ``decode``, ``quick_scores``, ``worth`` and the rest. Tasks
  of classes inherit all of it from `client.tasks.classes.Classes`, tasks of numbers from
  `client.tasks.numbers.Numbers`, and override what they must. A head that is fitted in another way
  than by gradients (a memory bank, ridge) has a method ``fit`` (`common.backbones.FittedHead`).

Settings of a kind are a section of their own in federation.toml and one of the same name in
plant.toml (`common/config/<section>.py`); a plant's section goes before the federation's.
Pictures for the report come from `simulation.pictures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from client.tasks.anomaly import AnomalyTask
from client.tasks.data import PlantData, Progress, Unlabelled
from client.tasks.images import ImageTask
from client.tasks.meaning import Meaning
from client.tasks.metrics import Prediction
from client.tasks.series.task import SeriesClasses, SeriesNumbers
from client.tasks.tables.task import TableKind
from client.tasks.text import TextTask
from common.config import FederationConfig, PlantConfig
from common.tasks import Measure, TaskName

__all__ = ["TASKS", "PlantData", "Task", "task_of"]

Array = npt.NDArray[Any]


class Task(Protocol):
    """What a plant needs from a kind of data.

    Predictions are what ``decode`` makes of the network's outputs: probabilities, shape (n,
    classes), or numbers in the plant's units, shape (n, outputs).
    """

    @property
    def measure(self) -> Measure:
        """The score that states of training are chosen by; a key of ``quick_scores``."""
        ...

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        """Read and split a plant's folder; DataError if it is not fit for use."""
        ...

    def read(self, place: Path, *, like: Meaning, progress: Progress | None = None) -> Unlabelled:
        """Read examples without labels, a file or a folder, as a model of this meaning needs them.

        Notes say where they lie outside what the model knows. DataError if nothing there can be
        judged.
        """
        ...

    def training_transform(self) -> Callable[[Tensor, torch.Generator], Tensor]:
        """Return what turns a raw batch into the network's input, with augmentation."""
        ...

    def evaluation_transform(self) -> Callable[[Tensor], Tensor]:
        """Return what turns a raw batch into the network's input."""
        ...

    def head_transform(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """Return what makes of a raw batch what a head fits itself to; None: the evaluation's."""
        ...

    def views(self) -> Callable[[Tensor, torch.Generator], Tensor] | None:
        """Return what makes one of two views of a raw batch; None unless its `Kind` has views."""
        ...

    def weights(self, data: PlantData, indices: Tensor) -> Tensor | None:
        """Return what ``loss`` weighs by, worked out once for a training set."""
        ...

    def loss(
        self, outputs: Tensor, targets: Tensor, *, weights: Tensor | None, data: PlantData
    ) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        ...

    def decode(self, outputs: Tensor, *, data: PlantData) -> Tensor:
        """Return predictions from the network's outputs."""
        ...

    def quick_scores(
        self, predicted: Tensor, targets: Tensor, *, data: PlantData
    ) -> dict[str, float]:
        """Return a few scores, ``measure`` and ``loss`` among them; cheap enough for every epoch.

        They leave the plant with its replies.
        """
        ...

    def slack(self, examples: int) -> float:
        """Return by how much the measure may differ by chance: such states count as equal."""
        ...

    def worth(self, predicted: Array, targets: Array, *, data: PlantData) -> Array:
        """Return how good each single prediction is, float64, shape (n,): more is better.

        The no-harm rule compares two models by it, example by example (`client.adoption`), and
        ``adoption_margin`` is in its units.
        """
        ...

    def strata(self, targets: Array) -> Array:
        """Return groups that count alike in that comparison: int64, shape (n,); zeros for none."""
        ...

    def gained(self, gain: str) -> str:
        """Put a difference of ``worth`` into words, after "the federated model"."""
        ...

    def doubt(self) -> str:
        """Say why the plant's validation examples cannot vouch for a release; "" if they can."""
        ...

    def scores(self, prediction: Prediction, *, data: PlantData) -> dict[str, Any]:
        """Return all scores of test predictions for the report, ready for JSON.

        Numbers or None by name; and, of classes, ``recall`` by class and ``confusion``. Of
        ``data`` only classes, numbers, good, centre and spread may be used.
        """
        ...

    def schema(self, data: PlantData) -> Mapping[str, Any]:
        """Say what the data is without saying what is in it; this may leave the plant."""
        ...

    def pool(self, plants: Sequence[PlantData]) -> PlantData:
        """Put several plants' data together, in order; simulation only."""
        ...

    def restrict(self, predicted: Tensor, *, pooled: PlantData, plant: PlantData) -> Tensor:
        """Turn predictions of a model of the pooled data into those of one of its plants."""
        ...


class Kind(Protocol):
    """How a task is made, and how its plants' folders are told from others.

    Attributes
    ----------
    layout : what a folder of plants holds, for messages.
    """

    @property
    def layout(self) -> str: ...

    def of(self, config: FederationConfig, settings: PlantConfig) -> Task:
        """Return the task of a plant; ConfigError if a setting is missing."""
        ...

    def is_plant(self, folder: Path) -> bool:
        """Whether a folder looks like a plant's data; for ``--data ROOT`` of the simulation."""
        ...


TASKS: dict[TaskName, Kind] = {
    "image-classification": ImageTask,
    "series-classification": SeriesClasses,
    "series-regression": SeriesNumbers,
    "tabular": TableKind(),
    "text-classification": TextTask,
    "image-anomaly": AnomalyTask,
}


def task_of(config: FederationConfig, settings: PlantConfig) -> Task:
    """Return the task of a plant in a federation.

    Raises
    ------
    ConfigError
        If a setting that it needs is missing.
    """
    return TASKS[config.task].of(config, settings)
