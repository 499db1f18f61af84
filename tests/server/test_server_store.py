from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from common.errors import StateError
from server.store import OPEN, ReplyRow, RoundRow, RunRow, Store, Tenure, timestamp


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


def opened(number: int) -> RoundRow:
    return RoundRow(
        run="run",
        number=number,
        kind="train",
        release="abc",
        cohort=["ash"],
        outcome=OPEN,
        started=timestamp(),
    )


def test_each_opening_takes_the_next_fencing_number(tmp_path: Path) -> None:
    fences = [Tenure(Store(tmp_path), row(), tidy=ignore).fence for _ in range(3)]
    assert fences == [1, 2, 3]


def test_an_old_fencing_number_writes_nothing(tmp_path: Path) -> None:
    old = Tenure(Store(tmp_path), row(), tidy=ignore)
    new = Tenure(Store(tmp_path), row(), tidy=ignore)
    published: list[int] = []
    with pytest.raises(StateError, match="taken over by a later program"):
        old.close(opened(1), publish=lambda: published.append(1))
    with pytest.raises(StateError, match="taken over"):
        old.begin(opened(1))
    assert published == []
    assert new.rounds() == {}
    new.begin(opened(1))
    assert list(old.rounds()) == [1]


def test_a_failed_publication_leaves_no_row(tmp_path: Path) -> None:
    tenure = Tenure(Store(tmp_path), row(), tidy=ignore)

    def fail() -> None:
        raise StateError("full")

    with pytest.raises(StateError, match="full"):
        tenure.close(opened(1), publish=fail)
    assert tenure.rounds() == {}


def test_replies_are_kept_with_their_round(tmp_path: Path) -> None:
    tenure = Tenure(Store(tmp_path), row(), tidy=ignore)
    tenure.begin(opened(1))
    closed = tenure.rounds()[1]
    closed.outcome = "committed"
    closed.replies = [
        ReplyRow(run="run", round=1, plant="ash", outcome="done", reason="", scores={"a": {"b": 1}})
    ]
    tenure.close(closed)
    (reply,) = tenure.rounds()[1].replies
    assert (reply.plant, reply.weight, reply.scores) == ("ash", 0, {"a": {"b": 1}})


def test_foreign_keys_hold(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StateError, match="FOREIGN KEY") as caught, store.writing() as session:
        session.add(ReplyRow(run="none", round=1, plant="ash", outcome="done", reason=""))
    assert isinstance(caught.value.__cause__, IntegrityError)


def test_the_database_is_in_write_ahead_mode_and_synced(tmp_path: Path) -> None:
    with Store(tmp_path).reading() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_run_that_differs_is_refused_and_keeps_its_fence(tmp_path: Path) -> None:
    first = Tenure(Store(tmp_path), row(), tidy=ignore)
    changed = {"rounds": 3, "seed": 0, "server": {"tau": 0.2}, "new": True}
    with pytest.raises(StateError, match=r"server\.tau was 0\.1, is 0\.2; new was None, is True"):
        Tenure(Store(tmp_path), row(config=changed), tidy=ignore)
    first.begin(opened(1))


def test_a_path_that_a_url_would_misread(tmp_path: Path) -> None:
    home = tmp_path / "50% of #1?a=b"
    Tenure(Store(home), row(), tidy=ignore)
    assert (home / "state.db").is_file()


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        Store(tmp_path / "file")
