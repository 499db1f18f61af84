"""Keeps the run that is due running: the queue's next one, or the one that lost its program.

A run's program is a ServerApp several processes away. That it lives says its heartbeat in the
store: a dead one shows as running at SuperLink for another minute. One that is lost is started
anew under a new fencing number, and goes on from the last committed round; the lost one can write
nothing any more. After each loss without progress the next start waits longer. Of a run that is to
stop too: the new program finishes the round that was begun. What takes longer than a round may is
ended then.

Heartbeats are told apart by their change, not by their time, so a clock that is set does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from common.errors import EngineError, StateError
from server.state.registry import Registry
from server.state.tables import HOLDING, QUEUED, STOPPED, STOPPING, RunRow

LOST = 15.0  #: seconds without a heartbeat
STARTING = 60.0  #: seconds until the first one
PROGRESS = 120.0  #: a program that lived so long was not started in vain
DELAY = (2.0, 60.0)  #: seconds before a lost program is started again: first, longest
GRACE = 60.0  #: seconds beyond its round's deadline that a run may take to stop
LEAVE = 10.0  #: seconds that the program of a run that has ended may take to end

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What starts programs (`server.engine.control.Control`)."""

    def is_up(self) -> bool: ...
    def submit(self, run: str, *, fence: int) -> int:
        """Start the program of a run and return its id; EngineError if it cannot be."""
        ...

    def has_ended(self, ident: int) -> bool: ...
    def stop(self, ident: int) -> None: ...


@dataclass
class _Program:
    """What this process has started, for a run."""

    run: str
    fence: int
    ident: int
    started: float
    heartbeat: object = None
    heard: float = field(init=False)

    def __post_init__(self) -> None:
        self.heard = self.started


class RunWatch:
    """Looks after the runs of a centre; `step` once a second.

    Parameters
    ----------
    engine : starts and stops programs.
    say : told what happens, one line each.
    reason : of a run's last failure, in its own words; "" if there is none.
    clock : monotonic seconds.

    Attributes
    ----------
    registry : where the runs are; may be replaced between two steps.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        engine: Engine,
        say: Callable[[str], None],
        reason: Callable[[str], str] = lambda run: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._engine, self._say, self._reason, self._clock = engine, say, reason, clock
        self._program: _Program | None = None
        self._ended: dict[int, float] = {}
        self._delay, self._next = DELAY[0], 0.0
        self._stopping: float | None = None

    @property
    def current(self) -> str:
        """Name of the run whose program this process has started, or ""."""
        return "" if self._program is None else self._program.run

    def engine_restarted(self) -> None:
        """Take the program as lost: it has ended with the engine."""
        self._program = None
        self._ended.clear()

    def step(self) -> None:
        """Do what is due.

        Raises
        ------
        StateError
            If the store cannot be used; nothing is lost, try again.
        """
        rows = self.registry.runs()
        self._leave(rows)
        held = next((row for row in rows if row.state in HOLDING), None)
        if held is None or held.state != STOPPING:
            self._stopping = None
        if held is None:
            waiting = next((row for row in rows if row.state == QUEUED), None)
            if waiting is not None:
                self._start(waiting)
            return
        lost = self._lost(held)
        if held.state == STOPPING and self._is_overdue(held):
            self._stop(held)
        elif lost:
            self._drop(held, lost)
            self._start(held)

    def _leave(self, rows: Sequence[RunRow]) -> None:
        """End programs of runs that have ended, in case they have not."""
        now = self._clock()
        program = self._program
        row = next((row for row in rows if program and row.name == program.run), None)
        if program is not None and row is not None and row.state not in HOLDING:
            self._ended[program.ident] = now + LEAVE
            self._program = None
            self._delay, self._next = DELAY[0], now
            self._say(f"run {row.name} {row.state}{f': {row.reason}' if row.reason else ''}")
        for ident, due in list(self._ended.items()):
            if now >= due:
                self._engine.stop(ident)
                del self._ended[ident]

    def _is_overdue(self, row: RunRow) -> bool:
        """Whether a run that is to stop takes longer than its round may."""
        now = self._clock()
        if self._stopping is None:
            self._stopping = now
            self._say(f"run {row.name} stops after its round")
        return now - self._stopping > float(row.config["round_deadline"]) + GRACE

    def _stop(self, row: RunRow) -> None:
        """End a run without waiting for its program."""
        if row.flower_run is not None:
            self._engine.stop(row.flower_run)
        said = "stopped by the operator"
        self.registry.finish(row.name, fence=row.fence, state=STOPPED, reason=said)

    def _lost(self, row: RunRow) -> str:
        """Say why no program of this run lives, as far as can be known; "" if one does."""
        program, now = self._program, self._clock()
        if program is None or (program.run, program.fence) != (row.name, row.fence):
            return "no program"
        if row.heartbeat != program.heartbeat:
            program.heartbeat, program.heard = row.heartbeat, now
        silent = now - program.heard
        if silent > (LOST if program.heartbeat is not None else STARTING):
            return f"no sign of life for {silent:.0f} s"
        if silent > LOST / 5 and self._engine.has_ended(program.ident):
            return "its process ended"
        if now - program.started > PROGRESS:
            self._delay = DELAY[0]
        return ""

    def _drop(self, row: RunRow, lost: str) -> None:
        """Give up a program that is lost."""
        if self._program is None:
            return
        self._engine.stop(self._program.ident)
        self._program = None
        self._wait()
        why = self._reason(row.name)
        self._say(
            f"run {row.name}: {lost}{f' ({why})' if why else ''}; starts again in "
            f"{self._next - self._clock():.0f} s"
        )

    def _wait(self) -> None:
        self._next = self._clock() + self._delay
        self._delay = min(2 * self._delay, DELAY[1])

    def _start(self, row: RunRow) -> None:
        """Take the run and start a program for it."""
        if self._clock() < self._next or not self._engine.is_up():
            return
        if row.flower_run is not None:
            self._engine.stop(row.flower_run)
        again = row.fence > 0
        try:
            fence = self.registry.take(row.name)
            ident = self._engine.submit(row.name, fence=fence)
            self.registry.launched(row.name, fence=fence, flower_run=ident)
        except (EngineError, StateError) as error:
            self._wait()
            self._say(f"run {row.name} cannot start: {error}")
            return
        self._program = _Program(row.name, fence, ident, self._clock())
        self._say(f"run {row.name} {'goes on' if again else 'begins'}")
