"""Whether the centre's log is whole and true, and the tables are what it says.

`verify` finds

- an entry that was changed: its hash is not that of its content;
- one that was taken out, put in or moved: numbers have no gap, each entry names the hash before it,
  and the release key signed its number and hash;
- a cut-off end: the log must reach as far as ``log.head`` and the signed manifest of every release
  say that it reached;
- a round, a reply, a release or a plant whose row is not what was logged, was never logged, or was
  removed;
- a run whose settings, with the noise that plants were told to add, are not those it began with.

Not covered: what was cut off after a kill in just the moment between commit and ``log.head``;
somebody who puts back an old copy of everything (compare with the releases that plants hold); and
somebody who has the release key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import IdentityError, StateError
from common.pki import Role, Trust
from common.signing import open_seal
from server.releases import Releases, read_manifest, verify_signature
from server.state.journal import ENTRY_SEAL, HEAD_SEAL, START, Note, digest_of, head_path
from server.state.runs import config_hash
from server.state.store import Store
from server.state.tables import ENROLLED, OPEN, EntryRow, PlantRow, ReleaseRow, RoundRow, RunRow
from server.state.tenure import admission_body, release_body, round_body

_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found.

    Attributes
    ----------
    entries : how many the log has.
    faults : one line each; none if all is well.
    """

    entries: int
    faults: tuple[str, ...]


def verify(
    store: Store, *, trust: Trust, advance: Callable[[str], None] = lambda text: None
) -> Verdict:
    """Check the whole log, and the tables and manifests against it.

    Parameters
    ----------
    trust : the CAs that count or once did.
    advance : called for each entry.

    Raises
    ------
    StateError
        If the database cannot be read at all.
    """
    path = head_path(store)
    head = _read(path)  # before the entries: it must not be ahead of what is read of them
    reader = _Reader(
        trust=trust, faults=[f"{store.name} is damaged: {line}" for line in store.damage()]
    )
    entries = select(EntryRow).order_by(EntryRow.number).execution_options(yield_per=_BATCH)
    with store.reading() as session:
        for entry in session.scalars(entries):
            reader.take(entry)
            session.expunge(entry)
            advance(f"entry {entry.number}")
        rows = dict(_rows(session)) | dict(_settings(session, reader.logged))
        numbers = session.scalars(select(ReleaseRow.number).order_by(ReleaseRow.number)).all()
    reader.check_head(path, head)
    for number in numbers:
        reader.check_release(Releases(store.home).path(number))
    reader.compare(rows)  # last: a cut-off log has all of that as its consequence
    return Verdict(entries=len(reader.hashes), faults=tuple(reader.faults))


