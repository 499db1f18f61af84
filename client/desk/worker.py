"""One training process, seen from the daemon: warm, and killed and replaced when it hangs or dies.

The process is `client.desk.worker_process`; this side imports no torch. It is started anew, never
forked (CUDA and threads do not survive a fork). Whoever waits for it is told the truth: a result,
that it was stopped and why, or that it died.

`Worker.warm`, `Worker.work` and `Worker.end` belong to one thread that lives as long as the daemon:
the kernel ends the process with the thread that started it. The rest may be called from any.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.errors import EngineError, TrainingError
from common.wire.parts import Parts

log = logging.getLogger(__name__)


class StoppedError(TrainingError):
    """Training that the daemon has ended; the message says why and goes to the operator too."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came back.

    Attributes
    ----------
    parts : the reply.
    facts : for the ledger; they do not travel.
    """

    parts: Parts
    facts: dict[str, Any]


class Worker:
    """The training process of one plant.

    Parameters
    ----------
    folder : the plant's.
    lock : file descriptor of the folder's lock, which the process holds too.
    """

    def __init__(self, folder: Path, *, lock: int | None = None) -> None:
        self._folder = folder
        self._lock = lock
        self._bench: _Bench | None = None
        self._closed = False
        self.starts = 0
        self.killed = 0

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        bench = self._bench
        return bench.pid if bench is not None and bench.alive else None

    def warm(self) -> None:
        """Start the process, so that torch is loaded before the first order."""
        if self._bench is not None and not self._bench.alive:
            self._bench.end()
            self._bench = None
        if self._bench is None and not self._closed:
            self.starts += 1
            self._bench = _Bench(self._folder, lock=self._lock)

    def work(
        self,
        parts: Parts,
        *,
        seconds: float,
        unwanted: Callable[[], str] = lambda: "",
        gpu_memory_share: float = 1.0,
    ) -> Result:
        """Let the plant answer an order.

        Parameters
        ----------
        parts : the order, checked by the caller.
        seconds : after which the process is killed.
        unwanted : why the order is not wanted any more; "" while it is. Whoever changes that calls
            `stop` next, so that it is seen either here or there.
        gpu_memory_share : of the GPU's memory, 0 to 1.

        Raises
        ------
        StoppedError
            If the time was over, or `stop` was called.
        EngineError
            If the process died.
        """
        self.warm()
        bench = self._bench
        if self._closed or bench is None:
            raise StoppedError("the daemon was stopped")
        if why := unwanted():
            raise StoppedError(why)
        started = time.monotonic()
        timer = threading.Timer(seconds, bench.kill, args=(f"stopped after {seconds:.0f} s",))
        timer.daemon = True
        timer.start()
        try:
            return bench.ask(parts, {"gpu_memory_share": gpu_memory_share})
        except (EOFError, OSError) as error:
            self._bench = None
            code = bench.end()
            if bench.why:
                self.killed += 1
                raise StoppedError(bench.why) from error
            raise EngineError(
                f"training process must live until it has answered, it ended with {code} after "
                f"{time.monotonic() - started:.0f} s; its last lines in this log say why"
            ) from error
        finally:
            timer.cancel()

    def stop(self, why: str) -> None:
        """Kill the process; whoever waits for it gets `StoppedError` with this reason."""
        if (bench := self._bench) is not None:
            bench.kill(why)

    def close(self) -> None:
        """Kill the process, and start no other."""
        self._closed = True
        self.stop("the daemon was stopped")

    def end(self) -> None:
        """Close, and wait until the process is gone."""
        self.close()
        if self._bench is not None:
            self._bench.end()
            self._bench = None


class _Bench:
    """One process and the socket to it."""

    def __init__(self, folder: Path, *, lock: int | None) -> None:
        ours, theirs = socket.socketpair()
        alive, self._life = os.pipe()
        given = [theirs.fileno(), alive]
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "client.desk.worker_process",
                    str(folder),
                    *map(str, given),
                ],
                pass_fds=[*given, *([] if lock is None else [lock])],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._life)
            raise EngineError(f"cannot start the training process: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(alive)
        self._connection = Connection(ours.detach())
        self.why = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.why and self._process.poll() is None

    def ask(self, parts: Parts, settings: dict[str, Any]) -> Result:
        """Send an order and wait for what comes back."""
        self._connection.send_bytes(json.dumps(settings).encode())
        self._connection.send_bytes(parts.head.encode())
        self._connection.send_bytes(parts.vector or b"")
        facts = json.loads(self._connection.recv_bytes())
        head, vector = self._connection.recv_bytes().decode(), self._connection.recv_bytes()
        return Result(parts=Parts(head=head, vector=vector or None), facts=facts)

    def kill(self, why: str) -> None:
        """Kill the process; the first reason counts."""
        self.why = self.why or why
        self._process.kill()

    def end(self) -> int:
        """Collect the process and close what leads to it; return its exit status."""
        self._process.kill()
        code = self._process.wait()
        with contextlib.suppress(OSError):
            self._connection.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        return code
