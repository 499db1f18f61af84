"""A helper that dies is started again; one that is told to end is not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from common import kept
from common.kept import Kept, Subprocess

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(kept, "DELAY", 0.1)
    one = Kept(SLEEP, start_new_session=True)
    yield one
    one.terminate()
    one.wait(20)


def until(look: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_is_started_again_however_often_it_dies(helper: Kept) -> None:
    for _ in range(2):
        before = helper.pid
        psutil.Process(before).kill()
        until(lambda before=before: helper.pid != before)  # type: ignore[misc]
    assert psutil.Process(helper.pid).is_running()


def test_a_start_that_fails_is_tried_again(helper: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    before, whole = helper.pid, subprocess.Popen
    failures = iter(range(2))

    def start(*arguments: object, **how: object) -> object:
        if next(failures, None) is None:
            return whole(*arguments, **how)  # type: ignore[call-overload]
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(kept.subprocess, "Popen", start)
    psutil.Process(before).kill()
    until(lambda: helper.pid != before)


def test_told_to_end_it_stays_away(helper: Kept) -> None:
    helper.terminate()
    assert helper.wait(20) != 0
    before = helper.pid
    time.sleep(0.5)
    assert helper.pid == before


def test_a_program_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(FileNotFoundError):
        Kept(["/nowhere/at/all"])


def test_the_rest_of_the_module_is_as_it_was() -> None:
    assert Subprocess().TimeoutExpired is subprocess.TimeoutExpired
    assert Subprocess().Popen is Kept
