"""The centre's state: runs, rounds, replies and releases in ``state.db``.

SQLite in write-ahead mode, synced at every commit. The commit of a round's transaction is what
makes the round count: the release's folder is moved into its place inside it, under the write
lock, so that a kill at any moment leaves either the whole round or nothing of it.

Each program that opens a run takes the next **fencing number**. A program that lost the run to
a later one, but does not know it yet, fails at its next write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Connection,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    create_engine,
    event,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import NullPool

from common.errors import StateError
from common.files import unwritable
from common.orders import Kind

DATABASE = "state.db"

#: What becomes of a round.
OPEN, COMMITTED, SKIPPED = "open", "committed", "skipped"


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


class RunRow(Base):
    """A federation from its source weights to its last release."""

    __tablename__ = "runs"

    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]]
    source: Mapped[str]
    travelling: Mapped[list[str]]
    fence: Mapped[int]
    created: Mapped[str]


class RoundRow(Base):
    """One order and what came of it. ``result`` is the hash of the release in force after it."""

    __tablename__ = "rounds"

    run: Mapped[str] = mapped_column(ForeignKey("runs.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    release: Mapped[str]
    cohort: Mapped[list[str]]
    outcome: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    result: Mapped[str] = mapped_column(default="")
    seconds: Mapped[float] = mapped_column(default=0.0)
    refused: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started: Mapped[str]
    replies: Mapped[list[ReplyRow]] = relationship(lazy="selectin", order_by="ReplyRow.plant")


class ReplyRow(Base):
    """What one plant answered. ``weight`` is what it counted for; 0 if it was not counted."""

    __tablename__ = "replies"
    __table_args__ = (ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),)

    run: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    plant: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    reason: Mapped[str]
    weight: Mapped[int] = mapped_column(default=0)
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seconds: Mapped[dict[str, Any]] = mapped_column(default=dict)
    notes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    bytes_up: Mapped[int] = mapped_column(default=0)
    bytes_down: Mapped[int] = mapped_column(default=0)


class ReleaseRow(Base):
    """A release that counts. Number 0, the source weights, has no round."""

    __tablename__ = "releases"
    __table_args__ = (ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),)

    run: Mapped[str] = mapped_column(ForeignKey("runs.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    round: Mapped[int | None]
    hash: Mapped[str]
    parent: Mapped[str | None]
    created: Mapped[str]


class Store:
    """``state.db`` of one run folder.

    Parameters
    ----------
    home : the run folder; made if it is not there.

    Raises
    ------
    StateError
        From every method: if the database cannot be read or written.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / DATABASE
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(home, error) from error
        self._engine = _engine(self.path)
        with self._translated():
            Base.metadata.create_all(self._engine)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database."""
        with self._translated(), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that holds the write lock, and commit it at the end."""
        engine = self._engine.execution_options(writes=True)
        with self._translated(), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StateError(
                f"cannot use {self.path}: {error.orig}; free, unlock or restore the file, then "
                "continue with --resume"
            ) from error


