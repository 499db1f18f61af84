from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from common.errors import ConfigError, StateError
from server.state.store import Store, after_commit, history
from server.state.tables import (
    OPEN,
    ReleaseRow,
    ReplyRow,
    RoundRow,
    RunRow,
    timestamp,
)
from server.state.tenure import Tenure


def ignore(numbers: Sequence[int]) -> None:
    pass


def row(**changes: Any) -> RunRow:
    fields: dict[str, Any] = {
        "name": "run",
        "config": {"rounds": 3, "seed": 0, "server": {"tau": 0.1}},
        "source": "abc",
        "travelling": ["a"],
        "created": timestamp(),
    }
    return RunRow(**(fields | changes))


def opened(number: int, **changes: Any) -> RoundRow:
    fields: dict[str, Any] = {
        "run": "run",
        "number": number,
        "kind": "train",
        "release": "abc",
        "cohort": ["ash"],
        "outcome": OPEN,
        "started": timestamp(),
    }
    return RoundRow(**(fields | changes))


@pytest.fixture
def store(tmp_path: Path, database: str) -> Store:
    return Store(tmp_path, database)


def test_each_opening_takes_the_next_fencing_number(store: Store) -> None:
    fences = [Tenure(store, row(), tidy=ignore).fence for _ in range(3)]
    assert fences == [1, 2, 3]


def test_an_old_fencing_number_writes_nothing(store: Store) -> None:
    old = Tenure(store, row(), tidy=ignore)
    new = Tenure(store, row(), tidy=ignore)
    published: list[int] = []
    for write in (
        lambda: old.close(opened(1), publish=lambda: published.append(1)),
        lambda: old.begin(opened(1)),
        lambda: old.start(0),
        lambda: old.finish("finished"),
    ):
        with pytest.raises(StateError, match="taken over by a later program"):
            write()
    assert published == []
    assert new.rounds() == {}
    new.begin(opened(1))
    assert list(old.rounds()) == [1]


def test_a_given_fencing_number_must_be_the_last(store: Store) -> None:
    first = Tenure(store, row(), tidy=ignore)
    assert Tenure(store, row(), tidy=ignore, fence=1).fence == 1
    first.begin(opened(1))  # the same number is the same right
    Tenure(store, row(), tidy=ignore)
    with pytest.raises(StateError, match="taken over"):
        Tenure(store, row(), tidy=ignore, fence=1)


def test_a_failed_publication_leaves_no_row(store: Store) -> None:
    tenure = Tenure(store, row(), tidy=ignore)

    def fail() -> None:
        raise StateError("full")

    with pytest.raises(StateError, match="full"):
        tenure.close(opened(1), publish=fail)
    assert tenure.rounds() == {}


def test_a_release_that_is_not_the_next_is_not_published(store: Store) -> None:
    tenure = Tenure(store, row(), tidy=ignore)
    published: list[int] = []

    def commit(number: int) -> None:
        release = ReleaseRow(
            run="run", number=number, hash=f"h{number}", parent=None, created=timestamp()
        )
        tenure.close(None, release=release, publish=lambda: published.append(number))

    commit(0)
    for wrong in (0, 2):
        with pytest.raises(StateError, match=f"must be the next one, 1, got {wrong}"):
            commit(wrong)
    assert published == [0]
    last = tenure.last_release()
    assert last is not None
    assert (last.number, tenure.base) == (0, 0)


def test_replies_are_kept_with_their_round(store: Store) -> None:
    tenure = Tenure(store, row(), tidy=ignore)
    tenure.begin(opened(1))
    closed = tenure.rounds()[1]
    closed.outcome = "committed"
    closed.replies = [
        ReplyRow(
            run="run", round=1, plant="ash", outcome="done", reason="", scores={"a": {"b": 1}},
            bytes_up=5_000_000_000,
        )
    ]  # fmt: skip
    tenure.close(closed)
    (reply,) = tenure.rounds()[1].replies
    assert (reply.plant, reply.weight, reply.scores) == ("ash", 0, {"a": {"b": 1}})
    assert reply.bytes_up == 5_000_000_000


def test_foreign_keys_hold(store: Store) -> None:
    with pytest.raises(StateError, match=r"(?i)foreign key") as caught, store.writing() as session:
        session.add(ReplyRow(run="none", round=1, plant="ash", outcome="done", reason=""))
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert "\n" not in str(caught.value)


