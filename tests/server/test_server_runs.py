from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, StateError
from server.state.runs import Runs
from server.state.store import Store
from server.state.tables import RunRow, timestamp

START = datetime(2026, 3, 1, tzinfo=UTC)


class Queue(Runs):
    """The queue with a clock that the test moves."""

    def __init__(self, home: Path, url: str = "", signer: Any = None) -> None:
        self.now = START
        super().__init__(Store(home, url), clock=lambda: self.now, signer=signer)

    def add(self, *names: str) -> None:
        for name in names:
            self.submit(RunRow(name=name, config={"seed": 0}, created=timestamp()))

    def states(self) -> dict[str, str]:
        return {row.name: row.state for row in self.runs()}


@pytest.fixture
def queue(tmp_path: Path, database: str) -> Queue:
    return Queue(tmp_path, database)


def test_runs_wait_in_the_order_of_their_submission(queue: Queue) -> None:
    queue.add("zebra", "ape", "mole")
    assert list(queue.states().items()) == [
        ("zebra", "queued"), ("ape", "queued"), ("mole", "queued"),
    ]  # fmt: skip
    row = queue.run("ape")
    assert (row.fence, row.source, row.travelling, row.base) == (0, "", [], None)


def test_a_name_is_used_once(queue: Queue) -> None:
    queue.add("ape")
    with pytest.raises(ConfigError, match="must have a new name, got ape"):
        queue.add("ape")


def test_a_run_is_taken_again_and_again(queue: Queue) -> None:
    queue.add("ape")
    assert queue.take("ape") == 1
    queue.launched("ape", fence=1, flower_run=2**64 - 1)
    queue.now += timedelta(seconds=5)
    assert queue.beat("ape", fence=1) == "running"
    row = queue.run("ape")
    assert (row.flower_run, row.taken_at, row.heartbeat) == (2**64 - 1, START, queue.now)
    assert queue.take("ape") == 2
    row = queue.run("ape")
    assert (row.flower_run, row.taken_at, row.heartbeat) == (None, queue.now, None)


def test_an_old_program_can_do_nothing(queue: Queue) -> None:
    queue.add("ape")
    queue.take("ape")
    queue.take("ape")
    for call in (
        lambda: queue.beat("ape", fence=1),
        lambda: queue.launched("ape", fence=1, flower_run=3),
        lambda: queue.finish("ape", fence=1, state="failed"),
        lambda: queue.beat("none", fence=1),
    ):
        with pytest.raises(StateError, match="taken over by a later program"):
            call()
    assert queue.states() == {"ape": "running"}


def test_one_run_at_a_time_holds_the_centre(queue: Queue) -> None:
    queue.add("ape", "mole")
    queue.take("ape")
    with pytest.raises(StateError, match="run mole must wait for run ape"):
        queue.take("mole")
    queue.request_stop("ape")
    with pytest.raises(StateError, match="must wait for run ape"):
        queue.take("mole")
    queue.finish("ape", fence=1, state="stopped")
    assert queue.take("mole") == 1


def test_a_wish_to_stop_outlives_its_program(queue: Queue) -> None:
    queue.add("ape")
    queue.take("ape")
    assert queue.request_stop("ape") == "stopping"
    assert queue.take("ape") == 2
    assert queue.beat("ape", fence=2) == "stopping"
    queue.finish("ape", fence=2, state="stopped", reason="stopped by the operator")
    assert queue.request_stop("ape") == "stopped"
    assert queue.run("ape").reason == "stopped by the operator"


def test_a_run_that_waits_is_stopped_at_once(queue: Queue) -> None:
    queue.add("ape")
    assert queue.request_stop("ape") == "stopped"


def test_what_has_failed_may_go_on_and_what_has_finished_may_not(queue: Queue) -> None:
    queue.add("ape")
    queue.take("ape")
    queue.finish("ape", fence=1, state="failed", reason="out of luck")
    assert queue.take("ape") == 2
    assert queue.run("ape").reason == ""
    queue.finish("ape", fence=2, state="finished")
    queue.finish("ape", fence=2, state="finished")
    with pytest.raises(StateError, match="must not have finished, got ape; start another"):
        queue.take("ape")


def test_a_run_that_is_not_there(queue: Queue) -> None:
    for call in (queue.run, queue.take, queue.request_stop):
        with pytest.raises(ConfigError, match="must be one of the centre's, got 'yak'"):
            call("yak")


def test_each_end_is_logged_once(tmp_path: Path, keys: Any) -> None:
    from sqlalchemy import select

    from server.state.tables import EntryRow

    queue = Queue(tmp_path, signer=keys.signer)
    queue.add("ape")
    queue.take("ape")
    queue.request_stop("ape")
    queue.request_stop("ape")
    queue.finish("ape", fence=1, state="stopped", reason="x")
    queue.finish("ape", fence=1, state="stopped", reason="x")
    with Store(tmp_path).reading() as session:
        kinds = list(session.scalars(select(EntryRow.kind).order_by(EntryRow.number)))
    assert kinds == ["run-start", "run-stop", "run-end"]
