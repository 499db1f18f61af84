"""What a plant was asked and what it answered."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.desk.ledger import Answer, Ledger
from common.errors import StateError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HEAD = json.dumps({"scores": {"trained": {"loss": 0.5}}, "seconds": {"train": 2.0}})


def answer(**changes: Any) -> Answer:
    fields: dict[str, Any] = {
        "at": NOW,
        "run": "r",
        "round": 1,
        "kind": "train",
        "release": "a" * 64,
        "digest": "d" * 64,
        "repeated": False,
        "outcome": "done",
        "reason": "",
        "head": HEAD,
        "received": 1000,
        "sent": 500,
        "seconds": 3.5,
    }
    return Answer(**(fields | changes))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path)
    made.prepare()
    return made


def test_answers_come_back_as_they_were_newest_first(ledger: Ledger) -> None:
    first = ledger.add(answer())
    second = ledger.add(answer(round=2, outcome="failed", reason="training"))
    assert (first.number, second.number) == (1, 2)
    again = Ledger(ledger.path.parent)
    again.prepare()
    assert again.history() == [second, first]
    assert again.history(limit=1) == [second]
    assert again.last() == second
    assert first.scores == {"trained": {"loss": 0.5}}
    assert first.phases == {"train": 2.0}


def test_repetitions_are_apart(ledger: Ledger) -> None:
    first = ledger.add(answer())
    repeated = ledger.add(answer(repeated=True))
    assert ledger.last() == first
    assert ledger.history(repeated=True) == [repeated, first]
    assert ledger.rounds_since(NOW - timedelta(days=1)) == 1


def test_rounds_of_a_day(ledger: Ledger) -> None:
    ledger.add(answer(at=NOW - timedelta(hours=25)))
    ledger.add(answer(round=2, at=NOW - timedelta(hours=23)))
    ledger.add(answer(round=3, outcome="failed"))
    ledger.add(answer(round=4, outcome="declined"))
    ledger.add(answer(round=5, kind="adopt"))
    assert ledger.rounds_since(NOW - timedelta(hours=24)) == 2
    zone = (NOW - timedelta(hours=24)).astimezone()
    assert ledger.rounds_since(zone) == 2


def test_what_tells_a_replay(ledger: Ledger) -> None:
    assert ledger.newest_round("r") is None
    ledger.add(answer(round=3))
    ledger.add(answer(round=4, outcome="failed", digest="e" * 64))
    ledger.add(answer(round=9, outcome="declined"))
    assert ledger.newest_round("r") == 4
    assert ledger.newest_round("s") is None
    assert ledger.digest_of("r", 3, kind="train") == "d" * 64
    assert ledger.digest_of("r", 3, kind="adopt") is None
    assert ledger.digest_of("r", 4, kind="train") is None  # failed: it may be asked again


def test_the_newest_run_is_the_one_that_was_begun_last(ledger: Ledger) -> None:
    assert ledger.newest_run() is None
    for run in ("a", "b"):
        ledger.add(answer(run=run))
    # Whoever replays an old run makes it no newer, nor does an order that was refused.
    ledger.add(answer(run="a", repeated=True))
    ledger.add(answer(run="a", round=2, outcome="failed"))
    ledger.add(answer(run="c", outcome="declined"))
    assert ledger.newest_run() == "b"


def test_facts_are_those_of_now(ledger: Ledger) -> None:
    ledger.note({"work": {"round": 1}, "queue": 0}, at=NOW)
    ledger.add(answer(), facts={"work": None, "data": {"train": 9}})
    assert ledger.facts() == {"work": None, "queue": 0, "data": {"train": 9}}


def test_totals_count_free_text_as_one_reason(ledger: Ledger) -> None:
    for reason in ("cohort must be 3", "hours must be 4"):
        ledger.add(answer(outcome="declined", reason=reason))
    ledger.add(answer())
    ledger.add(answer(repeated=True))
    got = {(t.outcome, t.reason, t.repeated): (t.answers, t.sent) for t in ledger.totals()}
    assert got == {
        ("declined", "policy", False): (2, 1000),
        ("done", "", False): (1, 500),
        ("done", "", True): (1, 500),
    }


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert (ledger.history(), ledger.facts(), ledger.totals()) == ([], {}, [])
    assert (ledger.last(), ledger.rounds_since(NOW)) == (None, 0)
    assert not ledger.path.exists()  # reading makes none
    with pytest.raises(StateError, match="is not there"):
        ledger.add(answer())


def test_the_file_is_closed_to_others(ledger: Ledger) -> None:
    ledger.add(answer())
    for path in ledger.path.parent.glob("ledger.db*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_damaged_page_is_told(ledger: Ledger) -> None:
    for number in range(200):
        ledger.add(answer(round=number))
    with sqlite3.connect(ledger.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = bytearray(ledger.path.read_bytes())
    data[4096 : 5 * 4096] = b"\x5a" * (4 * 4096)
    ledger.path.write_bytes(data)
    with pytest.raises(StateError, match=r"ledger\.db is damaged: ") as told:
        Ledger(ledger.path.parent).prepare()
    assert "\n" not in str(told.value)


def test_another_version_is_refused(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(StateError, match="version 1, got 7"):
        ledger.prepare()


WRITER = """
import sys
from pathlib import Path
from client.desk.ledger import Ledger
from tests.client.test_client_ledger import answer
ledger = Ledger(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    ledger.add(answer(round=number))
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_told(ledger: Ledger) -> None:
    root = Path(__file__).resolve().parents[2]
    code = WRITER.replace("tests.client.test_client_ledger", "test_client_ledger")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(ledger.path.parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{root}:{root / 'tests' / 'client'}"},
    ) as writer:
        assert writer.stdout is not None
        told = [int(next(writer.stdout)) for _ in range(20)][-1]
        writer.kill()
        told = max([told, *(int(line) for line in writer.stdout)])
    ledger.prepare()
    rounds = [entry.round for entry in ledger.history()]
    assert rounds[0] in (told, told + 1)
    assert rounds == list(range(rounds[0], 0, -1))
