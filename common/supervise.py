"""Keeps programs running: starts them, starts them again when they end, ends them all.

Standard library only. Each program runs below a keeper of its own (`common.keeper`), so that ending
it ends all that it has started, and nothing is left when the supervising process is killed,
whatever kills it. Restarts back off: the delay doubles from the first to the longest, and starts
anew once the program has been up for as long as the longest.

Covered: programs that end, crash, hang on SIGTERM, or leave children behind; a killed supervisor;
logs that grow. Not covered: a program that runs and does nothing (`Program.ready` tells only when
it is up after a start).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from common import keeper
from common.errors import EngineError

PERIOD = 0.1  #: seconds between two looks
LOG_LIMIT = 10_000_000  #: bytes of a log; the one before is kept beside it as ``.1``
END = 30.0  #: seconds beyond a program's grace for its keeper to have ended all

log = logging.getLogger(__name__)


class State(StrEnum):
    STARTING = "starting"  #: runs, and is not ready yet
    RUNNING = "running"
    WAITING = "waiting"  #: ended; is started again after a delay
    ENDED = "ended"  #: ended with a status that is final


class Status(NamedTuple):
    """How a program is.

    Attributes
    ----------
    pid : of the program while it runs.
    restarts : how often it was started again.
    exit : its last exit status (a signal as 256 - number), None before the first.
    """

    state: State
    pid: int | None
    restarts: int
    exit: int | None


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program to keep running.

    Attributes
    ----------
    command : absolute path, or a name that is looked up in ``PATH`` of ``env``; then arguments. As
        a function it is asked anew before each start, for example for a free port.
    env : its whole environment; nothing is inherited.
    log : file that its output is appended to; None: that of the supervising process.
    user, group : ids to run as, which needs root; None: those of the supervising process. Without
        a group it is the one with the user's number.
    delay : seconds before a restart: the first, and the longest.
    stop_grace : seconds from SIGTERM until the rest is ended too, and killed.
    ready : whether it is up; asked again and again until it is. Must be quick.
    final : exit statuses after which it is not started again.
    folder : working directory.
    """

    name: str
    command: Sequence[str] | Callable[[], Sequence[str]]
    env: Mapping[str, str]
    log: Path | None = None
    user: int | None = None
    group: int | None = None
    delay: tuple[float, float] = (1.0, 30.0)
    stop_grace: float = 5.0
    ready: Callable[[], bool] | None = None
    final: frozenset[int] = frozenset()
    folder: Path = Path("/")


class Supervisor:
    """Runs programs until it is closed; to be used as a context.

    Parameters
    ----------
    changed : told (name, status) of every change, from the supervisor's thread. It may start
        programs, and must neither stop any nor close.
    """

    def __init__(self, changed: Callable[[str, Status], None] = lambda name, status: None) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, program: Program) -> None:
        """Start a program and keep it running.

        Raises
        ------
        EngineError
            If one of this name is there already, or the command is not.
        """
        wanted = _command(program)[0]
        if shutil.which(wanted, path=program.env.get("PATH", os.defpath)) is None:
            raise EngineError(f"{program.name} needs {wanted}; install it")
        with self._lock:
            if self._closed or program.name in self._watched:
                raise EngineError(f"{program.name} must be started once, got a second start")
            self._watched[program.name] = _Watched(program)
        self._wake.set()

    def stop(self, name: str) -> None:
        """End a program and all that it started; return once they are gone."""
        self._stop([name])

    def close(self) -> None:
        """End all programs, at the same time, and return once they are gone."""
        with self._lock:
            self._closed = True
            names = list(self._watched)
        self._stop(names)
        self._wake.set()
        self._thread.join(END)

    def states(self) -> dict[str, Status]:
        """Return how each program is."""
        with self._lock:
            return {name: watched.status for name, watched in self._watched.items()}

    def _stop(self, names: list[str]) -> None:
        with self._lock:
            found = [self._watched[name] for name in names if name in self._watched]
        for watched in found:
            watched.stopping = True
        self._wake.set()
        for watched in found:
            if not watched.gone.wait(watched.program.stop_grace + END):
                log.error("%s does not end, see process %s", watched.program.name, watched.pid)

    def _run(self) -> None:
        while not (self._closed and not self._watched):
            self._wake.wait(PERIOD)
            self._wake.clear()
            with self._lock:
                watched_now = list(self._watched.items())
            for name, watched in watched_now:
                if watched.look(time.monotonic()):
                    self._changed(name, watched.status)
                if watched.stopping and watched.process is None:
                    with self._lock:
                        del self._watched[name]
                    watched.gone.set()


