"""What happens in a federation, from its process to whoever started it: JSON lines in a file.

The round loop of a Flower run is several processes away from the one that shows progress, and its
output goes nowhere. So it appends each event to ``events.jsonl`` of the run folder, and the reader
follows the file. The writer holds a lock on it for as long as it lives, which tells the reader at
once when it was killed: Flower takes a minute.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from common.errors import StateError
from common.files import unwritable, write_atomic
from common.orders import Kind
from server.events import Event, ReplyArrived, RoundClosed, RoundStarted, Waiting

FILE = "events.jsonl"
EVENTS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (Waiting, RoundStarted, ReplyArrived, RoundClosed)
}


class EventWriter:
    """Appends events; made by `writing`.

    Attributes
    ----------
    closed : rounds whose end the file told before.
    """

    def __init__(self, file: IO[str], *, closed: frozenset[int] = frozenset()) -> None:
        self._file = file
        self.closed = closed

    def __call__(self, event: Event) -> None:
        line = json.dumps({"event": type(event).__name__, **asdict(event)})
        self._file.write(line + "\n")
        self._file.flush()


@contextmanager
def writing(home: Path) -> Iterator[EventWriter]:
    """Open a run folder's events for appending, and hold the lock that says so.

    Raises
    ------
    StateError
        If the folder cannot be written, or another process runs a federation in it.
    """
    path = home / FILE
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"{home} must be of one run, got a second; wait for the other to end, or stop it"
            ) from error
        file.seek(0)
        before = file.read()
        if before and not before.endswith("\n"):
            file.write("\n")  # what a killed writer began must not spoil the next event
        told = (event for event in _events(before.split("\n")) if isinstance(event, RoundClosed))
        yield EventWriter(file, closed=frozenset(event.round for event in told))


class EventReader:
    """Follows a run folder's events.

    Parameters
    ----------
    home : the run folder.
    fresh : remove the events before the reader was made; else it begins with the first.
    """

    def __init__(self, home: Path, *, fresh: bool = True) -> None:
        self._path = home / FILE
        if fresh:
            write_atomic(self._path, b"")
        self._file = self._path.open("a+", encoding="utf-8")
        self._file.seek(0)
        self._rest = ""
        self._held = False

    def close(self) -> None:
        self._file.close()

    def read(self) -> Iterator[Event]:
        """Yield the events that have come since the last call."""
        self._rest += self._file.read()
        *lines, self._rest = self._rest.split("\n")
        yield from _events(lines)

    def writer_gone(self) -> bool:
        """Return whether there was a writer and it is there no more."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held = True
            return False
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return self._held


def _events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events that whole lines tell; one that a killed writer began tells none."""
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            fields = json.loads(line)
            yield _event(fields.pop("event"), fields)


def _event(name: str, fields: dict[str, object]) -> Event:
    if "kind" in fields:
        fields["kind"] = Kind(str(fields["kind"]))
    if isinstance(cohort := fields.get("cohort"), list):
        fields["cohort"] = tuple(cohort)
    return EVENTS[name](**fields)  # type: ignore[arg-type]
