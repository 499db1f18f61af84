"""A PostgreSQL server of the tests' own: a temporary folder, a Unix socket, no network."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from server.state.store import Store

#: Where Debian puts the programs of each version.
PROGRAMS = Path("/usr/lib/postgresql")

#: It dies with the tests, so nothing needs to reach the disk; and it must start in a second.
SETTINGS = (
    *("fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=30"),
    *("listen_addresses=", "autovacuum=off", "max_worker_processes=0", "log_min_messages=fatal"),
)


class Server:
    """A running server.

    Attributes
    ----------
    folder : of its data and its socket.
    """

    def __init__(self, folder: Path, programs: Path, user: int | None) -> None:
        self._driver = pytest.importorskip("psycopg", reason="pip install '.[postgres]'")
        self.folder, self._programs, self._user = folder, programs, user
        self._numbers = itertools.count(1)
        self._store = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = [word for setting in SETTINGS for word in ("-c", setting)]
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", self.folder / "data", "-k", self.folder, *options],
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )
        end = time.monotonic() + 30
        while True:
            try:
                self._admin().close()
                return
            except self._driver.OperationalError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def execute(self, statement: str) -> None:
        with self._admin() as connection:
            connection.execute(statement.encode())

    def new_database(self, *, like: str = "template1") -> str:
        """Make a database, empty or like another, and return its URL."""
        name = f"test{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return f"postgresql+psycopg://tests@/{name}?host={self.folder}"

    def new_store(self, home: Path) -> str:
        """Make a database with the tables of a centre, a fraction of a second faster."""
        if not self._store:
            url = self.new_database()
            Store(home, url)
            self._store = make_url(url).database or ""
        return self.new_database(like=self._store)

    def _admin(self) -> Any:
        return self._driver.connect(
            host=str(self.folder), user="tests", dbname="postgres", autocommit=True
        )


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server; skip the test, with the reason, where there is none."""
    found = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        pytest.skip(f"no PostgreSQL in {PROGRAMS}: apt install postgresql")
    user = None
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        account = names.get("postgres") or names.get("nobody")
        if account is None:
            pytest.skip(
                "PostgreSQL refuses to run as root, and there is no user postgres or nobody"
            )
        user = account.pw_uid
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tl-pg-", dir=base))
    try:
        if user is not None:
            os.chown(folder, user, -1)
        made = subprocess.run(
            [
                *(found[-1] / "initdb", "-D", folder / "data", "--username=tests"),
                *("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"),
            ],
            check=False,
            capture_output=True,
            text=True,
            user=user,
            cwd=folder,
        )
        if made.returncode:
            pytest.skip(f"initdb does not work here: {made.stderr.strip()[-200:]}")
        server = Server(folder, found[-1], user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
