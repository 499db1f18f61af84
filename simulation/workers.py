"""Worker processes: functions run in a fixed place, so that a plant stays warm there.

With one worker everything runs in this process. With more, processes are spawned, never forked
(CUDA and threads do not survive a fork). A worker that dies or is too slow loses its tasks, is
killed and replaced; what was lost is told, never passed over.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from common.closing import Closing
from common.errors import ConfigError, EngineError, TransferlineError

_SPAWN = get_context("spawn")
FAILED = 1  #: exit status of a process that an error ended


class Lost(Enum):
    """Why a task has no result."""

    DIED = "died"
    LATE = "late"


@dataclass(frozen=True)
class Task:
    """A module's function, its arguments, and the place where it runs (modulo workers)."""

    place: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Workers(Closing):
    """A fixed number of places."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ConfigError(f"--workers must be at least 1, got {count}")
        self.count = count
        self._processes: dict[int, _Process] = {}

    def close(self) -> None:
        """End every process."""
        for process in self._processes.values():
            process.kill()
        self._processes.clear()

    def each(
        self, tasks: Sequence[Task], *, seconds: float | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Run tasks and yield (position, result or Lost) as they end.

        Parameters
        ----------
        seconds : tasks that have not ended by then are lost; within one process a task that has
            begun is let finish.

        Raises
        ------
        TransferlineError
            What a task raised.
        RuntimeError
            If a task failed in another way in a process of its own, which says how.
        """
        end = time.monotonic() + seconds if seconds is not None else None
        if self.count == 1:
            yield from _here(tasks, end)
            return
        queues: dict[int, deque[int]] = {}
        for position, task in enumerate(tasks):
            queues.setdefault(task.place % self.count, deque()).append(position)
        busy: dict[int, int] = {}
        while queues or busy:
            for place in [p for p in queues if p not in busy]:
                busy[place] = queues[place].popleft()
                if not queues[place]:
                    del queues[place]
                self._process(place).begin(tasks[busy[place]])
            ready = wait([self._processes[place].connection for place in busy], _left(end))
            if not ready:
                for place in busy:
                    self._processes.pop(place).kill()
                missing = [*busy.values(), *(p for queue in queues.values() for p in queue)]
                yield from ((position, Lost.LATE) for position in missing)
                return
            for place in [p for p in busy if self._processes[p].connection in ready]:
                result = self._processes[place].result()
                if result is Lost.DIED:
                    self._processes.pop(place).kill()
                yield busy.pop(place), result

    def every(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Run tasks none of which may be lost; as `each`.

        Raises
        ------
        EngineError
            If a process died.
        """
        for position, result in self.each(tasks):
            if isinstance(result, Lost):
                raise EngineError(
                    "a worker process died, perhaps for want of memory; use fewer --workers and "
                    "continue with --resume"
                )
            yield position, result

    def _process(self, place: int) -> _Process:
        if place not in self._processes:
            self._processes[place] = _Process()
        return self._processes[place]


class _Process:
    """One spawned process and the pipe to it."""

    def __init__(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        self.connection.send((task.function, task.arguments))

    def result(self) -> Any:
        try:
            raised, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            if self._process.exitcode == FAILED:
                raise RuntimeError("a task failed in a worker, which has told how") from None
            return Lost.DIED
        if raised:
            raise value
        return value

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    """Run tasks until the other end of the pipe is gone; Ctrl-C is the parent's business.

    An error of ours is raised again on the other side; any other ends this process with a traceback
    of the place where it happened.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = (False, function(*arguments))
        except TransferlineError as error:
            answer = (True, error)
        try:
            connection.send(answer)
        except ConnectionError:
            return


def _here(tasks: Sequence[Task], end: float | None) -> Iterator[tuple[int, Any]]:
    for position, task in enumerate(tasks):
        if end is not None and time.monotonic() >= end:
            yield position, Lost.LATE
        else:
            yield position, task.function(*task.arguments)


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())
