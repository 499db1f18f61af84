"""The two tasks on series as the rest of a plant sees them (`client.tasks.Task`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from client.tasks.classes import Classes
from client.tasks.data import PlantData, Progress, Unlabelled
from client.tasks.meaning import Meaning
from client.tasks.metrics import Prediction
from client.tasks.numbers import Numbers
from client.tasks.series.dataset import load_series, read_series
from client.tasks.series.files import is_series
from client.tasks.series.life import nasa_score
from client.tasks.series.selection import Selection
from client.tasks.series.transforms import FrontEnd, Vary
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError
from common.tasks import RMSE, Measure


def selection_of(config: FederationConfig, settings: PlantConfig) -> Selection:
    """Put federation.toml and plant.toml together.

    Raises
    ------
    ConfigError
        If no channels are named.
    """
    section, own = config.series, settings.series
    if not section.channels:
        raise ConfigError("series.channels must name the channels that every plant has, got none")
    shared = {
        name: getattr(section, name)
        for name in (
            "channels", "rate", "per_revolution", "speed", "window", "gap", "normalise",
            "settings", "unit", "label", "target", "horizon", "cap", "judge_end",
            "short",
        )
    }  # fmt: skip
    return Selection(
        **shared,
        stride=section.step,
        typical=tuple(sorted(section.typical.items())),
        conditions=own.conditions or section.conditions,
        names=own.names,
        recorded=own.recorded,
        rpm=own.rpm,
        classes=settings.classes,
        good=settings.good,
        labels_per_class=settings.labels_per_class,
        test_per_class=settings.test_per_class,
        seed=settings.seed,
    )


@dataclass(frozen=True, kw_only=True)
class SeriesClasses(Classes):
    """Series of classes: fault diagnosis.

    Attributes
    ----------
    selection : which recordings to use, and how.
    front : what the network sees of a window.
    augment : strength of the augmentation; 0 turns it off.
    """

    layout: ClassVar[str] = "<plant>/<class>/ folders of recordings, or <plant>/ files with a label"

    selection: Selection
    front: str = "none"
    augment: float = 1.0

    @classmethod
    def of(cls, config: FederationConfig, settings: PlantConfig) -> SeriesClasses:
        return cls(
            selection=selection_of(config, settings),
            front=config.series.front,
            augment=config.training.augment,
            label_smoothing=config.training.label_smoothing,
            false_reject_budget=config.false_reject_budget,
        )

    @staticmethod
    def is_plant(folder: Path) -> bool:
        return _holds_series(folder) or (
            folder.is_dir() and any(_holds_series(child) for child in folder.iterdir())
        )

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        return load_series(folder, selection=self.selection, learns="classes", progress=progress)

    def read(self, place: Path, *, like: Meaning, progress: Progress | None = None) -> Unlabelled:
        return read_series(
            place, selection=self.selection, like=like, ends=False, progress=progress
        )

    def training_transform(self) -> Vary:
        return Vary(self.evaluation_transform(), strength=self.augment, turn=True)

    def evaluation_transform(self) -> FrontEnd:
        return FrontEnd(self.front, self.selection.normalise)

    def schema(self, data: PlantData) -> Mapping[str, Any]:
        """Say what kind of data this is, without what is in it."""
        return {"task": "series-classification", **_outline(self.selection, self.front)} | {
            "classes": len(data.classes)
        }


@dataclass(frozen=True, kw_only=True)
class SeriesNumbers(Numbers):
    """Series and a number at their end, or their next values."""

    layout: ClassVar[str] = "<plant>/ files with a column that is learned"

    selection: Selection
    measure: Measure = RMSE
    front: str = "none"
    augment: float = 1.0

    @classmethod
    def of(cls, config: FederationConfig, settings: PlantConfig) -> SeriesNumbers:
        if not config.series.target:
            raise ConfigError("series.target must name the column that is learned, got none")
        return cls(
            selection=selection_of(config, settings),
            front=config.series.front,
            augment=config.training.augment,
        )

    @staticmethod
    def is_plant(folder: Path) -> bool:
        return _holds_series(folder)

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        return load_series(folder, selection=self.selection, learns="numbers", progress=progress)

    def read(self, place: Path, *, like: Meaning, progress: Progress | None = None) -> Unlabelled:
        return read_series(place, selection=self.selection, like=like, ends=True, progress=progress)

    def training_transform(self) -> Vary:
        return Vary(self.evaluation_transform(), strength=self.augment, turn=False)

    def evaluation_transform(self) -> FrontEnd:
        return FrontEnd(self.front, self.selection.normalise)

    def decode(self, outputs: Tensor, *, data: PlantData) -> Tensor:
        """Return numbers in the plant's units; a life is between 0 and its cap."""
        numbers = super().decode(outputs, data=data)
        cap = self.selection.cap
        return numbers if cap is None else torch.clamp(numbers, 0.0, cap)

    def scores(self, prediction: Prediction, *, data: PlantData) -> dict[str, Any]:
        found = super().scores(prediction, data=data)
        if self.selection.cap is not None:
            found["nasa_score"] = nasa_score(prediction.predicted, prediction.truth)
        return found

    def schema(self, data: PlantData) -> Mapping[str, Any]:
        """Say what kind of data this is, without what is in it."""
        return {"task": "series-regression", **_outline(self.selection, self.front)} | {
            "outputs": len(data.numbers)
        }


def _outline(selection: Selection, front: str) -> dict[str, Any]:
    return {"channels": len(selection.channels), "window": selection.window, "front": front}


def _holds_series(folder: Path) -> bool:
    return folder.is_dir() and any(
        child.is_file() and is_series(child.name) for child in folder.iterdir()
    )
