"""``flower-superexec`` that forks its ClientApps from a process in which all is imported already.

SuperExec starts a ``flwr-clientapp`` for every message, and most of what that does is import
Flower: a second of processor time and more before an order is looked at. Here a child that is
forked before SuperExec begins, the *nursery*, has imported it all, has no threads, and does nothing
but fork: a line with the arguments comes in, a process goes out, in some milliseconds.

Covered: each message still has a process of its own, as the same user, with the same environment;
what one does to its memory the next does not see. The nursery opens no socket and no file, holds
nothing of a message, ends with SuperExec, and where it is gone SuperExec starts the command as it
always does. Not covered: what a hostile bundle may do to other processes of the link's user, the
nursery among them. That was so without it; the boundary is that user (`client.link.link`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import sys
from typing import Any

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

from client.link import entry

#: What a bridge needs beyond `client.link.entry`.
NEEDED = ("client.app", "grpc", "common.wire.plant_pb2_grpc")
SET_NAME = 15  #: of prctl(2)

log = logging.getLogger(__name__)


class Nursery:
    """The way to the forking process.

    Attributes
    ----------
    pid : its.
    """

    def __init__(self) -> None:
        for name in NEEDED:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # the children share these pages as long as nobody writes to them
        lines, self._orders = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            _nurse(lines)
        os.close(lines)

    def start(self, arguments: list[str]) -> bool:
        """Have a ClientApp process forked; return whether the nursery took the order.

        Parameters
        ----------
        arguments : of ``flwr-clientapp``; a line of at most 4096 bytes, so that it goes as one.
        """
        line = json.dumps(arguments).encode() + b"\n"
        try:
            return len(line) <= 4096 and os.write(self._orders, line) == len(line)
        except OSError:
            return False

    def close(self) -> None:
        """End the nursery."""
        with contextlib.suppress(OSError):
            os.close(self._orders)
            os.waitpid(self.pid, 0)


def _nurse(lines: int) -> None:
    """Fork a process for each line, until SuperExec is gone."""
    _name(b"nursery")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the children
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with os.fdopen(lines, "rb", buffering=0) as orders:
        while line := orders.readline():
            if os.fork() == 0:
                orders.close()
                _run(json.loads(line))
    os._exit(0)


def _run(arguments: list[str]) -> None:
    """Be a ClientApp process; never returns."""
    _name(b"bridge")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code: Any = 1
    try:
        entry.main(*arguments)
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    finally:  # a fork that came back would be a second launcher
        if sys.exc_info()[0] is not None:
            log.error("the bridge failed", exc_info=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def _name(name: bytes) -> None:
    """Let the process be told apart in a list of processes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_NAME, name, 0, 0, 0)


class ForkingExecutor(SubprocessExecutor):
    """Flower's executor, but for ClientApps."""

    nursery: Nursery

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Fork the process, or start it as Flower does."""
        if spec.task_type is TaskType.CLIENT_APP and self.nursery.start(_arguments(spec)):
            return LaunchResult.accepted()
        return super().launch(spec)

    def close(self) -> None:
        self.nursery.close()


def _arguments(spec: ExecutionSpec) -> list[str]:
    """Return the arguments that Flower's executor would give to ``flwr-clientapp``."""
    found = ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token]
    if spec.insecure:
        found.append("--insecure")
    elif spec.root_certificates_path is not None:
        found += ["--root-certificates", spec.root_certificates_path]
    if spec.parent_pid is not None:
        found += ["--parent-pid", str(spec.parent_pid)]
    return found


def main() -> None:
    """Run SuperExec."""
    ForkingExecutor.nursery = Nursery()  # before SuperExec has threads and connections
    names = vars(importlib.import_module("flwr.supercore.superexec.executor.factory"))
    assert names["SubprocessExecutor"] is SubprocessExecutor, "another Flower"
    names["SubprocessExecutor"] = ForkingExecutor
    flower_superexec()


if __name__ == "__main__":
    main()
