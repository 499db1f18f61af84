"""A run that one program holds, until another one takes it: what may be written, and when not.

Each program that takes a run gets the next **fencing number**. A program that lost the run to a
later one, but does not know it yet, fails at its next write. A round's commit looks once more
whether the plants that it counts still take part: if not, nothing of it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import StateError
from common.orders import Kind, Outcome
from server.state.journal import Journal
from server.state.runs import check_alone, end, enqueue, held, start_body
from server.state.store import Store
from server.state.tables import (
    ENROLLED,
    RUNNING,
    STOPPING,
    AttemptRow,
    PlantRow,
    ReleaseRow,
    ReplyRow,
    RoundRow,
    RunRow,
)


class Revoked(StateError):  # noqa: N818  what became of the plants, not a fault of ours
    """Plants that a round counts were revoked, or joined anew, since its order went out.

    Attributes
    ----------
    plants : their names, sorted.
    """

    def __init__(self, plants: Collection[str]) -> None:
        self.plants = sorted(plants)
        super().__init__(f"counted plants must still take part, got {self.plants}; ask again")


class Tenure:
    """A run that this program holds.

    Parameters
    ----------
    run : RunRow
        What the run must be; stored if the store holds none yet. Its fence is not used.
    tidy : called under the write lock with the numbers of the releases that count.
    fence : the number that `server.state.runs.Runs.take` gave; None takes the run.
    journal : the log; None writes none.

    Attributes
    ----------
    base : number of the release that the run started from; None until it has started.

    Raises
    ------
    StateError
        If the store holds another run, or this one with another configuration or source. From
        the writing methods also: if another program has taken the run since.
    """

    def __init__(
        self,
        store: Store,
        run: RunRow,
        *,
        tidy: Callable[[Sequence[int]], None],
        fence: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._store, self._run = store, run.name
        self._journal = journal or Journal(store)
        with store.writing() as session:
            row = session.get(RunRow, run.name)
            if row is None:
                row = _first(session, run, store)
            _check_same(row, run, store)
            row.source, row.travelling = run.source, run.travelling
            if fence is None:
                check_alone(session, run.name)
                row.fence, row.state, row.reason = row.fence + 1, RUNNING, ""
                self._journal.append(session, "run-start", start_body(row))
            else:
                held(session, run.name, fence=fence)
            self.fence, self.base = row.fence, row.base
            tidy(session.scalars(select(ReleaseRow.number)).all())

    def last_release(self) -> ReleaseRow | None:
        """Return the release in force, of whatever run; None before the first is stored."""
        with self._store.reading() as session:
            return newest_release(session)

    def rounds(self) -> dict[int, RoundRow]:
        """Return the rounds that were begun, by number."""
        with self._store.reading() as session:
            rows = session.scalars(select(RoundRow).where(RoundRow.run == self._run))
            return {row.number: row for row in rows}

    def to_stop(self) -> bool:
        """Whether the operator wishes the run to stop."""
        with self._store.reading() as session:
            state = session.scalar(select(RunRow.state).where(RunRow.name == self._run))
        return state == STOPPING

    def standing(self, plant: str | None = None) -> dict[str, str]:
        """Return by what key each plant, or one, takes part: "" if it is revoked.

        A store that nobody joined, as in simulation, knows no plants; then all may take part.
        """
        with self._store.reading() as session:
            return _standing(session, plant)

    def start(self, base: int) -> None:
        """Start from a release that is there already."""
        with self._writing() as session:
            self._start(session, base)

    def begin(self, row: RoundRow) -> None:
        """Store the order before it goes out, so that a resumed run asks the same again."""
        with self._writing() as session:
            session.merge(row)

    def next_attempt(self, number: int) -> int:
        """Return a number for a session of a round's secure sum that was never given before.

        It is stored when this returns, so that a program that takes the run over goes on from it.
        """
        with self._writing() as session:
            row = session.get(AttemptRow, (self._run, number))
            if row is None:
                row = AttemptRow(run=self._run, round=number, begun=0)
                session.add(row)
            row.begun += 1
            return row.begun - 1

    def close(
        self,
        row: RoundRow | None,
        *,
        release: ReleaseRow | None = None,
        publish: Callable[[], None] | None = None,
        counted: Mapping[str, str] | None = None,
    ) -> None:
        """Commit a round, with its replies, and the release that it made.

        Parameters
        ----------
        row : None for the source weights.
        publish : moves the release into its place; called under the write lock.
        counted : `standing` of the counted plants when the order went out.

        Raises
        ------
        Revoked
            If that of one of them has changed; nothing is written.
        """
        with self._writing() as session:
            if counted:
                _check_counted(session, counted)
            if release is not None:
                check_next(session, release)
            if publish is not None:
                publish()
            if row is not None:
                stored = session.merge(row)  # with the defaults of what was not set
                session.flush()
                self._log_round(session, stored)
            if release is not None:
                session.add(release)
                self._journal.append(session, "release", release_body(release))
                if row is None:
                    self._start(session, release.number)

    def finish(self, state: str, reason: str = "") -> None:
        """Write down how the run ended."""
        with self._writing() as session:
            row = held(session, self._run, fence=self.fence)
            end(session, self._journal, row, state, reason)

    def _start(self, session: Session, base: int) -> None:
        held(session, self._run, fence=self.fence).base = base
        self.base = base

    def _log_round(self, session: Session, row: RoundRow) -> None:
        for reply in row.replies:
            self._journal.append(session, "admission", admission_body(reply))
        run = session.get_one(RunRow, row.run)
        for body in privacy_bodies(row, run.config):
            self._journal.append(session, "privacy", body)
        self._journal.append(session, "round", round_body(row))

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._store.writing() as session:
            held(session, self._run, fence=self.fence)
            yield session


def newest_release(session: Session) -> ReleaseRow | None:
    """Return the release in force, None if there is none."""
    query = select(ReleaseRow).order_by(ReleaseRow.number.desc()).limit(1)
    return session.scalars(query).first()


def check_next(session: Session, release: ReleaseRow) -> None:
    """Return if a release follows the one in force.

    Raises
    ------
    StateError
        Otherwise: its folder would take the place of one that counts.
    """
    newest = newest_release(session)
    number = 0 if newest is None else newest.number + 1
    if release.number != number:
        raise StateError(
            f"release must be the next one, {number}, got {release.number}: another program made "
            "one meanwhile; start again"
        )


def release_body(row: ReleaseRow) -> dict[str, Any]:
    """Return what the log says of a release."""
    fields = ("number", "run", "round", "hash", "parent", "restores")
    return {name: getattr(row, name) for name in fields}


def admission_body(row: ReplyRow) -> dict[str, Any]:
    """Return what the log says of a reply."""
    fields = ("run", "round", "plant", "outcome", "reason", "weight")
    return {name: getattr(row, name) for name in fields}


def privacy_bodies(row: RoundRow, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the log says of privacy that a round spent, for each plant that was counted.

    It is what the order said; what a plant has spent over all runs is in its own ledger.
    """
    privacy = config.get("privacy", {})
    if row.kind != Kind.TRAIN or privacy.get("unit", "none") == "none":
        return []
    return [
        {"run": row.run, "round": row.number, "plant": reply.plant, **privacy}
        for reply in row.replies
        if reply.outcome == Outcome.DONE
    ]