class Tenure:
    """A run that this program holds, until another one takes it.

    Parameters
    ----------
    run : RunRow
        What the run must be; stored if the folder holds none yet. Its fence is not used.
    tidy : called under the write lock with the numbers of the releases that count.

    Raises
    ------
    StateError
        If the folder holds another run, or this one with another configuration or source. From
        the writing methods also: if another program has taken the run since.
    """

    def __init__(self, store: Store, run: RunRow, *, tidy: Callable[[Sequence[int]], None]) -> None:
        self._store = store
        self._run = run.name
        with store.writing() as session:
            held = session.scalars(select(RunRow)).first()
            if held is None:
                run.fence = 0
                session.add(run)
                held = run
            _check_same(held, run, store.path.parent)
            held.fence += 1
            self.fence = held.fence
            tidy(session.scalars(select(ReleaseRow.number)).all())

    def last_release(self) -> ReleaseRow | None:
        """Return the release in force, None before the source is stored."""
        query = (
            select(ReleaseRow)
            .where(ReleaseRow.run == self._run)
            .order_by(ReleaseRow.number.desc())
            .limit(1)
        )
        with self._store.reading() as session:
            return session.scalars(query).first()

    def rounds(self) -> dict[int, RoundRow]:
        """Return the rounds that were begun, by number."""
        with self._store.reading() as session:
            rows = session.scalars(select(RoundRow).where(RoundRow.run == self._run))
            return {row.number: row for row in rows}

    def begin(self, row: RoundRow) -> None:
        """Store the order before it goes out, so that a resumed run asks the same again."""
        with self._writing() as session:
            session.merge(row)

    def close(
        self,
        row: RoundRow | None,
        *,
        release: ReleaseRow | None = None,
        publish: Callable[[], None] | None = None,
    ) -> None:
        """Commit a round, with its replies, and the release that it made.

        Parameters
        ----------
        row : None for the source weights.
        publish : moves the release into its place; called under the write lock.
        """
        with self._writing() as session:
            if publish is not None:
                publish()
            if row is not None:
                session.merge(row)
                session.flush()
            if release is not None:
                session.add(release)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._store.writing() as session:
            fence = session.scalar(select(RunRow.fence).where(RunRow.name == self._run))
            if fence != self.fence:
                raise StateError(
                    f"run {self._run} in {self._store.path.parent} was taken over by a later "
                    "program; stop this one"
                )
            yield session


def history(home: Path) -> list[dict[str, Any]]:
    """Return the training rounds of a run folder, as results.json lists them.

    Raises
    ------
    StateError
        If the folder has no readable ``state.db``.
    """
    with _existing(home).reading() as session:
        seeds = {run.name: run.config["seed"] for run in session.scalars(select(RunRow))}
        return [
            {
                "seed": seeds[row.run],
                "round": row.number,
                "outcome": row.outcome,
                "reason": row.reason,
                "release": row.result if row.outcome == COMMITTED else None,
                "seconds": row.seconds,
                "replies": {reply.plant: _answer(reply) for reply in row.replies},
            }
            for row in session.scalars(_closed(Kind.TRAIN))
        ]


def adoptions(home: Path) -> dict[str, dict[str, Any]]:
    """Return each plant's answer to the order to adopt: as in `history`, and its ``notes``.

    Raises
    ------
    StateError
        If the folder has no readable ``state.db``.
    """
    with _existing(home).reading() as session:
        return {
            reply.plant: {**_answer(reply), "notes": reply.notes}
            for row in session.scalars(_closed(Kind.ADOPT))
            for reply in row.replies
        }


def timestamp() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _existing(home: Path) -> Store:
    if not (home / DATABASE).is_file():
        raise StateError(f"{home} has no {DATABASE}; run the federation first")
    return Store(home)


def _closed(kind: Kind) -> Any:
    return (
        select(RoundRow)
        .where(RoundRow.kind == str(kind), RoundRow.outcome != OPEN)
        .order_by(RoundRow.number)
    )


def _answer(row: ReplyRow) -> dict[str, Any]:
    fields = ("outcome", "reason", "weight", "scores", "seconds", "bytes_up", "bytes_down")
    return {name: getattr(row, name) for name in fields}


def _check_same(held: RunRow, asked: RunRow, home: Path) -> None:
    differences = [
        *([f"run was {held.name}, is {asked.name}"] if held.name != asked.name else []),
        *_differences(held.config, asked.config),
        *(["the source weights differ"] if held.source != asked.source else []),
        *(["what travels differs"] if held.travelling != asked.travelling else []),
    ]
    if differences:
        raise StateError(
            f"{home} holds another run: {'; '.join(differences)}. Use another --out, or drop "
            "--resume to start over"
        )


def _differences(
    held: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for key in [*held, *(key for key in asked if key not in held)]:
        old, new = held.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {old}, is {new}"


def _engine(path: Path) -> Engine:
    # A connection each time: nothing stays open, or locked, between two rounds.
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
