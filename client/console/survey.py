"""``check`` of a folder of images: what a federation would learn from it, and what it cannot use.

Reads as a round would. Nothing is written and nothing leaves the machine.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from client.tasks.images import ImageData


def facts(data: ImageData) -> dict[str, Any]:
    """Return what was found, ready for JSON."""
    sets = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "classes": {
            name: {part: _count(data, indices, label) for part, indices in sets.items()}
            for label, name in enumerate(data.classes)
        },
        "good": data.good,
        "notes": list(data.notes),
        "skipped": [{"file": one.file, "why": one.why} for one in data.skipped],
    }


def show(out: Console, data: ImageData) -> None:
    """Print images by class and set, and every file that cannot be used."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for part in ("train", "validation", "test"):
        table.add_column(part, justify="right")
    for label, name in enumerate(data.classes):
        counts = (_count(data, part, label) for part in (data.train, data.validation, data.test))
        table.add_row(f"{name} (good)" if name == data.good else name, *map(str, counts))
    table.add_row("all", *(str(count) for count in data.counts.values()))
    out.print(table)
    for note in data.notes:
        out.print(f"note: {note}", markup=False)
    for one in data.skipped:
        out.print(f"skipped: {one.file}: {one.why}", markup=False)


def _count(data: ImageData, indices: torch.Tensor, label: int) -> int:
    return int((data.labels[indices] == label).sum())
