"""The watch over runs, on a real registry and an engine that starts nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import FederationConfig
from common.errors import EngineError, StateError
from server.engine.watch import GRACE, LEAVE, LOST, STARTING, RunWatch
from server.state.registry import Registry
from server.state.store import Store
from server.state.tables import (
    FAILED,
    FINISHED,
    QUEUED,
    RUNNING,
    STOPPED,
    STOPPING,
    RunRow,
    timestamp,
)


class Programs:
    """Remembers what it was asked to start and to stop."""

    def __init__(self) -> None:
        self.up = True
        self.refuses = ""
        self.started: list[tuple[str, int]] = []
        self.stopped: list[int] = []
        self.ended: set[int] = set()

    def is_up(self) -> bool:
        return self.up

    def submit(self, run: str, *, fence: int) -> int:
        if self.refuses:
            raise EngineError(self.refuses)
        self.started.append((run, fence))
        return 2**63 + len(self.started)

    def has_ended(self, ident: int) -> bool:
        return ident in self.ended

    def stop(self, ident: int) -> None:
        self.stopped.append(ident)

    @property
    def newest(self) -> int:
        return 2**63 + len(self.started)


class Bench:
    """A watch with its clock in hand."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(Store(folder))
        self.engine = Programs()
        self.now = 1000.0
        self.said: list[str] = []
        self.watch = self.another()

    def another(self) -> RunWatch:
        return RunWatch(
            self.registry,
            engine=self.engine,
            say=self.said.append,
            reason=lambda run: "no plants" if run == "first" else "",
            clock=lambda: self.now,
        )

    def submit(self, name: str) -> None:
        config = FederationConfig(round_deadline=100.0).model_dump(mode="json")
        self.registry.submit(RunRow(name=name, config=config, created=timestamp()))

    def after(self, seconds: float, *, beats: bool = False) -> None:
        """Let time pass, a second at a time, with or without signs of life."""
        for _ in range(int(seconds)):
            self.now += 1
            if beats and self.watch.current:
                run, fence = self.engine.started[-1]
                self.registry.beat(run, fence=fence)
            self.watch.step()

    def state(self, name: str) -> str:
        return self.registry.run(name).state


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_one_run_at_a_time_in_the_order_of_the_queue(bench: Bench) -> None:
    bench.submit("first")
    bench.submit("second")
    bench.after(5, beats=True)
    assert bench.engine.started == [("first", 1)]
    assert (bench.state("first"), bench.state("second")) == (RUNNING, QUEUED)
    assert bench.registry.run("first").flower_run == bench.engine.newest
    bench.registry.finish("first", fence=1, state=FINISHED)
    bench.after(2, beats=True)
    assert bench.engine.started == [("first", 1), ("second", 1)]
    assert bench.said[-3:] == ["run first begins", "run first finished", "run second begins"]


def test_nothing_starts_before_the_engine_is_up(bench: Bench) -> None:
    bench.submit("first")
    bench.engine.up = False
    bench.after(3)
    assert (bench.engine.started, bench.state("first")) == ([], QUEUED)
    bench.engine.up = True
    bench.after(1)
    assert bench.engine.started == [("first", 1)]


def test_a_silent_program_is_replaced_and_fenced_off(bench: Bench) -> None:
    bench.submit("first")
    bench.after(5, beats=True)
    lost = bench.engine.newest
    bench.after(LOST - 1)
    assert len(bench.engine.started) == 1
    bench.after(5)
    assert bench.engine.started == [("first", 1), ("first", 2)]
    assert lost in bench.engine.stopped
    assert "run first: no sign of life for 16 s (no plants); starts again in 2 s" in bench.said
    with pytest.raises(StateError, match="taken over"):
        bench.registry.beat("first", fence=1)


def test_a_program_has_longer_for_its_first_sign_of_life(bench: Bench) -> None:
    bench.submit("first")
    bench.after(STARTING - 1)
    assert len(bench.engine.started) == 1
    bench.after(5)
    assert len(bench.engine.started) == 2


def test_a_program_that_ended_is_replaced_sooner(bench: Bench) -> None:
    bench.submit("first")
    bench.after(5, beats=True)
    bench.engine.ended.add(bench.engine.newest)
    bench.after(8)
    assert bench.engine.started == [("first", 1), ("first", 2)]


