"""The centre's state: one database, its sessions, and what reports read from it.

Rows are in `server.state.tables`, the database itself in `server.state.database`. The commit of a
round's transaction is what makes the round count: the release's folder is moved into its place
inside it, under the write lock, so that a kill at any moment leaves either the whole round or
nothing of it. Which program may write to a run is `server.state.tenure`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.orm import Session

from common.errors import StateError
from common.files import unwritable
from common.orders import Kind
from server.state.database import DATABASE, Database
from server.state.tables import COMMITTED, OPEN, REVISION, ReplyRow, RoundRow, RunRow

_AFTER = "after_commit"


class Store:
    """The state of a run folder or of a centre.

    Parameters
    ----------
    home : the folder; made if it is not there.
    url : of a PostgreSQL database; empty means ``state.db`` in ``home``. Its tables are made, or
        brought up to date.

    Attributes
    ----------
    name : of the database, for messages; without a password.

    Raises
    ------
    ConfigError
        If the URL is wrong.
    StateError
        From every method too: if the database cannot be read or written.
    """

    def __init__(self, home: Path, url: str = "") -> None:
        self.home = home
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(home, error) from error
        self._database = Database(home, url=url)
        self.name = self._database.name
        with self._database.translated():
            with self._database.reads.begin() as connection:
                found = _revision(connection)
            if found != REVISION:
                self._upgrade()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database."""
        with (
            self._database.translated(),
            Session(self._database.reads, expire_on_commit=False) as session,
        ):
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that holds the write lock, and commit it at the end."""
        with (
            self._database.translated(),
            Session(self._database.writes, expire_on_commit=False) as session,
        ):
            with session.begin():
                session.connection()  # begins; otherwise the first statement would
                yield session
            for call in session.info.pop(_AFTER, ()):
                call()

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with its file; PostgreSQL looks after its own."""
        with self.reading() as session:
            if session.get_bind().dialect.name != "sqlite":
                return []
            lines = session.scalars(text("PRAGMA integrity_check")).all()
        return [line for line in lines if line != "ok"]

    def _upgrade(self) -> None:
        # Most programs find the tables as they must be, and never load alembic.
        from server.migrations import upgrade  # noqa: PLC0415

        with self._database.writes.begin() as connection:
            found = _revision(connection)
            if found != REVISION:
                upgrade(connection, found=found, name=self.name)


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Have something called when the session of `Store.writing` has committed."""
    session.info.setdefault(_AFTER, []).append(call)


def history(home: Path, *, url: str = "") -> list[dict[str, Any]]:
    """Return the training rounds of a run folder, as results.json lists them.

    Raises
    ------
    StateError
        If the folder has no readable state.
    """
    if not url and not (home / DATABASE).is_file():
        raise StateError(f"{home} has no {DATABASE}; run the federation first")
    closed = (
        select(RoundRow)
        .join(RunRow, RunRow.name == RoundRow.run)
        .where(RoundRow.kind == str(Kind.TRAIN), RoundRow.outcome != OPEN)
        .order_by(RunRow.number, RoundRow.number)
    )
    with Store(home, url).reading() as session:
        seeds = {row.name: row.config["seed"] for row in session.scalars(select(RunRow))}
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
            for row in session.scalars(closed)
        ]


def _answer(row: ReplyRow) -> dict[str, Any]:
    fields = ("outcome", "reason", "weight", "scores", "seconds", "bytes_up", "bytes_down")
    return {name: getattr(row, name) for name in fields}


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
