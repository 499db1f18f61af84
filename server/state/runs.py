"""The runs of a centre: their queue, and who holds one.

The operator submits a run and wishes it to stop; the centre's daemon takes it for a program and
starts that; the program says that it lives, and how the run ended. Each `Runs.take` gives the next
**fencing number**: a program with an older one can write nothing any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.errors import ConfigError, StateError
from common.signing import Signer
from server.state.journal import Journal
from server.state.store import Store
from server.state.tables import (
    ENDED,
    FINISHED,
    HOLDING,
    QUEUED,
    RUNNING,
    STOPPED,
    STOPPING,
    RunRow,
    utcnow,
)


class Runs:
    """The runs of a store.

    Parameters
    ----------
    store : of the centre.
    clock : the time, with a zone.
    signer : of the log; None writes none.

    Raises
    ------
    StateError
        From every method: if the database cannot be used.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime] = utcnow,
        signer: Signer | None = None,
    ) -> None:
        self._store, self._clock = store, clock
        self._journal = Journal(store, signer=signer, clock=clock)

    def submit(self, run: RunRow) -> RunRow:
        """Put a run at the end of the queue.

        Parameters
        ----------
        run : with name, config and created, and source and travelling where they are known.

        Raises
        ------
        ConfigError
            If there is one of that name.
        """
        with self._store.writing() as session:
            if session.get(RunRow, run.name) is not None:
                raise ConfigError(f"run must have a new name, got {run.name}; choose another")
            enqueue(session, run, state=QUEUED)
        return run

    def runs(self) -> list[RunRow]:
        """Return all runs, in the order of their submission."""
        with self._store.reading() as session:
            return list(session.scalars(select(RunRow).order_by(RunRow.number)))

    def run(self, name: str) -> RunRow:
        """Return one run.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        with self._store.reading() as session:
            return _get(session, name)

    def take(self, name: str) -> int:
        """Give a run to the next program and return its fencing number.

        A run that is to stop stays so; one that failed or was stopped goes on.

        Raises
        ------
        ConfigError
            If there is none of that name.
        StateError
            If the run has finished, or another one holds the centre.
        """
        with self._store.writing() as session:
            row = _get(session, name)
            if row.state == FINISHED:
                raise StateError(f"run must not have finished, got {name}; start another one")
            check_alone(session, name)
            if row.state != STOPPING:
                row.state, row.reason = RUNNING, ""
            row.fence += 1
            row.taken_at, row.heartbeat, row.flower_run = self._clock(), None, None
            self._journal.append(session, "run-start", start_body(row))
            return row.fence

    def launched(self, name: str, *, fence: int, flower_run: int) -> None:
        """Note Flower's id of the run that holds this one.

        Raises
        ------
        StateError
            If another program has taken the run since.
        """
        with self._store.writing() as session:
            held(session, name, fence=fence).flower_run = flower_run

    def beat(self, name: str, *, fence: int) -> str:
        """Note that the run's program lives, and return the run's state.

        Raises
        ------
        StateError
            If another program has taken the run since.
        """
        with self._store.writing() as session:
            row = held(session, name, fence=fence)
            row.heartbeat = self._clock()
            return row.state

    def request_stop(self, name: str) -> str:
        """Wish that a run stops after its round in progress, and return its state.

        A run that still waits is stopped at once; one that has ended stays as it is.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        with self._store.writing() as session:
            row = _get(session, name)
            if row.state == QUEUED:
                row.state, row.reason = STOPPED, "stopped before it began"
                self._journal.append(session, "run-end", {"run": name, "state": STOPPED})
            elif row.state == RUNNING:
                row.state = STOPPING
                self._journal.append(session, "run-stop", {"run": name})
            return row.state

    def finish(self, name: str, *, fence: int, state: str, reason: str = "") -> None:
        """Note how a run ended; harmless when repeated.

        Parameters
        ----------
        state : ``finished``, ``failed`` or ``stopped``.
        reason : why it did not finish.

        Raises
        ------
        StateError
            If another program has taken the run since.
        """
        with self._store.writing() as session:
            end(session, self._journal, held(session, name, fence=fence), state, reason)


def enqueue(session: Session, run: RunRow, *, state: str) -> None:
    """Add a run after all others."""
    run.number = 1 + (session.scalar(select(func.max(RunRow.number))) or 0)
    run.fence, run.state = 0, state
    session.add(run)
    session.flush()


def held(session: Session, name: str, *, fence: int) -> RunRow:
    """Return a run's row if a program still holds it.

    Raises
    ------
    StateError
        If another one has taken it since.
    """
    row = session.get(RunRow, name)
    if row is None or row.fence != fence:
        raise StateError(f"run {name} was taken over by a later program; stop this one")
    return row


def check_alone(session: Session, name: str) -> None:
    """Return if no other run holds the centre.

    Raises
    ------
    StateError
        Otherwise.
    """
    query = select(RunRow.name).where(RunRow.state.in_(HOLDING), RunRow.name != name)
    if (other := session.scalars(query).first()) is not None:
        raise StateError(
            f"run {name} must wait for run {other}; stop that one, or wait for its end"
        )


def start_body(row: RunRow) -> dict[str, Any]:
    """Return what the log says when a program takes a run."""
    return {"run": row.name, "fence": row.fence, "config": config_hash(row.config)}


def config_hash(config: Mapping[str, Any]) -> str:
    """Return SHA-256 of a run's settings, hex."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def end(session: Session, journal: Journal, row: RunRow, state: str, reason: str) -> None:
    """Write down how a run ended, once."""
    assert state in ENDED, state
    if (row.state, row.reason) != (state, reason):
        row.state, row.reason = state, reason
        body = {"run": row.name, "state": state, "reason": reason, "fence": row.fence}
        journal.append(session, "run-end", body)


def _get(session: Session, name: str) -> RunRow:
    row = session.get(RunRow, name)
    if row is None:
        raise ConfigError(f"run must be one of the centre's, got {name!r}; list them with `runs`")
    return row
