from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, text, update

from common.errors import IdentityError, StateError
from common.pki import Authority, Role, Trust
from common.signing import Signer
from server.releases import Releases, verify_signature
from server.state.audit import Verdict, verify
from server.state.journal import HEAD, START, Journal, digest_of
from server.state.registry import Registry
from server.state.store import Store
from server.state.tables import EntryRow, RunRow

HOUR = timedelta(hours=1)


def fill(centre: Any, keys: Any) -> Store:
    """Hold a run of two rounds with plants that joined; return the store."""
    store = Store(centre.home, centre.database)
    registry = Registry(store, signer=keys.signer)
    for number, plant in enumerate(centre.plants.names):
        secret = registry.invite(plant, valid=HOUR)
        names = {"fingerprint": f"k{number}", "link_key": f"l{number}"}
        registry.redeem(secret, plant=plant, **names)
        registry.enrol(
            plant=plant, certificate="c", serial="1", not_after=datetime.now(UTC), node_id=number,
            **names,
        )  # fmt: skip
    centre.configure(rounds=2)
    centre.open().run()
    registry.revoke("elm", reason="sold")
    return store


@pytest.fixture
def centre(make_centre: Any, tmp_path: Path, database: str, keys: Any) -> Any:
    return make_centre(tmp_path / "out", database, keys.signer)


@pytest.fixture
def small(make_centre: Any, tmp_path: Path, keys: Any) -> Any:
    return make_centre(tmp_path / "out", "", keys.signer)


@pytest.fixture(scope="session")
def template(make_centre: Any, tmp_path_factory: pytest.TempPathFactory, keys: Any) -> Any:
    centre = make_centre(tmp_path_factory.mktemp("filled") / "out", "", keys.signer)
    fill(centre, keys)
    return centre


@pytest.fixture
def filled(template: Any, tmp_path: Path) -> Store:
    """Return a copy of one filled store, with all that lies beside it."""
    return Store(shutil.copytree(template.home, tmp_path / "out"))


def count(store: Store) -> int:
    with store.reading() as session:
        return len(session.scalars(select(EntryRow.number)).all())


def change(store: Store, number: int, **values: Any) -> None:
    with store.writing() as session:
        session.execute(update(EntryRow).where(EntryRow.number == number).values(**values))


def entry(store: Store, number: int) -> EntryRow:
    with store.reading() as session:
        return session.get_one(EntryRow, number)


def flipped(value: str) -> str:
    """Return a text with one bit of its middle byte changed."""
    middle = len(value) // 2
    return value[:middle] + chr(ord(value[middle]) ^ 1) + value[middle + 1 :]


def test_an_undisturbed_log_is_whole(centre: Any, keys: Any) -> None:
    store = fill(centre, keys)
    told: list[str] = []
    assert verify(store, trust=keys.trust, advance=told.append) == Verdict(
        entries=count(store), faults=()
    )
    assert told[-1] == f"entry {count(store)}"
    with store.reading() as session:
        kinds = list(session.scalars(select(EntryRow.kind).order_by(EntryRow.number)))
    joined = ["invitation", "enrolment"] * 3
    round_ = ["admission"] * 3 + ["round"]
    assert kinds == [
        *joined, "run-start", "release", *round_, "release", *round_, "release", *round_,
        "run-end", "revocation",
    ]  # fmt: skip


