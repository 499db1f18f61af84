"""Kill points: moments of a round, each a function that says whether it has come.

They are read from what the processes leave on disk or send over the wire, so nothing in the product
knows of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing

from tests.e2e.harness import Centre, Plant
from tests.e2e.processes import wait_for

Moment = Callable[[], bool]


def round_started(centre: Centre, run: str, number: int) -> Moment:
    """An order goes out."""
    return lambda: bool(centre.told(run, "RoundStarted", number))


def round_closed(centre: Centre, run: str, number: int) -> Moment:
    """A round is committed or skipped: the time between two rounds begins."""
    return lambda: number in centre.rounds(run)


def training(plant: Plant, number: int) -> Moment:
    """The plant's daemon has handed the order of a round to its worker."""

    def looked() -> bool:
        place = f"file:{plant.folder / 'ledger.db'}?mode=ro"
        with closing(sqlite3.connect(place, uri=True)) as ledger:
            row = ledger.execute("SELECT value FROM facts WHERE name = 'work'").fetchone()
        work = json.loads(row[0]) if row else None
        return bool(work) and work["round"] == number

    return looked


def filed(plant: Plant) -> Moment:
    """The plant's next answer is in its outbox, and about to be sent."""
    before = plant.filed()
    return lambda: bool(plant.filed() - before)


def uploading(plant: Plant, size: int) -> Moment:
    """So many bytes of the plant's next answer are on their way up."""
    assert plant.proxy
    counts, answered = plant.proxy.counts, filed(plant)
    before: list[int] = []

    def looked() -> bool:
        if not before and answered():
            before.append(counts.up)
        return bool(before) and counts.up > before[0] + size

    return looked


def committing(centre: Centre, number: int) -> Moment:
    """The file of a release is there; its row may not be."""
    return (centre.folder / "releases" / str(number) / "backbone.safetensors").exists


def at(moment: Moment, *, what: str, seconds: float = 1200) -> None:
    """Wait for a moment, to a hundredth of a second."""
    wait_for(moment, what=what, seconds=seconds, period=0.01)
