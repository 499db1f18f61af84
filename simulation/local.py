"""The local engine: a Fleet of Plants on this machine, in one process or several.

Each plant is pinned to one worker, so that its dataset and network stay warm there. Results do not
depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from client.plant import open_plant
from common.errors import EngineError
from common.orders import Order, Outcome, Release, Reply
from common.secagg.messages import Call, Said
from simulation.desks import Desks
from simulation.workers import Lost, Task, Workers


class LocalFleet:
    """The plants of one run folder, behind the Fleet seam.

    What a plant's daemon does around training in a secure sum is done here, in the process that
    runs the simulation: it keeps each plant's session in memory, and masks the update that comes
    out of a worker process (`simulation.desks`).
    """

    def __init__(self, folder: Path, *, plants: Sequence[str], workers: Workers) -> None:
        self._folder = folder
        self._plants = sorted(plants)
        self._workers = workers

    @cached_property
    def desks(self) -> Desks:
        """The plants' part in secure sums; opened when it is first needed."""
        return Desks.open(self._folder, plants=self._plants)

    def plants(self) -> list[str]:
        return list(self._plants)

    def ask(
        self, order: Order, release: Release, *, beside: Mapping[str, str] | None = None
    ) -> Iterator[Reply]:
        """Yield replies as they arrive; what is late is left out."""
        asked = [name for name in order.cohort if name in self._plants]
        if beside is not None:
            refused = {name: self.desks.refusal(name, order, beside[name]) for name in beside}
            yield from (reply for reply in refused.values() if reply is not None)
            asked = [name for name in asked if name in refused and refused[name] is None]
        tasks = [
            Task(self._plants.index(name), answer, (self._folder / "plants" / name, order, release))
            for name in asked
        ]
        for position, result in self._workers.each(tasks, seconds=order.deadline):
            name = asked[position]
            if result is Lost.DIED:
                yield _died(name, order)
            elif result is not Lost.LATE and beside is not None:
                yield self.desks.mask(name, order, beside[name], result)
            elif result is not Lost.LATE:
                yield result

    def exchange(
        self, calls: Mapping[str, Call], *, run: str, seconds: float
    ) -> Iterator[tuple[str, Said]]:
        """Yield each plant's answer to a call of a secure sum."""
        for name, call in calls.items():
            if name in self._plants:
                yield name, self.desks.call(name, call)


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