def round_body(row: RoundRow) -> dict[str, Any]:
    """Return what the log says of a round."""
    fields = (
        "run", "number", "kind", "release", "cohort", "outcome", "reason", "result", "refused",
    )  # fmt: skip
    return {name: getattr(row, name) for name in fields}


def _standing(session: Session, plant: str | None = None) -> dict[str, str]:
    query = select(PlantRow)
    if plant is not None:
        query = query.where(PlantRow.name == plant)
    return {
        row.name: row.fingerprint if row.state == ENROLLED else "" for row in session.scalars(query)
    }


def _check_counted(session: Session, counted: Mapping[str, str]) -> None:
    now = _standing(session)
    changed = [plant for plant, before in counted.items() if now.get(plant, "") != before]
    if changed:
        raise Revoked(changed)


def _first(session: Session, run: RunRow, store: Store) -> RunRow:
    """Take a run in that nobody submitted: the only one of a store."""
    other = session.scalars(select(RunRow).order_by(RunRow.number.desc())).first()
    if other is not None:
        _check_same(other, run, store)
    enqueue(session, run, state=RUNNING)
    return run


def _check_same(held: RunRow, asked: RunRow, store: Store) -> None:
    found = [
        *([f"run was {held.name}, is {asked.name}"] if held.name != asked.name else []),
        *differences(held.config, asked.config),
        *(["the source weights differ"] if held.source not in ("", asked.source) else []),
        *(["what travels differs"] if held.travelling not in ([], asked.travelling) else []),
    ]
    if found:
        raise StateError(f"{store.home} holds another run: {'; '.join(found)}; use another --out")


def differences(
    held: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Say which settings of a run are others than they were."""
    for key in [*held, *(key for key in asked if key not in held)]:
        old, new = held.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {old}, is {new}"
