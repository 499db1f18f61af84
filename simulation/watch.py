"""Progress of a simulation in the terminal: one bar a phase, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from common.terminal import QUIET, errors


class Display:
    """Shows what `simulation.run.Watch` is told."""

    def __init__(self) -> None:
        self._console = errors()
        self._bars: dict[str, TaskID] = {}
        self._told = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}", markup=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        if phase in ("warning", "method", "seed"):
            self._console.print(f"{phase}: {note}", markup=False)
            self._bars.clear()
        elif self._console.is_terminal:
            if phase not in self._bars or done == 0:
                self._bars[phase] = self._progress.add_task(phase, total=total, note="")
            self._progress.update(self._bars[phase], completed=done, note=note)
        elif done in (0, total) or time.monotonic() - self._told >= QUIET:
            self._told = time.monotonic()
            self._console.print(f"{phase}: {done}/{total} {note}".rstrip(), markup=False)
