"""The database of a centre: SQLite beside the releases, or a PostgreSQL server by URL.

What a caller may rely on, on both:

- a reading session sees one state of the database, whatever is committed meanwhile;
- writing sessions come one after the other, over all programs: what one reads stays true until
  its commit. SQLite has one write lock (``BEGIN IMMEDIATE``), on PostgreSQL an advisory lock takes
  its place;
- a commit is on disk when it returns;
- nothing waits for ever: not for the lock, not for a server that is gone. A program that vanished
  while it held the lock loses it within a minute.

Connections are made when they are needed: nothing stays open, or locked, between two rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from common.errors import ConfigError, StateError

DATABASE = "state.db"

#: Seconds to wait for the write lock.
LOCK_WAIT = 30

#: Key of the advisory lock: "transfer" in ASCII.
_LOCK = 0x7472616E73666572

_SQLITE = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")

#: How soon a server that is gone, or a program that is, is noticed.
_POSTGRES = (
    f"lock_timeout = '{LOCK_WAIT}s'",
    "idle_in_transaction_session_timeout = '60s'",
    "tcp_keepalives_idle = 15",
    "tcp_keepalives_interval = 5",
    "tcp_keepalives_count = 3",
    "synchronous_commit = on",
)
_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class Database:
    """One database, and how it is spoken to.

    Parameters
    ----------
    home : folder of the SQLite file, where ``url`` is empty.
    url : SQLAlchemy URL of a PostgreSQL database.

    Attributes
    ----------
    name : what errors call it; without a password.
    reads, writes : whose transactions read one state, or hold the write lock.

    Raises
    ------
    ConfigError
        If the URL is not one of a database that Transferline can use.
    """

    def __init__(self, home: Path, *, url: str = "") -> None:
        if url:
            self.name, engine = _postgres(url)
        else:
            self.name, engine = str(home / DATABASE), _sqlite(home / DATABASE)
        self.reads = engine
        self.writes = engine.execution_options(writes=True)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn a database's error into the user's one line.

        Raises
        ------
        StateError
            In place of the database's error.
        """
        try:
            yield
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            cure = (
                "start the server or free its disk; `up` then goes on by itself"
                if self.reads.dialect.name == "postgresql"
                else "free, unlock or restore the file; `up` then goes on by itself, a simulation "
                "with --resume"
            )
            raise StateError(f"cannot use {self.name}: {said}; {cure}") from error


def _sqlite(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"timeout": LOCK_WAIT},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for pragma in _SQLITE:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres(text: str) -> tuple[str, Engine]:
    try:
        url = make_url(text)
    except ArgumentError as error:  # whose text may hold the password
        raise ConfigError(_wrong("something else")) from error
    if url.get_backend_name() != "postgresql":
        raise ConfigError(_wrong(url.drivername))
    # A query may hold a password too.
    name = url.set(query={}).render_as_string(hide_password=True)
    url = url.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=_CONNECT)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigError(
            "database needs the PostgreSQL driver: in the checkout, pip install '.[postgres]'"
        ) from error

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.autocommit = True
        connection.execute("; ".join(f"SET SESSION {setting}" for setting in _POSTGRES))
        connection.autocommit = False

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            # Each statement sees what was committed before it: with the lock, everything.
            connection.exec_driver_sql(
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
                f"SELECT pg_advisory_xact_lock({_LOCK})"
            )
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    return name, engine


def _wrong(got: str) -> str:
    return (
        "database must be empty, or a URL postgresql+psycopg://user@host/name, got "
        f"{got}; correct it in centre.toml"
    )
