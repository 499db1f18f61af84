"""``check`` of a folder of data: what a federation would learn from it, and what it cannot use.

Reads as a round would. Nothing is written and nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from client import fitting
from client.tasks import TASKS
from client.tasks.data import PlantData, Progress
from common.backbone import settled
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError
from common.tasks import KINDS
from common.toml import read_toml, validate


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A folder of data and by what it is to be read.

    Attributes
    ----------
    settings : of a plant that would have this data.
    """

    config: FederationConfig
    settings: PlantConfig

    @classmethod
    def of(cls, folder: Path, *, file: Path | None, given: Mapping[str, Any]) -> Asked:
        """Put a federation's settings and what was typed together.

        Parameters
        ----------
        file : federation.toml; its ``[plants.NAME]`` of the folder's name counts too.
        given : keys that go before those of the file, None where nothing was typed; ``good`` is
            the plant's.

        Raises
        ------
        ConfigError
            If the file or a key is wrong, or nothing says what kind of data it is.
        """
        values = {} if file is None else read_toml(file, hint="write one with `init`")
        if file is None and not given.get("task"):
            _images_alone(folder)
        typed = {key: value for key, value in given.items() if value is not None}
        good = typed.pop("good", "")
        config = validate(FederationConfig, values | typed, name=str(file or "check"))
        config = settled(config, base=Path() if file is None else file.parent)
        settings = fitting.settings_of(
            config, name=folder.resolve().name[:64] or "plant", data=folder
        )
        if good:
            settings = settings.model_copy(update={"good": good})
        return cls(config=config, settings=settings)

    def read(self, *, progress: Progress | None = None) -> PlantData:
        """Read the data as a round would, and keep nothing.

        Raises
        ------
        DataError, ConfigError
            If it is not fit for training.
        """
        return fitting.read(
            self.settings, self.config, folder=Path(), cache=None, progress=progress
        )


def _images_alone(folder: Path) -> None:
    """Refuse a folder that holds something else than images, where nobody says what it is for."""
    images = any(kind.is_plant(folder) for task, kind in TASKS.items() if KINDS[task].images)
    fitting_tasks = [
        task for task, kind in TASKS.items() if not KINDS[task].images and kind.is_plant(folder)
    ]
    if folder.is_dir() and not images and fitting_tasks:
        raise ConfigError(
            f"{folder} must hold images in class folders where no task is named, got files of "
            f"another kind; give --task {' or '.join(fitting_tasks)}, or --federation FILE"
        )


def facts(data: PlantData) -> dict[str, Any]:
    """Return what was found, ready for JSON."""
    sets = {"train": data.train, "validation": data.validation, "test": data.test}
    numbers = {
        "numbers": {
            name: {part: _range(data, indices, column) for part, indices in sets.items()}
            for column, name in enumerate(data.numbers)
        }
    }
    return {
        **(numbers if data.numbers else {}),
        "counts": data.counts,
        "classes": {
            name: {part: _count(data, indices, label) for part, indices in sets.items()}
            for label, name in enumerate(data.classes)
        },
        "good": data.good,
        "notes": list(data.notes),
        "skipped": [{"file": one.file, "why": one.why} for one in data.skipped],
    }


def show(out: Console, data: PlantData) -> None:
    """Print examples by class and set (of numbers, how they lie), and all that cannot be used."""
    table = Table(box=None, pad_edge=False)
    table.add_column("number" if data.numbers else "class")
    for part in ("train", "validation", "test"):
        table.add_column(part, justify="right")
    for label, name in enumerate(data.classes):
        counts = (_count(data, part, label) for part in (data.train, data.validation, data.test))
        table.add_row(f"{name} (good)" if name == data.good else name, *map(str, counts))
    for column, name in enumerate(data.numbers):
        ranges = (_range(data, part, column) for part in (data.train, data.validation, data.test))
        table.add_row(name, *(f"{low:g} to {high:g}" for low, high in ranges))
    table.add_row("all", *(str(count) for count in data.counts.values()))
    out.print(table)
    for note in data.notes:
        out.print(f"note: {note}")
    for one in data.skipped:
        out.print(f"skipped: {one.file}: {one.why}")


def _count(data: PlantData, indices: torch.Tensor, label: int) -> int:
    return int((data.targets[indices] == label).sum())


def _range(data: PlantData, indices: torch.Tensor, column: int) -> tuple[float, float]:
    values = data.targets[indices, column]
    return float(values.min()), float(values.max())