def test_every_tampering_is_found(centre: Any, keys: Any) -> None:
    """On one store, one after the other; each is undone before the next."""
    store = fill(centre, keys)
    last = count(store)
    head = centre.home / HEAD

    def check(change: Callable[[], None], *expected: str) -> None:
        with store.reading() as session:
            before = [copy(row) for row in session.scalars(select(EntryRow))]
        note = head.read_bytes()
        change()
        faults = verify(store, trust=keys.trust).faults
        for words in expected:
            assert any(words in fault for fault in faults), (words, faults)
        assert all("\n" not in fault for fault in faults)
        with store.writing() as session:
            session.execute(delete(EntryRow))
            session.add_all(before)
        head.write_bytes(note)

    def flip(number: int, column: str) -> Callable[[], None]:
        return lambda: change(
            store, number, **{column: flipped(getattr(entry(store, number), column))}
        )

    for column in ("at", "kind", "body", "previous", "hash", "seal"):
        check(flip(9, column), "entry 9 ")
    for number in (1, last):
        check(flip(number, "body"), f"entry {number} was changed")

    def remove(*numbers: int) -> Callable[[], None]:
        def act() -> None:
            with store.writing() as session:
                session.execute(delete(EntryRow).where(EntryRow.number.in_(numbers)))

        return act

    check(remove(5), "entry 5 is missing")
    check(remove(1), "entry 1 is missing")
    check(remove(5, 6, 7), "entries 5 to 7 are missing")
    check(remove(last), f"entry {last} is cut off: log.head knows of it")
    check(remove(*range(4, last + 1)), f"entries 4 to {last} are cut off: log.head knows of it")
    check(remove(*range(1, last + 1)), f"entries 1 to {last} are cut off")

    def closed_up() -> None:
        """Take one out and close the gap, as who does not know the key would."""
        with store.writing() as session:
            session.execute(delete(EntryRow).where(EntryRow.number == 5))
            session.execute(
                update(EntryRow)
                .where(EntryRow.number > 5)
                .values(number=EntryRow.number - 1)
                .execution_options(synchronize_session=False)
            )

    if not centre.database:  # PostgreSQL checks keys row by row, the order is not ours
        check(closed_up, "entry 5 was changed", f"entry {last} is cut off")

    def swapped() -> None:
        with store.writing() as session:
            for old, new in ((5, -1), (6, 5), (-1, 6)):
                session.execute(update(EntryRow).where(EntryRow.number == old).values(number=new))

    check(swapped, "entry 5 was changed", "entry 6 was changed")
    check(lambda: rewritten(store, 9, seal_of=8), "entry 9 was changed: seal must be for entry 9")
    check(head.unlink, "log.head must be a note of the newest entry, got none")
    check(lambda: head.write_text("{}"), "log.head must be a note")
    check(lambda: head.write_text(flipped(head.read_text())), "log.head")
    assert verify(store, trust=keys.trust).faults == ()


def rewritten(store: Store, number: int, *, seal_of: int) -> None:
    """Change what an entry says, with a hash that fits and the seal of another."""
    with store.writing() as session:
        row = session.get_one(EntryRow, number)
        row.body = row.body.replace("0", "1")
        row.hash = digest_of(row)
        row.seal = session.get_one(EntryRow, seal_of).seal


def test_a_log_of_another_key_is_not_ours(small: Any, keys: Any, tmp_path: Path) -> None:
    """Somebody without the release key writes a log anew that fits in itself."""
    other = Authority.create(tmp_path / "pki", federation="acme")
    key = Ed25519PrivateKey.generate()
    pem = other.issue(key.public_key(), name="centre", role=Role.RELEASE, days=90)
    forger = Signer(key=key, certificate=pem, name="centre")
    small.signer = forger

    class Forgers:
        signer = forger

    store = fill(small, Forgers)
    faults = verify(store, trust=keys.trust).faults
    assert any("entry 1 was changed: certificate must be issued by the fed" in f for f in faults)
    assert verify(store, trust=Trust.of(other.folder / "ca.pem")).faults == ()


def test_an_entry_of_another_past_is_found(small: Any, keys: Any, tmp_path: Path) -> None:
    """The same key signed both: before and after a backup was put back."""
    here, there = Store(small.home), Store(tmp_path / "there")
    for store, name in ((here, "ash"), (there, "elm")):
        for _ in range(3):
            Registry(store, signer=keys.signer).invite(name, valid=HOUR)
    with here.writing() as session:
        session.delete(session.get_one(EntryRow, 2))
        session.flush()
        session.add(copy(entry(there, 2)))
    assert verify(here, trust=keys.trust).faults == (
        "entry 2 does not follow the one before it",
        "entry 3 does not follow the one before it",
    )


def copy(row: EntryRow) -> EntryRow:
    return EntryRow(**{name: getattr(row, name) for name in EntryRow.__table__.columns.keys()})


