"""The centre's log: every entry names the one before it by hash and is signed by the release key.

An entry is written in the transaction of what it tells, so the log has it if and only if it
happened. Beside the database lies ``log.head``, a signed note of the newest entry, written after
the commit; each release's manifest holds such a note too. `server.state.audit` verifies all of it,
and says what that finds and what it cannot.

Without a signer, in simulation, there is no log.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import StateError
from common.files import write_atomic
from common.signing import Signer, seal
from server.state.store import Store, after_commit
from server.state.tables import EntryRow, utcnow

HEAD = "log.head"  #: in the centre's folder

#: Kinds of the seals of an entry and of ``log.head``.
ENTRY_SEAL, HEAD_SEAL = "journal", "journal-head"

_LABEL = b"transferline journal entry\x00"
_NEWEST = "newest entry"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Note:
    """Which entry was the newest at some moment; number 0 is that of an empty log."""

    number: int
    hash: str


START = Note(number=0, hash="")


class Journal:
    """The log of a store, as those who write to the store see it.

    Parameters
    ----------
    signer : of the entries; without one nothing is written.
    clock : the time, with a zone.
    """

    def __init__(
        self,
        store: Store,
        *,
        signer: Signer | None = None,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._store, self._signer, self._clock = store, signer, clock

    def append(self, session: Session, kind: str, body: Mapping[str, Any]) -> None:
        """Add an entry in a session of `Store.writing`.

        Parameters
        ----------
        kind : what happened: a fixed word.
        body : JSON values, nothing secret.
        """
        if self._signer is None:
            return
        before = newest(session)
        entry = EntryRow(
            number=before.number + 1,
            at=self._time(),
            kind=kind,
            body=json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False),
            previous=before.hash,
        )
        entry.hash = digest_of(entry)
        note = Note(number=entry.number, hash=entry.hash)
        entry.seal = seal(ENTRY_SEAL, vars(note), signer=self._signer)
        session.add(entry)
        session.flush()
        if _NEWEST not in session.info:
            after_commit(session, lambda: self._point(session.info.pop(_NEWEST)))
        session.info[_NEWEST] = note

    def newest(self) -> Note | None:
        """Return a note of the newest entry; None where no log is written."""
        if self._signer is None:
            return None
        with self._store.reading() as session:
            return newest(session)

    def _time(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds")

    def _point(self, note: Note) -> None:
        """Write ``log.head``, unless another program has written a later one."""
        assert self._signer is not None
        path = head_path(self._store)
        try:
            with _alone(path.parent):
                if read_number(path) < note.number:
                    fields = {**vars(note), "at": self._time()}
                    text = seal(HEAD_SEAL, fields, signer=self._signer)
                    write_atomic(path, f"{text}\n".encode())
        except (OSError, StateError) as error:
            # What it notes has happened; the next entry writes a later note.
            log.warning("%s is behind the log: %s", path, error)


def newest(session: Session) -> Note:
    """Return a note of the newest entry."""
    query = select(EntryRow).order_by(EntryRow.number.desc()).limit(1)
    entry = session.scalars(query).first()
    if entry is None:
        return START
    return Note(number=entry.number, hash=entry.hash)


def digest_of(entry: EntryRow) -> str:
    """Return what an entry's hash must be: SHA-256 over all that it says, and the hash before."""
    fields = [entry.number, entry.at, entry.kind, entry.body, entry.previous]
    return hashlib.sha256(_LABEL + json.dumps(fields).encode()).hexdigest()


def head_path(store: Store) -> Path:
    """Return where the note of the newest entry lies."""
    return store.home / HEAD


def read_number(path: Path) -> int:
    """Return the number in an unverified ``log.head``; 0 if it cannot be read."""
    try:
        return int(json.loads(path.read_bytes())["fields"]["number"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other programs from the note meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # gives the lock back
