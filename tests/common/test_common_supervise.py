"""Programs are started again, end with all that they started, and outlive nobody."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from common import supervise
from common.errors import EngineError
from common.supervise import Program, State, Status, Supervisor

SH = "/bin/sh"
ROOT = os.geteuid() == 0
NOBODY = 54321  #: a user id that nobody has


def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def program(script: str, **options: object) -> Program:
    fields = {"name": "p", "delay": (0.2, 2.0), "stop_grace": 1.0, **options}
    return Program(command=[SH, "-c", script], env={"PATH": os.defpath}, **fields)  # type: ignore[arg-type]


@pytest.fixture
def changes() -> list[Status]:
    return []


@pytest.fixture
def supervisor(changes: list[Status]) -> Iterator[Supervisor]:
    with Supervisor(lambda name, status: changes.append(status)) as supervisor:
        yield supervisor


def pid(supervisor: Supervisor) -> int:
    until(lambda: supervisor.states()["p"].pid is not None)
    found = supervisor.states()["p"].pid
    assert found is not None
    return found


def test_a_killed_program_is_started_again_later_and_later(
    supervisor: Supervisor, changes: list[Status], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.start(program("sleep 100"))
    for restarts in range(3):
        until(lambda n=restarts: supervisor.states()["p"][2] == n)  # type: ignore[misc]
        os.kill(pid(supervisor), signal.SIGKILL)
        until(lambda: supervisor.states()["p"].state is State.WAITING)
    assert supervisor.states()["p"].exit == -signal.SIGKILL % 256
    assert [line.split("again in ")[1] for line in caplog.messages] == ["0 s", "0 s", "1 s"]
    assert {change.state for change in changes} == set(State) - {State.ENDED}


def test_back_off_starts_anew_after_a_long_run(supervisor: Supervisor, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    supervisor.start(program(f"date +%s.%N >> {starts}; sleep 0.5; exit 7", delay=(0.1, 0.4)))
    until(lambda: starts.exists() and len(starts.read_text().splitlines()) == 5)
    times = [float(line) for line in starts.read_text().splitlines()]
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.5 + 0.1 + 0.6
    assert supervisor.states()["p"].exit == 7


def test_a_final_status_is_final(supervisor: Supervisor) -> None:
    supervisor.start(program("exit 3", final=frozenset({3})))
    until(lambda: supervisor.states()["p"].state is State.ENDED)
    assert supervisor.states()["p"] == Status(State.ENDED, None, 0, 3)
    supervisor.stop("p")
    supervisor.start(program("sleep 100"))  # the name is free again
    assert pid(supervisor)


def test_ready_is_asked_until_it_is(supervisor: Supervisor, tmp_path: Path) -> None:
    sign = tmp_path / "ready"
    supervisor.start(program("sleep 100", ready=sign.exists))
    pid(supervisor)
    time.sleep(0.3)
    assert supervisor.states()["p"].state is State.STARTING
    sign.touch()
    until(lambda: supervisor.states()["p"].state is State.RUNNING)


def test_stop_ends_what_the_program_started_even_if_deaf(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    left = tmp_path / "pid"
    deaf = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {left}; sleep 100'"
    supervisor.start(program(deaf))
    own = pid(supervisor)
    until(lambda: left.exists() and left.read_text().endswith("\n"))
    supervisor.stop("p")
    assert not psutil.pid_exists(own)
    assert not psutil.pid_exists(int(left.read_text()))
    assert supervisor.states() == {}


def test_the_program_may_end_its_children_in_its_own_order(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    script = "(trap 'echo child >> log; exit' TERM; while :; do sleep 0.05; done) &\n\
trap 'sleep 0.3; echo parent >> log; kill $!; wait; exit' TERM; while :; do sleep 0.05; done"
    supervisor.start(program(script, folder=tmp_path, stop_grace=10.0))
    pid(supervisor)
    time.sleep(0.3)
    supervisor.stop("p")
    assert (tmp_path / "log").read_text().split() == ["parent", "child"]


def test_output_is_appended_to_a_bounded_log(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "LOG_LIMIT", 1000)
    log = tmp_path / "log" / "p.log"
    supervisor.start(program("while :; do echo 0123456789; sleep 0.001; done", log=log))
    older = tmp_path / "log" / "p.log.1"
    until(older.exists)
    until(lambda: 0 < log.stat().st_size < 1000)
    assert log.stat().st_mode & 0o777 == 0o600
    assert older.read_text().startswith("0123456789\n")


def test_a_log_is_not_written_through_a_link(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "p.log").symlink_to(tmp_path / "precious")
    supervisor.start(program("echo broken", log=tmp_path / "p.log"))
    until(lambda: supervisor.states()["p"].exit == 126)
    assert (tmp_path / "precious").read_text() == "kept"
    assert "cannot start p" in caplog.text


def test_a_missing_command_and_a_second_start_are_clear(supervisor: Supervisor) -> None:
    with pytest.raises(EngineError, match="p needs no-such-program; install it"):
        supervisor.start(Program(name="p", command=["no-such-program"], env={}))
    supervisor.start(program("sleep 100"))
    with pytest.raises(EngineError, match="once"):
        supervisor.start(program("sleep 100"))


def test_nothing_is_inherited_but_what_is_given(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    supervisor.start(program("env; ls /proc/self/fd", log=tmp_path / "log", final=frozenset({0})))
    until(lambda: supervisor.states()["p"].state is State.ENDED)
    lines = (tmp_path / "log").read_text().splitlines()
    assert "SECRET=hidden" not in lines
    assert {line for line in lines if line.isdigit()} <= {"0", "1", "2", "3"}  # 3: ls reads with it


@pytest.mark.skipif(not ROOT, reason="only root can start programs as another user")
def test_another_user_has_its_id_and_can_gain_no_rights(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    script = "id -u; id -g; id -G; umask; grep -E 'NoNewPrivs|CapEff|CapPrm' /proc/self/status"
    supervisor.start(program(script, log=tmp_path / "log", user=NOBODY, final=frozenset({0})))
    until(lambda: supervisor.states()["p"].state is State.ENDED)
    assert (tmp_path / "log").read_text().split() == [
        *(str(NOBODY), str(NOBODY), str(NOBODY), "0077"),
        *("CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"),
    ]


def test_what_the_program_of_a_killed_keeper_had_started_is_ended(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start(program(f"sleep 100 & echo $! > {tmp_path}/child; sleep 100"))
    first = pid(supervisor)
    until(lambda: (tmp_path / "child").exists())
    child = psutil.Process(int((tmp_path / "child").read_text()))
    keeper = psutil.Process(first).parent()
    assert keeper is not None
    keeper.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    until(lambda: pid(supervisor) != first)


@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
def test_a_kill_leaves_nothing(tmp_path: Path, victim: str) -> None:
    code = f"""
import os, time
from pathlib import Path
from common.supervise import Program, Supervisor
with Supervisor() as supervisor:
    command = ["/bin/sh", "-c", "setsid sleep 100 & echo $! > {tmp_path}/grandchild; sleep 100"]
    supervisor.start(Program(name="p", command=command, env={{"PATH": os.defpath}}, stop_grace=0.5))
    while not supervisor.states()["p"].pid:
        time.sleep(0.02)
    print(supervisor.states()["p"].pid, flush=True)
    time.sleep(100)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: (tmp_path / "grandchild").exists())
        grandchild = int((tmp_path / "grandchild").read_text())
        assert psutil.pid_exists(grandchild)
        kept = psutil.Process(child).parent()
        assert kept is not None
        os.kill(parent.pid if victim == "supervisor" else kept.pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(child))
        if victim == "supervisor":
            until(lambda: not psutil.pid_exists(grandchild))
        else:  # what a killed keeper leaves is of another ancestor; Flower's helpers end themselves
            os.kill(grandchild, signal.SIGKILL)
        parent.kill()