def test_the_database_is_in_write_ahead_mode_and_synced(tmp_path: Path) -> None:
    with Store(tmp_path).reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_run_that_differs_is_refused_and_keeps_its_fence(store: Store) -> None:
    first = Tenure(store, row(), tidy=ignore)
    changed = {"rounds": 3, "seed": 0, "server": {"tau": 0.2}, "new": True}
    with pytest.raises(StateError, match=r"server\.tau was 0\.1, is 0\.2; new was None, is True"):
        Tenure(store, row(config=changed), tidy=ignore)
    first.begin(opened(1))


def test_a_path_that_a_url_would_misread(tmp_path: Path) -> None:
    home = tmp_path / "50% of #1?a=b"
    Tenure(Store(home), row(), tidy=ignore)
    assert (home / "state.db").is_file()


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        Store(tmp_path / "file")


def test_history_is_of_rounds_of_training(tmp_path: Path, database: str) -> None:
    store = Store(tmp_path, database)
    with store.writing() as session:
        for number, name in enumerate(("zebra", "ape"), start=1):
            session.add(row(name=name, number=number))
            session.flush()
            session.add(opened(1, run=name, outcome="committed", result="r"))
            session.add(opened(2, run=name, kind="adopt", outcome="committed"))
    assert [entry["round"] for entry in history(tmp_path, url=database)] == [1, 1]


# -- what a session may rely on ------------------------------------------------------------------


def test_writers_come_one_after_the_other(store: Store) -> None:
    """Each reads, waits, and writes what it read plus one; none may lose another's step."""
    with store.writing() as session:
        session.add(row(number=1, fence=0, state="queued"))

    def step() -> None:
        for _ in range(5):
            with store.writing() as session:
                held = session.get(RunRow, "run")
                assert held is not None
                before = held.fence
                time.sleep(0.002)
                held.fence = before + 1

    threads = [threading.Thread(target=step) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as session:
        assert session.get_one(RunRow, "run").fence == 20


def test_a_reader_sees_one_state(store: Store) -> None:
    with store.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM runs")) == 0
        with store.writing() as other:
            other.add(row(number=1, fence=0, state="queued"))
        assert session.scalar(text("SELECT count(*) FROM runs")) == 0
    with store.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM runs")) == 1


def test_what_waits_for_the_commit_is_called_only_then(store: Store) -> None:
    called: list[int] = []

    def fail() -> None:
        with store.writing() as session:
            after_commit(session, lambda: called.append(1))
            raise StateError("no")

    with pytest.raises(StateError, match="no"):
        fail()
    assert called == []
    with store.writing() as session:
        after_commit(session, lambda: called.append(2))
        session.add(row(number=1, fence=0, state="queued"))
        assert called == []
    assert called == [2]


# -- the database itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user:secret@host/name", "got mysql"),
        ("no url: secret", "got something else"),
        ("sqlite:///somewhere.db", "got sqlite"),
    ],
)
def test_a_wrong_url_is_one_line_without_its_password(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Store(tmp_path, url)
    assert "secret" not in str(caught.value)
    assert "centre.toml" in str(caught.value)


def test_a_server_that_is_not_there_is_one_line_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://user:secret@/name?host={tmp_path}&password=secret"
    with pytest.raises(StateError, match="cannot use postgresql") as caught:
        Store(tmp_path, url)
    assert "secret" not in str(caught.value)
    assert "start the server" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_dies_is_one_line_and_comes_back(tmp_path: Path, postgres: Any) -> None:
    store = Store(tmp_path, postgres.new_database())
    tenure = Tenure(store, row(), tidy=ignore)
    try:
        with pytest.raises(StateError, match="start the server") as caught:
            tenure.close(opened(1), publish=postgres.stop)
        assert "\n" not in str(caught.value)
        with pytest.raises(StateError, match="start the server"):
            tenure.rounds()
    finally:
        postgres.start()
    assert tenure.rounds() == {}
    tenure.begin(opened(1))


def test_a_lock_that_is_kept_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.state.database.LOCK_WAIT", 0.1)
    store = Store(tmp_path)

    def write() -> None:
        with store.writing():
            pass

    with store.writing(), pytest.raises(StateError, match="database is locked; free, unlock"):
        write()
    write()


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing() as session:
        for number in range(1, 60):
            session.add(row(name=f"run {number}", number=number, travelling=["x" * 300]))
    assert store.damage() == []
    with sqlite3.connect(tmp_path / "state.db") as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.close()
    data = bytearray((tmp_path / "state.db").read_bytes())
    data[-4096:-4000] = bytes(96)  # the header of the last page
    (tmp_path / "state.db").write_bytes(data)
    try:
        found = store.damage()
    except StateError as error:
        found = [str(error)]
    assert found