def test_a_plant_cannot_write_the_log(small: Any, keys: Any) -> None:
    key = Ed25519PrivateKey.generate()
    pem = keys.authority.issue(key.public_key(), name="ash", role=Role.PLANT, days=30)
    small.signer = Signer(key=key, certificate=pem, name="ash")
    small.open().run()
    faults = verify(Store(small.home), trust=keys.trust).faults
    assert any("must have the role release, got plant" in fault for fault in faults)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE rounds SET reason = 'x' WHERE number = 1",
         "round 1 of run run is not what was logged"),
        ("DELETE FROM replies WHERE plant = 'ash' AND round = 2",
         "reply of ash in round 2 of run run was logged and is missing"),
        ("UPDATE replies SET weight = 1 WHERE plant = 'ash' AND round = 2",
         "reply of ash in round 2 of run run is not what was logged"),
        ("UPDATE releases SET hash = 'x' WHERE number = 1", "release 1 is not what was logged"),
        ("UPDATE plants SET state = 'enrolled' WHERE name = 'elm'",
         "plant elm is not what was logged"),
        ("UPDATE plants SET fingerprint = 'x' WHERE name = 'oak'",
         "plant oak is not what was logged"),
        ("INSERT INTO plants SELECT 'yew', state, fingerprint, certificate, serial, not_after, "
         "link_key, '77', enrolled_at, revoked_at, reason, last_seen FROM plants "
         "WHERE name = 'oak'", "plant yew was never logged"),
    ],
)  # fmt: skip
def test_a_changed_table_is_found(filled: Store, keys: Any, statement: str, fault: str) -> None:
    with filled.writing() as session:
        session.execute(text(statement))
    assert verify(filled, trust=keys.trust).faults == (fault,)


def test_privacy_that_rounds_spend_is_logged(centre: Any, keys: Any) -> None:
    noise = {"unit": "plant", "noise_multiplier": 0.8, "clip": 2.0}
    centre.configure(rounds=2, privacy=noise, training={"batch_norm": "frozen"})
    centre.open().run()
    store = Store(centre.home, centre.database)
    with store.reading() as session:
        spent = select(EntryRow.body).where(EntryRow.kind == "privacy").order_by(EntryRow.number)
        bodies = [json.loads(body) for body in session.scalars(spent)]
        config = session.get_one(RunRow, "run").config
    assert [(body["round"], body["plant"]) for body in bodies] == [
        (number, plant) for number in (1, 2) for plant in ("ash", "elm", "oak")
    ]
    assert noise.items() <= bodies[0].items()
    assert {"sample_rate", "steps", "delta"} <= bodies[0].keys()
    assert verify(store, trust=keys.trust).faults == ()

    config["privacy"]["noise_multiplier"] = 8.0
    with store.writing() as session:
        session.execute(update(RunRow).values(config=config, state="failed"))
    fault = "configuration of run run is not what was logged"
    assert verify(store, trust=keys.trust).faults == (fault,)
    Registry(store, signer=keys.signer).take("run")  # does not make the new settings the true ones
    assert verify(store, trust=keys.trust).faults == (fault,)


def test_a_log_from_before_settings_were_bound_is_whole(
    small: Any, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "server.state.tenure.start_body", lambda row: {"run": row.name, "fence": row.fence}
    )
    small.open().run()
    assert verify(Store(small.home), trust=keys.trust).faults == ()


def test_a_cut_off_end_is_known_by_the_releases_too(filled: Store, keys: Any) -> None:
    """The note beside the database is put back to fit; the manifests still know."""
    with filled.writing() as session:
        session.execute(delete(EntryRow).where(EntryRow.number > 7))
    (filled.home / HEAD).unlink()
    Journal(filled, signer=keys.signer)._point(type(START)(number=7, hash=entry(filled, 7).hash))
    assert verify(filled, trust=keys.trust).faults[:2] == (
        "entry 8 is cut off: release 1 knows of it",
        "entries 8 to 13 are cut off: release 2 knows of it",
    )


def test_a_manifest_that_was_changed_is_found(filled: Store, keys: Any) -> None:
    folder = Releases(filled.home).path(1)
    path = folder / "manifest.json"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"log": None}, indent=2) + "\n")
    (fault,) = verify(filled, trust=keys.trust).faults
    assert "manifest.json must be what centre signed, got another" in fault
    path.write_text(good)
    assert verify_signature(folder, trust=keys.trust).name == "centre"
    (folder / "manifest.sig").unlink()
    with pytest.raises(StateError, match=r"cannot read .*manifest\.sig"):
        verify_signature(folder, trust=keys.trust)
    shutil.copy(Releases(filled.home).path(2) / "manifest.sig", folder)
    with pytest.raises(IdentityError, match="must be what centre signed"):
        verify_signature(folder, trust=keys.trust)


