"""``check`` of a folder of data: what a federation would learn from it, and what it cannot use.

Reads as a round would. Nothing is written and nothing leaves the machine.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from client.tasks.data import PlantData


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
        out.print(f"note: {note}", markup=False)
    for one in data.skipped:
        out.print(f"skipped: {one.file}: {one.why}", markup=False)


def _count(data: PlantData, indices: torch.Tensor, label: int) -> int:
    return int((data.targets[indices] == label).sum())


def _range(data: PlantData, indices: torch.Tensor, column: int) -> tuple[float, float]:
    values = data.targets[indices, column]
    return float(values.min()), float(values.max())
