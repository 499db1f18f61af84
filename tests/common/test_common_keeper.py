"""The keeper ends all that a command started, however it is told, and removes the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common import keeper

#: Starts a child in a session of its own that is deaf to SIGTERM, and one that is orphaned.
TREE = """
import os, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"
orphan = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; \
time.sleep(100)'], start_new_session=True).pid, flush=True)"
print(os.getpid(), flush=True)
print(subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True).pid, flush=True)
subprocess.run([sys.executable, "-c", orphan])
time.sleep({seconds})
"""


def start(folder: Path, *, seconds: float) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a keeper and return it and the processes it has to end."""
    folder.mkdir()
    (folder / "file").touch()
    command = [sys.executable, "-c", TREE.format(seconds=seconds)]
    process = subprocess.Popen(
        [sys.executable, "-I", keeper.__file__, "--remove", str(folder), "--", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(3)]


def left(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    process, pids = start(tmp_path / "home", seconds=100)
    yield process, pids, tmp_path / "home"
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    process.wait(20)
    assert left(pids) == []


Kept = tuple[subprocess.Popen[str], list[int], Path]


def test_it_ends_all_when_its_input_closes(kept: Kept) -> None:
    process, pids, folder = kept
    assert left(pids) == pids
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert left(pids) == []
    assert not folder.exists()


def test_it_ends_all_when_it_is_terminated(kept: Kept) -> None:
    process, pids, folder = kept
    process.send_signal(signal.SIGINT)  # Ctrl-C is not for the keeper
    time.sleep(0.3)
    assert left(pids) == pids
    process.terminate()
    assert process.wait(20) == keeper.TOLD
    assert left(pids) == []
    assert not folder.exists()


def test_it_ends_all_when_the_command_is_killed(kept: Kept) -> None:
    process, pids, folder = kept
    os.kill(pids[0], signal.SIGKILL)
    assert process.wait(20) == (-signal.SIGKILL) % 256
    assert left(pids) == []
    assert not folder.exists()


def test_it_ends_all_when_the_command_ends(tmp_path: Path) -> None:
    process, pids = start(tmp_path / "home", seconds=0)
    with process:
        assert process.wait(20) == 0
    assert left(pids) == []
    assert not (tmp_path / "home").exists()


def test_it_ends_all_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = "import subprocess, sys\n\
keeper = subprocess.Popen([sys.executable, '-I', *sys.argv[1:]], stdin=subprocess.PIPE)\n\
keeper.wait()"
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", TREE.format(seconds=100)]
    with subprocess.Popen(
        [
            *(sys.executable, "-c", code, keeper.__file__),
            *("--remove", str(tmp_path / "home"), "--", *command),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(3)]
        parent.kill()
    end = time.monotonic() + 20
    while left(pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert left(pids) == []