def test_old_entries_stay_good_when_the_key_is_certified_anew(
    small: Any, keys: Any, tmp_path: Path
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    key = Ed25519PrivateKey.generate()
    now = [start]
    authority = Authority.create(tmp_path / "pki", federation="acme", at=start - HOUR)

    def signer() -> Signer:
        pem = authority.issue(
            key.public_key(), name="centre", role=Role.RELEASE, days=10, at=now[0]
        )
        return Signer(key=key, certificate=pem, name="centre")

    store = Store(small.home)
    for _ in range(4):
        journal = Journal(store, signer=signer(), clock=lambda: now[0])
        with store.writing() as session:
            journal.append(session, "test", {})
        now[0] += timedelta(days=8)
    trust = Trust.of(authority.folder / "ca.pem")
    assert verify(store, trust=trust).faults == ()
    late = Journal(store, signer=signer(), clock=lambda: now[0] + timedelta(days=20))
    with store.writing() as session:
        late.append(session, "test", {})
    assert any("entry 5 was changed: certificate" in f for f in verify(store, trust=trust).faults)


def test_a_note_that_a_kill_left_behind_is_no_fault(filled: Store, keys: Any) -> None:
    note = (filled.home / HEAD).read_bytes()
    Registry(filled, signer=keys.signer).revoke("oak", reason="")
    (filled.home / HEAD).write_bytes(note)
    assert verify(filled, trust=keys.trust).faults == ()


def test_a_note_never_goes_back(filled: Store, keys: Any) -> None:
    note = (filled.home / HEAD).read_bytes()
    Journal(filled, signer=keys.signer)._point(type(START)(number=3, hash=entry(filled, 3).hash))
    assert (filled.home / HEAD).read_bytes() == note


def test_a_note_that_cannot_be_written_stops_nothing(
    small: Any, keys: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(Store(small.home), signer=keys.signer)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with caplog.at_level(logging.WARNING):
            registry.invite("ash", valid=HOUR)
    assert "No space left on device" in caplog.text
    registry.invite("elm", valid=HOUR)
    assert verify(Store(small.home), trust=keys.trust) == Verdict(entries=2, faults=())


def test_what_did_not_happen_is_not_logged(centre: Any, keys: Any) -> None:
    store = Store(centre.home, centre.database)
    Registry(store, signer=keys.signer).invite("ash", valid=HOUR)
    journal = Journal(store, signer=keys.signer)

    def fail() -> None:
        with store.writing() as session:
            journal.append(session, "test", {})
            raise StateError("no")

    with pytest.raises(StateError, match="no"):
        fail()
    assert count(store) == 1
    assert verify(store, trust=keys.trust).faults == ()


def test_several_write_at_the_same_time(centre: Any, keys: Any) -> None:
    store = Store(centre.home, centre.database)

    def write(number: int) -> None:
        registry = Registry(store, signer=keys.signer)
        for step in range(4):
            registry.invite(f"plant-{number}-{step}", valid=HOUR)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(store, trust=keys.trust) == Verdict(entries=16, faults=())


def test_simulation_writes_no_log(centre: Any) -> None:
    centre.signer = None
    centre.open().run()
    store = Store(centre.home, centre.database)
    assert count(store) == 0
    assert not (centre.home / HEAD).exists()
    assert not (Releases(centre.home).path(1) / "manifest.sig").exists()


FIELD = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)


@given(
    first=st.tuples(st.integers(1, 99), FIELD, FIELD, FIELD, FIELD),
    second=st.tuples(st.integers(1, 99), FIELD, FIELD, FIELD, FIELD),
)
def test_two_entries_have_one_hash_only_if_they_say_the_same(
    first: tuple[Any, ...], second: tuple[Any, ...]
) -> None:
    names = ("number", "at", "kind", "body", "previous")
    digests = [digest_of(EntryRow(**dict(zip(names, e, strict=True)))) for e in (first, second)]
    assert (digests[0] == digests[1]) == (first == second)