@dataclass(kw_only=True)
class _Reader:
    """Takes the entries one after the other, and remembers what they say.

    Attributes
    ----------
    hashes : by number.
    logged : what the tables must hold, by what it is called.
    """

    trust: Trust
    faults: list[str]
    hashes: dict[int, str] = field(default_factory=dict)
    logged: dict[str, Any] = field(default_factory=dict)
    last: Note = START

    def take(self, entry: EntryRow) -> None:
        """Check one entry against itself and the one before."""
        number, before = entry.number, self.last
        self.hashes[number] = entry.hash
        self.last = Note(number=number, hash=entry.hash)
        if number != before.number + 1:
            self.faults.append(f"{_span(before.number + 1, number - 1)} missing")
        elif entry.previous != before.hash:
            self.faults.append(f"entry {number} does not follow the one before it")
        if digest_of(entry) != entry.hash:
            self.faults.append(f"entry {number} was changed: its hash is not that of its content")
            return
        try:
            _open(entry.seal, kind=ENTRY_SEAL, trust=self.trust, note=self.last, at=entry.at)
        except IdentityError as error:
            self.faults.append(f"entry {number} was changed: {error}")
        else:
            self._remember(entry.kind, json.loads(entry.body))

    def compare(self, rows: Mapping[str, Any]) -> None:
        """Compare what was logged with what is in the tables."""
        for name, value in rows.items():
            if name not in self.logged:
                self.faults.append(f"{name} was never logged")
            elif self.logged[name] != value:
                self.faults.append(f"{name} is not what was logged")
        for name in self.logged.keys() - rows.keys():
            self.faults.append(f"{name} was logged and is missing")

    def check_head(self, path: Path, text: str) -> None:
        """Check the note of the newest entry."""
        if not text and not self.hashes:
            return
        try:
            fields = json.loads(text)["fields"]
            note = Note(number=fields["number"], hash=fields["hash"])
            _open(text, kind=HEAD_SEAL, trust=self.trust, note=note, at=fields["at"])
            self._check(note, path.name)
        except (ValueError, TypeError, KeyError):
            self.faults.append(
                f"{path.name} must be a note of the newest entry, got none; nobody can say whether "
                "the log was cut off"
            )
        except IdentityError as error:
            self.faults.append(f"{path.name} was changed: {error}")

    def check_release(self, folder: Path) -> None:
        """Check the note in a release's manifest."""
        try:
            verify_signature(folder, trust=self.trust)
            log = read_manifest(folder).log
        except (IdentityError, StateError) as error:
            self.faults.append(str(error))
        else:
            if log is not None:
                self._check(Note(number=log[0], hash=log[1]), f"release {folder.name}")

    def _check(self, note: Note, witness: str) -> None:
        if note.number > self.last.number:
            span = _span(self.last.number + 1, note.number)
            self.faults.append(f"{span} cut off: {witness} knows of it")
        elif note.number and self.hashes.get(note.number, note.hash) != note.hash:
            self.faults.append(f"entry {note.number} is not the one that {witness} knows")

    def _remember(self, kind: str, body: dict[str, Any]) -> None:
        match kind:
            case "run-start" if "config" in body:  # the first counts: settings never change
                self.logged.setdefault(_config(body["run"]), body["config"])
            case "admission":
                self.logged[_reply(body)] = body
            case "round":
                self.logged[_round(body)] = body
            case "release" | "rollback":
                self.logged[_release(body)] = body
            case "enrolment":
                self.logged[_plant(body["plant"])] = body["fingerprint"]
            case "revocation" if _plant(body["plant"]) in self.logged:
                self.logged[_plant(body["plant"])] = "revoked"


def _rows(session: Session) -> Iterator[tuple[str, Any]]:
    """Yield what the tables hold of what is logged."""
    for row in session.scalars(select(RoundRow).where(RoundRow.outcome != OPEN)):
        body = round_body(row)
        yield _round(body), body
        for reply in row.replies:
            admission = admission_body(reply)
            yield _reply(admission), admission
    for release in session.scalars(select(ReleaseRow)):
        body = release_body(release)
        yield _release(body), body
    for plant in session.scalars(select(PlantRow)):
        yield _plant(plant.name), plant.fingerprint if plant.state == ENROLLED else "revoked"


def _settings(session: Session, logged: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the settings of runs, but for those that began before settings were logged."""
    for run in session.scalars(select(RunRow)):
        if _config(run.name) in logged:
            yield _config(run.name), config_hash(run.config)


def _config(run: str) -> str:
    return f"configuration of run {run}"


def _reply(body: Mapping[str, Any]) -> str:
    return f"reply of {body['plant']} in round {body['round']} of run {body['run']}"


def _round(body: Mapping[str, Any]) -> str:
    return f"round {body['number']} of run {body['run']}"


def _release(body: Mapping[str, Any]) -> str:
    return f"release {body['number']}"


def _plant(name: str) -> str:
    return f"plant {name}"


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _open(text: str, *, kind: str, trust: Trust, note: Note, at: str) -> None:
    """Verify that the release key signed a note; its certificate must have been valid then."""
    try:
        time = datetime.fromisoformat(at).astimezone(UTC)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"time must be ISO 8601, got {at!r:.40}") from error
    sealed = open_seal(text.strip(), kind=kind, trust=trust, role=Role.RELEASE, at=time)
    said = (sealed.fields.get("number"), sealed.fields.get("hash"))
    if said != (note.number, note.hash):
        raise IdentityError(f"seal must be for entry {note.number}, got one for {said[0]}")


def _read(path: Path) -> str:
    """Return the note of the newest entry, "" if there is none that could be one."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
