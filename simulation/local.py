"""The local engine: a Fleet of Plants on this machine, in one process or several.

Each plant is pinned to one worker, so that its dataset and network stay warm there. Results do not
depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from client.plant import open_plant
from common.errors import EngineError
from common.orders import Order, Outcome, Release, Reply
from simulation.workers import Lost, Task, Workers


class LocalFleet:
    """The plants of one run folder, behind the Fleet seam."""

    def __init__(self, folder: Path, *, plants: Sequence[str], workers: Workers) -> None:
        self._folder = folder
        self._plants = sorted(plants)
        self._workers = workers

    def plants(self) -> list[str]:
        return list(self._plants)

    def ask(self, order: Order, release: Release) -> Iterator[Reply]:
        """Yield replies as they arrive; what is late is left out."""
        asked = [name for name in order.cohort if name in self._plants]
        tasks = [
            Task(self._plants.index(name), answer, (self._folder / "plants" / name, order, release))
            for name in asked
        ]
        for position, result in self._workers.each(tasks, seconds=order.deadline):
            if result is Lost.DIED:
                yield _died(asked[position], order)
            elif result is not Lost.LATE:
                yield result


def answer(folder: Path, order: Order, release: Release) -> Reply:
    """Let the plant in a folder answer, in whatever process this runs."""
    return open_plant(folder).answer(order, release)


def _died(name: str, order: Order) -> Reply:
    return Reply(
        plant=name,
        run=order.run,
        round=order.round,
        release=order.release,
        outcome=Outcome.FAILED,
        reason=EngineError.code,
    )