def test_losses_without_progress_are_answered_more_and_more_slowly(bench: Bench) -> None:
    bench.submit("first")
    bench.after(1)
    starts = []
    for _ in range(7):
        bench.engine.ended.add(bench.engine.newest)
        before, count = bench.now, len(bench.engine.started)
        while len(bench.engine.started) == count:
            bench.after(1)
        starts.append(bench.now - before)
    assert starts == sorted(starts)
    assert 5 <= starts[0] <= 8
    assert 60 <= starts[-1] <= 66


def test_the_engines_end_is_the_programs_end(bench: Bench) -> None:
    bench.submit("first")
    bench.after(5, beats=True)
    bench.watch.engine_restarted()
    bench.after(1)
    assert bench.engine.started == [("first", 1), ("first", 2)]


def test_another_daemon_goes_on_with_what_was_running(bench: Bench) -> None:
    bench.submit("first")
    bench.after(5, beats=True)
    lost = bench.engine.newest
    bench.watch = bench.another()
    bench.after(1)
    assert bench.engine.started == [("first", 1), ("first", 2)]
    assert lost in bench.engine.stopped


def test_a_refused_start_is_told_and_tried_again(bench: Bench) -> None:
    bench.submit("first")
    bench.engine.refuses = "no room"
    bench.after(3)
    assert bench.said[0] == "run first cannot start: no room"
    bench.engine.refuses = ""
    bench.after(10)
    assert bench.engine.started[0][0] == "first"
    assert bench.state("first") == RUNNING


def test_a_run_that_is_to_stop_ends_by_itself(bench: Bench) -> None:
    bench.submit("first")
    bench.after(3, beats=True)
    bench.registry.request_stop("first")
    bench.after(50, beats=True)
    assert (bench.state("first"), bench.engine.stopped) == (STOPPING, [])
    bench.registry.finish("first", fence=1, state=STOPPED, reason="stopped by the operator")
    bench.after(2)
    assert bench.said[-1] == "run first stopped: stopped by the operator"


def test_a_run_that_does_not_stop_is_ended(bench: Bench) -> None:
    bench.submit("first")
    bench.after(3, beats=True)
    bench.registry.request_stop("first")
    bench.after(100 + GRACE + 5, beats=True)
    assert bench.state("first") == STOPPED
    assert bench.engine.newest in bench.engine.stopped


def test_each_run_that_is_to_stop_has_its_own_time(bench: Bench) -> None:
    bench.submit("first")
    bench.after(3, beats=True)
    bench.registry.request_stop("first")
    bench.after(50, beats=True)
    bench.watch.engine_restarted()
    bench.registry.finish("first", fence=1, state=STOPPED)
    bench.submit("second")
    bench.after(2 * GRACE + 100, beats=True)
    bench.registry.request_stop("second")
    bench.after(100, beats=True)
    assert bench.state("second") == STOPPING


@pytest.mark.parametrize("loss", ["silent", "engine", "daemon"])
def test_a_lost_program_of_a_run_that_is_to_stop_is_replaced_for_its_round(
    bench: Bench, loss: str
) -> None:
    bench.submit("first")
    bench.after(3, beats=True)
    bench.registry.request_stop("first")
    bench.after(3, beats=True)
    if loss == "engine":
        bench.watch.engine_restarted()
    elif loss == "daemon":
        bench.watch = bench.another()
    bench.after(LOST + 5)
    assert bench.engine.started == [("first", 1), ("first", 2)]
    bench.after(30, beats=True)
    assert bench.state("first") == STOPPING
    bench.registry.finish("first", fence=2, state=STOPPED, reason="stopped by the operator")
    bench.after(2)
    assert bench.said[-1] == "run first stopped: stopped by the operator"


def test_a_run_that_is_to_stop_and_never_starts_is_ended(bench: Bench) -> None:
    bench.submit("first")
    bench.after(3, beats=True)
    bench.registry.request_stop("first")
    bench.engine.up = False
    bench.watch.engine_restarted()
    bench.after(100 + GRACE)
    assert bench.state("first") == STOPPING
    bench.after(5)
    assert bench.state("first") == STOPPED


def test_the_program_of_a_run_that_has_ended_is_ended_too(bench: Bench) -> None:
    bench.submit("first")
    bench.after(3, beats=True)
    bench.registry.finish("first", fence=1, state=FAILED, reason="weights are missing")
    bench.after(2)
    assert bench.said[-1] == "run first failed: weights are missing"
    assert bench.engine.stopped == []
    bench.after(LEAVE)
    assert bench.engine.stopped == [bench.engine.newest]
