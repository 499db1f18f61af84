"""A ClientApp process is forked from the nursery, apart from it, and without it started as ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import factory
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

from client.link import superexec_main

ROOT = Path(__file__).resolve().parents[2]

#: A nursery whose ClientApps write down who they are, instead of asking a SuperNode.
CODE = """
import json, os, sys, time
from pathlib import Path
from client.link import entry, superexec_main

def stand_in(*arguments):
    sys.path.append("changed")  # the next must not see it
    name = Path("/proc/self/comm").read_text().strip()
    parent = os.getppid()
    told = {"pid": os.getpid(), "parent": parent, "name": name, "path": sys.path.count("changed")}
    Path(arguments[-1]).write_text(json.dumps(told))
    if "fail" in arguments:
        raise ZeroDivisionError("a mistake of the program")
    if "wait" in arguments:
        time.sleep(60)
    sys.exit(0)

entry.main = stand_in
nursery = superexec_main.Nursery()
print(nursery.pid, flush=True)
for line in sys.stdin:
    print(nursery.start(json.loads(line)), flush=True)
"""


class Running:
    """A process with a nursery."""

    def __init__(self, folder: Path) -> None:
        with (folder / "errors").open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "FLWR_TELEMETRY_ENABLED": "0"},
            )
        self.folder = folder
        assert self.process.stdout is not None
        self.nursery = int(self.process.stdout.readline())

    def start(self, name: str, *more: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = json.dumps([*more, str(self.folder / name)])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def told(self, name: str) -> dict[str, object]:
        path, end = self.folder / name, time.monotonic() + 20
        while time.monotonic() < end:
            if path.exists() and (text := path.read_text()):
                return dict(json.loads(text))
            time.sleep(0.01)
        raise AssertionError(f"no process has written {name}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()  # not read to its end: a bridge that sleeps holds it open for a minute


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def running(tmp_path: Path) -> object:
    found = Running(tmp_path)
    yield found
    found.end()


def test_each_message_has_a_process_of_its_own(running: Running) -> None:
    told = []
    for name in ("one", "two"):
        assert running.start(name) == "True"
        told.append(running.told(name))
    assert [one["name"] for one in told] == ["bridge", "bridge"]
    assert [one["parent"] for one in told] == [running.nursery] * 2
    assert [one["path"] for one in told] == [1, 1]
    assert told[0]["pid"] != told[1]["pid"]
    assert gone(int(str(told[0]["pid"])))  # and nobody has to collect it


def test_a_bridge_that_fails_says_so_and_is_no_second_nursery(running: Running) -> None:
    assert running.start("one", "fail") == "True"
    assert gone(int(str(running.told("one")["pid"])))
    assert "the bridge failed\nTraceback" in (said := (running.folder / "errors").read_text())
    assert "ZeroDivisionError: a mistake of the program" in said
    assert running.start("two") == "True"
    assert running.told("two")["parent"] == running.nursery


def test_the_nursery_ends_with_its_superexec(running: Running) -> None:
    running.start("one", "wait")
    running.told("one")
    running.end()
    assert gone(running.nursery)


def test_without_the_nursery_it_says_so(running: Running) -> None:
    os.kill(running.nursery, signal.SIGKILL)
    assert gone(running.nursery)
    assert running.start("one") == "False"


def test_a_line_too_long_for_one_write_is_not_sent(running: Running) -> None:
    assert running.start("one", "x" * 5000) == "False"
    assert running.start("two") == "True"
    running.told("two")


class Deaf:
    """A nursery that is gone."""

    def __init__(self, *, hears: bool) -> None:
        self.hears, self.orders = hears, []  # type: ignore[var-annotated]

    def start(self, arguments: list[str]) -> bool:
        self.orders.append(arguments)
        return self.hears


@pytest.mark.parametrize("hears", [True, False])
def test_flowers_own_way_is_taken_where_the_nursery_is_not_there(
    monkeypatch: pytest.MonkeyPatch, *, hears: bool
) -> None:
    started: list[ExecutionSpec] = []
    monkeypatch.setattr(SubprocessExecutor, "launch", lambda self, spec: started.append(spec))
    executor = superexec_main.ForkingExecutor()
    executor.nursery = Deaf(hears=hears)  # type: ignore[assignment]
    spec = ExecutionSpec(
        task_type=TaskType.CLIENT_APP,
        runtime_api_address="127.0.0.1:9",
        token="secret",
        insecure=True,
        root_certificates_path=None,
        runtime_dependency_install=False,
        parent_pid=7,
        suppress_output=False,
        task_id=1,
        fab_hash=None,
    )
    executor.launch(spec)
    assert started == ([] if hears else [spec])
    assert executor.nursery.orders == [  # type: ignore[attr-defined]
        ["--runtime-api-address", "127.0.0.1:9", "--token", "secret", "--insecure",
         "--parent-pid", "7"]
    ]  # fmt: skip


def test_what_is_replaced_is_there() -> None:
    assert vars(factory)["SubprocessExecutor"] is SubprocessExecutor
