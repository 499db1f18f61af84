"""What a run looks like to its operator: lines in a log, or a live picture in a terminal.

Both are told the same events (`server.events`). Off a terminal every event that matters is one
plain line.
"""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console

from common.closing import Closing
from common.orders import Kind
from common.terminal import errors, moving_bar
from server.centre import Centre
from server.engine.event_log import EventReader
from server.events import Event, ReplyArrived, RoundClosed, RoundStarted, Waiting
from server.state.tables import ENDED, QUEUED

LOOK = 0.3  #: seconds between two looks at a run


def closed_line(event: Event) -> str | None:
    """Return one line for a round that closed and for a reply that does not count, else None."""
    if isinstance(event, RoundClosed):
        what = "adoption" if event.kind is Kind.ADOPT else f"round {event.round}/{event.rounds}"
        # Why a round was skipped says how many replies there were.
        replies = f"{event.counted} {'reply' if event.counted == 1 else 'replies'}"
        said = event.reason or replies
        release = f"release {event.release[:12]}"
        return f"{what} {event.outcome}: {said}, {release}, {event.seconds:.1f} s"
    if isinstance(event, ReplyArrived) and event.outcome != "done":
        return f"round {event.round}: {event.plant} {event.outcome}: {event.reason}"
    return None


class Display(Closing):
    """A run as it happens; a context.

    Parameters
    ----------
    console : where to; a terminal gets a moving bar, anything else lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._note = ""
        self._bar = moving_bar(console)
        self._task = self._bar.add_task("waiting", total=None, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def state(self, text: str) -> None:
        """Say where the run stands, when that has changed."""
        if text != self._note:
            self._note = text
            if self._console.is_terminal:
                self._bar.update(self._task, note=text)
            else:
                self.line(text)

    def line(self, text: str) -> None:
        """Say something that stays."""
        self._console.print(text)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Waiting):
            self.state(f"{event.connected} of {event.needed} plants connected")
        elif isinstance(event, RoundStarted):
            what = "adoption" if event.kind is Kind.ADOPT else f"round {event.round}"
            self._bar.update(self._task, description=what, total=len(event.cohort), completed=0)
            self.state(f"asked {', '.join(event.cohort)}")
        elif isinstance(event, ReplyArrived):
            self._bar.advance(self._task)
            if self._console.is_terminal:
                self.state(f"{event.plant} {event.outcome} after {event.seconds:.0f} s")
        if (line := closed_line(event)) is not None:
            self.line(line)


def follow(centre: Centre, name: str, *, quiet: bool) -> None:
    """Show a run on standard error until it ends.

    Parameters
    ----------
    quiet : only wait.
    """
    reader, begun = EventReader(centre.run_folder(name), fresh=False), False
    with Display(errors()) as display:
        while True:
            row = centre.registry.run(name)
            for event in reader.read():
                begun = True
                if not quiet:
                    display(event)
            if row.state in ENDED:
                break
            if not quiet and not begun:
                display.state(_begins(centre, row.state))
            time.sleep(LOOK)
    reader.close()
    if not quiet:
        errors().print(f"run {name} {row.state}")


def _begins(centre: Centre, state: str) -> str:
    """Say what a run waits for before its first round."""
    if not centre.is_up:
        return f"waits: the centre is not up; transferline-server up {centre.folder}"
    return "waits for its turn" if state == QUEUED else "starting"