class _Watched:
    """A program and its keeper; looked at by the supervisor's thread alone."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        self.stopping = False
        self.gone = threading.Event()
        self.status = Status(State.WAITING, None, 0, None)
        self._report = -1
        self._due = self._started = 0.0
        self._delay = program.delay[0]
        self._starts = 0
        self._exit: int | None = None

    def look(self, now: float) -> bool:
        """Do what is due; return whether the status is another one."""
        state = self.status.state
        if self.process is None:
            if state is State.WAITING and not self.stopping and now >= self._due:
                state = self._start(now)
        elif (status := self.process.poll()) is not None:
            state = self._ended(now, status=status)
        elif self.stopping:
            self._end()
        else:
            self._read_pid()
            _bound(self.program.log)
            ready = self.program.ready
            if state is State.STARTING and self.pid and (ready is None or ready()):
                state = State.RUNNING
        before, self.status = (
            self.status,
            Status(state, self.pid, max(0, self._starts - 1), self._exit),
        )
        return self.status != before

    def _start(self, now: float) -> State:
        self._starts += 1
        self._started = now
        report, told = os.pipe()
        os.set_blocking(report, False)
        try:
            with _output(self.program.log) as output:
                self.process = subprocess.Popen(
                    _kept(self.program, report=told),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT if self.program.log else output,
                    env=dict(self.program.env),
                    cwd=self.program.folder,
                    start_new_session=True,
                    pass_fds=(told,),
                )
        except OSError as error:
            os.close(report)
            log.warning("cannot start %s: %s", self.program.name, error)
            return self._again(now, status=keeper.CANNOT_START)
        finally:
            os.close(told)
        self._report = report
        return State.STARTING

    def _ended(self, now: float, *, status: int) -> State:
        assert self.process is not None
        self._end()
        if status < 0 and self.pid is not None:
            # The keeper was killed, and its command with it, but not what that had started: nginx's
            # workers would keep the port. The command leads a group of its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process = None
        os.close(self._report)
        return self._again(now, status=status % 256)

    def _again(self, now: float, *, status: int) -> State:
        """Plan the next start."""
        first, longest = self.program.delay
        if now - self._started >= longest:
            self._delay = first
        self.pid, self._exit = None, status
        self._due = now + self._delay
        self._delay = min(2 * self._delay, longest)
        if self.stopping:
            return State.ENDED
        if status in self.program.final:
            return State.ENDED
        log.warning(
            "%s ended with status %s; starts again in %.0f s",
            *(self.program.name, status, self._due - now),
        )
        return State.WAITING

    def _end(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _read_pid(self) -> None:
        if self.pid is None:
            with contextlib.suppress(BlockingIOError):
                self.pid = int(os.read(self._report, 32) or 0) or None


def _kept(program: Program, *, report: int) -> list[str]:
    """Return the command of a program's keeper."""
    options = ["--report", str(report), "--patience", str(program.stop_grace)]
    if program.user is not None:
        group = program.user if program.group is None else program.group
        options += ["--user", str(program.user), "--group", str(group)]
    return [sys.executable, "-I", "-S", keeper.__file__, *options, "--", *_command(program)]


def _command(program: Program) -> Sequence[str]:
    return program.command() if callable(program.command) else program.command


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[int | None]:
    """Open a log to append to; never through a link that somebody else has put there."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _bound(path: Path | None) -> None:
    """Keep a log from growing: its content goes to ``.1``. The programs append, so may go on."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_LIMIT:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"), follow_symlinks=False)
            os.truncate(path, 0)
