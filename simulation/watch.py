"""Progress of a simulation in the terminal: one bar a phase, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.progress import (
    TaskID,
)

from common.closing import Closing
from common.terminal import QUIET, errors, moving_bar


class Display(Closing):
    """Shows what `simulation.run.Watch` is told."""

    def __init__(self) -> None:
        self._console = errors()
        self._bars: dict[str, TaskID] = {}
        self._told = time.monotonic()
        self._progress = moving_bar(self._console, width=18, stays=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        if phase in ("warning", "method", "seed"):
            self._console.print(f"{phase}: {note}")
            self._bars.clear()
        elif self._console.is_terminal:
            if phase not in self._bars or done == 0:
                self._bars[phase] = self._progress.add_task(phase, total=total, note="")
            self._progress.update(self._bars[phase], completed=done, note=note)
        elif done in (0, total) or time.monotonic() - self._told >= QUIET:
            self._told = time.monotonic()
            self._console.print(f"{phase}: {done}/{total} {note}".rstrip())
