"""``ledger.db``: what a plant was asked and what it answered, and how it is now.

One SQLite file in the plant's folder, written by the daemon alone and read by the commands and the
metrics. An answer is a row that is never changed: it tells replays after a restart, counts the
rounds of a day, and is the plant's own record of all that has left it. Facts are what is so now,
one value a name:

=========== ========================================================================
``daemon``   ``pid``, ``version``, ``address``, ``since``; null once it has ended
``work``     ``run``, ``round``, ``kind``, ``since`` of the order in hand; null if none
``queue``    orders that wait
``worker``   ``pid``, ``starts`` since the daemon's start, ``killed`` for their time
``data``     images in use: ``train``, ``validation``, ``test``
``training`` of the last round: ``seconds``, ``images``, ``images_per_second``, ``loss``
``scores``   of the last order, where noise kept them out of the answer; so ``seconds``, ``notes``
``gpu``      ``name``, ``used`` (most of the last order) and ``total`` bytes; null without one
``disk``     ``free`` and ``total`` bytes at the last order
=========== ========================================================================

Covered: a kill or a power cut at any moment (WAL, synced before an answer is sent). Not covered:
somebody who may write to the file; it is the plant's own, mode 0600.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import StateError
from common.files import sync_folder, unwritable

FILE = "ledger.db"
VERSION = 1  #: of the tables
BUSY = 10.0  #: seconds to wait for another process that writes

_TABLES = """
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL,
    run TEXT NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL,
    release TEXT NOT NULL, digest TEXT NOT NULL, repeated INTEGER NOT NULL,
    outcome TEXT NOT NULL, reason TEXT NOT NULL, head TEXT NOT NULL,
    received INTEGER NOT NULL, sent INTEGER NOT NULL, seconds REAL NOT NULL
);
CREATE INDEX answers_of_run ON answers (run, round);
CREATE INDEX answers_at ON answers (at);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL, at TEXT NOT NULL);
"""

#: Of secure sums (`client.desk.contributions`, `client.desk.peers`); made where they are missing,
#: so that a ledger from before them stays good.
_SUMS = """
CREATE TABLE IF NOT EXISTS sessions (
    federation TEXT NOT NULL, run TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    PRIMARY KEY (federation, run, round)
);
CREATE TABLE IF NOT EXISTS contributions (release TEXT PRIMARY KEY, sent INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS peers (
    fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, since TEXT NOT NULL
);
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer that was given.

    Attributes
    ----------
    at : when, UTC.
    run, round, kind, release : of the order.
    digest : of the whole order (`client.desk.outbox.order_digest`).
    repeated : it was given before and came from the outbox; nothing was trained.
    outcome, reason : of the reply.
    head : the reply but for its vector, JSON.
    received, sent : bytes of the order and of the reply.
    seconds : from the order's arrival to the reply.
    number : its place in the ledger, from 1; 0 before it is there.
    """

    at: datetime
    run: str
    round: int
    kind: str
    release: str
    digest: str
    repeated: bool
    outcome: str
    reason: str
    head: str
    received: int
    sent: int
    seconds: float
    number: int = 0

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Scores by stage, then by metric, as in the reply."""
        return json.loads(self.head).get("scores", {})  # type: ignore[no-any-return]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, as in the reply."""
        return json.loads(self.head).get("seconds", {})  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What was given since the ledger began, for counters: one a kind, outcome and reason.

    Attributes
    ----------
    reason : the reply's, or ``policy`` for one in words.
    received, sent : bytes.
    seconds : from arrival to reply.
    """

    kind: str
    outcome: str
    reason: str
    repeated: bool
    answers: int
    received: int
    sent: int
    seconds: float


_COLUMNS = ", ".join(field.name for field in fields(Answer))


class Ledger:
    """The ledger of one plant; every call opens the file, so threads and processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def prepare(self) -> None:
        """Make the file where there is none, and check the one that is there.

        Raises
        ------
        StateError
            If it cannot be written, is damaged, or is of another version of the program.
        """
        if not self.path.exists():
            self._make()
        with self.open() as database:
            (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                said = " ".join(str(state).split())  # SQLite may say it in two lines
                raise StateError(f"{self.path} is damaged: {said}; restore it from a backup")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise StateError(
                    f"{self.path} must be of version {VERSION}, got {version}; use the program "
                    "that wrote it"
                )
            database.executescript(f"BEGIN IMMEDIATE;{_SUMS}COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open the file to read."""
        with self.open() as database:
            yield database

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file to write one transaction; it is on disk when this ends."""
        with self.open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            yield database

    def _make(self) -> None:
        """Make the file beside its place, so that nobody reads one without tables."""
        part = self.path.with_name(f".{FILE}.part")
        try:
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with _opened(part) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.executescript(
                    f"BEGIN IMMEDIATE;{_TABLES}PRAGMA user_version = {VERSION};COMMIT"
                )
            os.replace(part, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def add(self, answer: Answer, *, facts: Mapping[str, Any] | None = None) -> Answer:
        """Write an answer, and what is so after it; both are on disk when this returns."""
        values = _row(answer)
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        with self.open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            cursor = database.execute(
                f"INSERT INTO answers ({names}) VALUES ({marks})",
                tuple(values.values()),
            )
            _write(database, facts or {}, at=answer.at)
            (row,) = _select(database, "number = ?", (cursor.lastrowid,))
            return row

    def note(self, facts: Mapping[str, Any], *, at: datetime) -> None:
        """Write what is so now; names and values as at the top of this file."""
        with self.open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            _write(database, facts, at=at)

    def facts(self) -> dict[str, Any]:
        """Return what is so now, by name; empty before the daemon's first start."""
        if not self.path.exists():
            return {}
        with self.open() as database:
            rows = database.execute("SELECT name, value FROM facts ORDER BY name").fetchall()
        return {name: json.loads(value) for name, value in rows}

    def last(self) -> Answer | None:
        """Return the newest answer that is no repetition."""
        found = self.history(limit=1)
        return found[0] if found else None

    def history(self, *, limit: int | None = None, repeated: bool = False) -> list[Answer]:
        """Return answers, newest first; with ``repeated`` also those from the outbox."""
        if not self.path.exists():
            return []
        with self.open() as database:
            return _select(database, "1" if repeated else "NOT repeated", (), limit=limit)

    def rounds_since(self, moment: datetime) -> int:
        """Return how often the plant has trained for a round since a moment, failures too."""
        if not self.path.exists():
            return 0
        with self.open() as database:
            (count,) = database.execute(
                "SELECT count(*) FROM answers WHERE at >= ? AND NOT repeated "
                "AND kind = 'train' AND outcome <> 'declined'",
                (_time(moment),),
            ).fetchone()
        return int(count)

    def newest_round(self, run: str) -> int | None:
        """Return the newest round of a run that was answered with work; None if there is none."""
        with self.open() as database:
            (newest,) = database.execute(
                "SELECT max(round) FROM answers WHERE run = ? AND outcome <> 'declined'", (run,)
            ).fetchone()
        return None if newest is None else int(newest)

    def newest_run(self) -> str | None:
        """Return the run that was first answered with work last; None before any."""
        with self.open() as database:
            found = database.execute(
                "SELECT run FROM answers WHERE outcome <> 'declined' "
                "GROUP BY run ORDER BY min(number) DESC LIMIT 1"
            ).fetchone()
        return None if found is None else str(found[0])

    def digest_of(self, run: str, round: int, *, kind: str) -> str | None:  # noqa: A002
        """Return the order that was answered with work for a round; None if none was."""
        with self.open() as database:
            found = database.execute(
                "SELECT digest FROM answers WHERE run = ? AND round = ? AND kind = ? "
                "AND outcome = 'done' ORDER BY number DESC LIMIT 1",
                (run, round, kind),
            ).fetchone()
        return None if found is None else str(found[0])

    def totals(self) -> list[Totals]:
        """Return counts and sums of all answers since the ledger began."""
        if not self.path.exists():
            return []
        reason = "CASE WHEN reason LIKE '% %' THEN 'policy' ELSE reason END"
        with self.open() as database:
            rows = database.execute(
                f"SELECT kind, outcome, {reason} AS why, repeated, count(*), sum(received), "
                "sum(sent), sum(seconds) FROM answers GROUP BY kind, outcome, why, repeated"
            ).fetchall()
        names = [field.name for field in fields(Totals)]
        return [
            Totals(**{**dict(zip(names, row, strict=True)), "repeated": bool(row[3])})
            for row in rows
        ]

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one call."""
        if not self.path.exists():
            raise StateError(
                f"{self.path} is not there; start the plant with transferline-plant up"
            )
        with _opened(self.path) as database:
            yield database


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file and translate SQLite's errors."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as opened:
            opened.execute("PRAGMA synchronous = FULL")
            yield opened
    except sqlite3.OperationalError as error:
        raise StateError(
            f"cannot use {path}: {error}; free the disk or end the program that holds it"
        ) from error
    except sqlite3.DatabaseError as error:
        raise StateError(f"{path} is damaged: {error}; restore it from a backup") from error


def _select(
    database: sqlite3.Connection, where: str, values: tuple[Any, ...], *, limit: int | None = None
) -> list[Answer]:
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM answers WHERE {where} ORDER BY number DESC LIMIT ?",
        (*values, -1 if limit is None else limit),
    ).fetchall()
    return [_answer(dict(zip(_COLUMNS.split(", "), row, strict=True))) for row in rows]


def _answer(row: dict[str, Any]) -> Answer:
    at = datetime.fromisoformat(row["at"])
    return Answer(**{**row, "at": at, "repeated": bool(row["repeated"])})


def _row(answer: Answer) -> dict[str, Any]:
    row = {field.name: getattr(answer, field.name) for field in fields(Answer)}
    del row["number"]
    return {**row, "at": _time(answer.at), "repeated": int(answer.repeated)}


def _write(database: sqlite3.Connection, facts: Mapping[str, Any], *, at: datetime) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO facts (name, value, at) VALUES (?, ?, ?)",
        [(name, json.dumps(value), _time(at)) for name, value in facts.items()],
    )


def _time(moment: datetime) -> str:
    """Write a moment so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
