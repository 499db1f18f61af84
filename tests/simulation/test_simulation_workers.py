"""Worker processes: pinned, replaced when they die or hang, and telling what was lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from common.errors import ConfigError, DataError, EngineError
from simulation.workers import Lost, Task, Workers


def pid() -> int:
    return os.getpid()


def double(number: int) -> int:
    return 2 * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(60)


def refuse() -> None:
    raise DataError("plant-1 must have images, got none")


def fail() -> None:
    raise ZeroDivisionError("a mistake of the program")


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_worker_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="--workers must be at least 1"):
        Workers(count)


@pytest.mark.parametrize("count", [1, 2])
def test_every_task_has_its_result(count: int) -> None:
    tasks = [Task(place, double, (place,)) for place in range(5)]
    with Workers(count) as workers:
        assert dict(workers.each(tasks)) == {0: 0, 1: 2, 2: 4, 3: 6, 4: 8}


def test_a_place_is_one_process_that_stays() -> None:
    with Workers(2) as workers:
        first = dict(workers.each([Task(place, pid, ()) for place in range(4)]))
        again = dict(workers.each([Task(place, pid, ()) for place in range(4)]))
    assert first == again
    assert first[0] == first[2] != first[1] == first[3]
    assert os.getpid() not in first.values()


def test_one_worker_is_this_process() -> None:
    with Workers(1) as workers:
        assert dict(workers.each([Task(7, pid, ())])) == {0: os.getpid()}


def test_a_process_that_dies_loses_its_task_and_is_replaced() -> None:
    with Workers(2) as workers:
        lost = dict(workers.each([Task(0, die, ()), Task(0, double, (3,)), Task(1, double, (1,))]))
        assert lost == {0: Lost.DIED, 1: 6, 2: 2}


def test_what_is_late_is_told_and_its_process_ended() -> None:
    with Workers(2) as workers:
        before = dict(workers.each([Task(0, pid, ())]))
        found = dict(
            workers.each(
                [Task(0, hang, ()), Task(0, double, (1,)), Task(1, double, (2,))], seconds=6
            )
        )
        assert found == {0: Lost.LATE, 1: Lost.LATE, 2: 4}
        assert dict(workers.each([Task(0, pid, ())])) != before


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_task_raises_arrives_here(count: int) -> None:
    with Workers(count) as workers, pytest.raises(DataError, match="plant-1"):
        list(workers.each([Task(0, refuse, ())]))


def test_a_mistake_of_the_program_ends_all_and_says_where(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Workers(2) as workers, pytest.raises(RuntimeError, match="which has told how"):
        list(workers.each([Task(0, fail, ())]))
    assert 'in fail\n    raise ZeroDivisionError("a mistake' in capfd.readouterr().err


def test_what_must_not_be_lost_is_an_error_of_one_line() -> None:
    with Workers(2) as workers, pytest.raises(EngineError, match="a worker process died"):
        list(workers.every([Task(0, die, ())]))


def test_a_worker_whose_parent_was_killed_ends_without_a_word() -> None:
    code = (
        "import os; from simulation.workers import Task, Workers\n"
        "task = Task(0, os.system, ('echo begun; sleep 1',))\n"
        "if __name__ == '__main__':\n"
        "    list(Workers(2).each([task]))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "begun\n"
    parent.kill()
    assert parent.communicate(timeout=30)[1] == ""  # ends when the worker has, which holds stderr


def test_no_process_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(2) as workers:
        (worker,) = dict(workers.each([Task(0, pid, ())])).values()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
