"""``inspect``: what the plant's own model says of new examples.

They are read, and what is said is put into words, by what the model meant when it was made: the
plant's data is not looked at, and may have changed since, or be gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from client.device import choose_device
from client.plant import Plant
from client.tasks.data import Progress, Skipped
from client.tasks.meaning import Meaning
from client.training import Trainer
from common.config import FederationConfig
from common.errors import StateError


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a model says of examples.

    Attributes
    ----------
    version, source : of the model (`client.personal.Deployment`).
    names : of the examples.
    outputs : classes, or names of numbers.
    predicted : probabilities of the classes, or the numbers, shape (examples, outputs).
    good : the class of good parts, or "".
    classes : whether ``outputs`` are classes.
    notes : where the examples lie outside what the model knows, one line each.
    """

    version: int
    source: str
    names: Sequence[str]
    outputs: Sequence[str]
    predicted: npt.NDArray[np.float32]
    classes: bool
    good: str = ""
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()

    @property
    def verdicts(self) -> list[str]:
        """The likeliest class of each example; empty for numbers."""
        if not self.classes:
            return []
        return [self.outputs[place] for place in self.predicted.argmax(axis=1)]

    def facts(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        verdicts = self.verdicts
        what = "probabilities" if self.classes else "numbers"
        rows: list[dict[str, Any]] = []
        for place, name in enumerate(self.names):
            said = {"class": verdicts[place]} if verdicts else {}
            values = zip(self.outputs, self.predicted[place].tolist(), strict=True)
            rows.append({"name": name, **said, what: dict(values)})
        return {
            "model": {"version": self.version, "source": self.source},
            "examples": rows,
            "skipped": [{"file": one.file, "why": one.why} for one in self.skipped],
            "notes": list(self.notes),
        }


def inspect(folder: Path, place: Path, *, progress: Progress | None = None) -> Inspection:
    """Let the model of the plant in a folder judge a file, or what is in a folder.

    Raises
    ------
    StateError
        If the plant has no model yet, or one that does not say what its answers mean.
    TransferlineError
        As reading raises.
    """
    plant = Plant.open(folder)
    deployed = plant.store.deployed()
    if deployed is None:
        raise StateError(
            f"plant {plant.name} must have a model to inspect with, got none; it comes with the "
            "first release"
        )
    version = plant.store.version(deployed.version)
    meaning = Meaning.of(version.meaning, where=f"model {version.number}")
    config = FederationConfig.model_validate_json(version.config)
    task, device = plant.task(config), choose_device(plant.settings.device)
    found = task.read(place, like=meaning, progress=progress)
    data = found.under(meaning).to(device)
    network = plant.model(version.number, config=config)
    trainer = Trainer(task=task, data=data, config=config, device=device, seed=0)
    predicted = trainer.predict(network, torch.arange(len(found.names), device=device))
    return Inspection(
        version=deployed.version,
        source=deployed.source,
        names=found.names,
        outputs=meaning.classes or meaning.numbers,
        predicted=predicted.numpy(),
        classes=bool(meaning.classes),
        good=meaning.good,
        skipped=found.skipped,
        notes=found.notes,
    )


def show(out: Console, found: Inspection) -> None:
    """Print one line an example, then how many of what."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    if verdicts := found.verdicts:
        table.add_column("class")
        table.add_column("sure", justify="right")
        for name, verdict, said in zip(found.names, verdicts, found.predicted, strict=True):
            style = "" if verdict == found.good or not found.good else "bold"
            table.add_row(name, verdict, f"{said.max():.0%}", style=style)
    else:
        for name in found.outputs:
            table.add_column(name, justify="right")
        for name, said in zip(found.names, found.predicted, strict=True):
            table.add_row(name, *(f"{value:.4g}" for value in said))
    out.print(table)
    for one in found.skipped:
        out.print(f"skipped: {one.file}: {one.why}")
    counts = ", ".join(f"{count} {name}" for name, count in Counter(verdicts).most_common())
    out.print(
        f"\n{len(found.names)} judged by version {found.version} ({found.source})"
        + (f": {counts}" if counts else ""),
    )
