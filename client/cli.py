"""``transferline-plant``: what the engineer of a plant types.

``check`` reads a folder of images as a round would, and says what it found: classes, how many
images go where, and which files cannot be used and why. Nothing leaves the machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from client.tasks.images import ImageData, Selection, load_images
from common.terminal import command_line, console, progress, run

app = command_line(about="One plant of a federation.")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The plant's folder: one folder a class.")],
    *,
    image_size: Annotated[int, typer.Option(min=32, max=1024, help="Side, pixels.")] = 96,
    good: Annotated[str, typer.Option(help="The class of good parts.")] = "",
    labels_per_class: Annotated[
        int | None, typer.Option(min=2, help="Labelled images a class; default: as many as fit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Read a plant's images and say what a federation would learn from.

    Example: transferline-plant check images/steel --good good --labels-per-class 20
    """
    selection = Selection(good=good, labels_per_class=labels_per_class, image_size=image_size)
    with progress("reading") as advance:
        data = load_images(
            folder, selection=selection, progress=lambda done, total: advance(f"of {total}")
        )
    if as_json:
        console().print_json(json.dumps(_facts(data)))
    else:
        _print(data)


def main() -> None:
    """Run the command line."""
    run(app)


def _facts(data: ImageData) -> dict[str, object]:
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


def _count(data: ImageData, indices: torch.Tensor, label: int) -> int:
    return int((data.labels[indices] == label).sum())


def _print(data: ImageData) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for part in ("train", "validation", "test"):
        table.add_column(part, justify="right")
    for label, name in enumerate(data.classes):
        counts = (_count(data, part, label) for part in (data.train, data.validation, data.test))
        table.add_row(f"{name} (good)" if name == data.good else name, *map(str, counts))
    table.add_row("all", *(str(count) for count in data.counts.values()))
    out = console()
    out.print(table)
    for note in data.notes:
        out.print(f"note: {note}", markup=False)
    for one in data.skipped:
        out.print(f"skipped: {one.file}: {one.why}", markup=False)


if __name__ == "__main__":
    main()
