"""Real processes for tests: started into a log file, found by what they run, ended by pid."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from common.closing import Closing

ROOT = Path(__file__).resolve().parent.parent.parent
GRACE = 20.0  #: seconds between SIGTERM and SIGKILL

#: One thread everywhere (two cores, many processes, equal bits), and nothing that calls home.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}

T = TypeVar("T")


class LateError(AssertionError):
    """Something did not happen in time."""


def wait_for(look: Callable[[], T | None], *, what: str, seconds: float, period: float = 0.1) -> T:
    """Look until there is something to see, and return it.

    Parameters
    ----------
    look : returns a true value when it is there.
    what : for the message.
    seconds : how long to look.
    period : seconds between two looks; small where a moment must be hit.

    Raises
    ------
    LateError
        If it is not there in time.
    """
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() >= end:
            raise LateError(f"{what} must be there in {seconds:.0f} s, and was not")
        time.sleep(period)
    return found


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a process under test: this checkout, this Python's commands."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRANSFERLINE_HOME"}
    return {
        **inherited,
        **ENVIRONMENT,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        **more,
    }


class Started(Closing):
    """A process and all that it starts; a context manager that leaves none of them.

    Parameters
    ----------
    command : program and arguments.
    log : file that standard output and error are added to.
    env : variables; default: `environment`.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment() if env is None else env),
                cwd=log.parent,
                start_new_session=True,
            )
        self._seen: dict[int, psutil.Process] = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Return the process and its descendants, also those that lost their parent."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.pid)
            for process in (top, *top.children(recursive=True)):
                self._seen.setdefault(process.pid, process)
        for known in list(self._seen.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in known.children(recursive=True):
                    self._seen.setdefault(process.pid, process)
        return [process for process in self._seen.values() if alive(process)]

    def find(self, pattern: str, *, but: str) -> list[psutil.Process]:
        """Return the processes of the tree whose command line has a pattern, but not a word."""
        lines = ((process, line(process)) for process in self.tree())
        return [found for found, text in lines if re.search(pattern, text) and but not in text]

    def lines(self) -> list[str]:
        """Return the command lines of the processes of the tree."""
        return [line(process) for process in self.tree()]

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def terminate(self, *, seconds: float = GRACE) -> int:
        """Ask it to end and return its exit code."""
        self.tree()
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def end(self) -> list[str]:
        """End everything, and return the command lines of what had to be killed."""
        self.tree()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.terminate()
        # A SuperExec notices within a second or so that its parent is gone.
        end = time.monotonic() + 5
        while (left := self.tree()) and time.monotonic() < end:
            time.sleep(0.05)
        lines = [line(process) for process in left]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return lines

    def close(self) -> None:
        self.end()


def alive(process: psutil.Process) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def line(process: psutil.Process) -> str:
    """Return a process's command line, or "" if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def name(process: psutil.Process) -> str:
    """Return a process's name, or "" if it has just ended."""
    try:
        return str(process.name())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
