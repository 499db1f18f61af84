"""Runs one command and leaves nothing of it behind: a process of its own, standard library only.

Flower starts its helpers in sessions of their own, and in simulation Ray with a dozen daemons that
outlive their parents when those are killed. So process groups do not help, and neither does
clean-up code in the process that is interrupted: a second Ctrl-C or a kill would skip it. The
keeper stands between: it is the subreaper (prctl(2)) of all that it starts, so every orphan becomes
its child, and it ends them all and removes a folder when

- the command ends,
- its standard input closes or its parent is gone, however that happened, SIGKILL included, or
- it gets SIGTERM.

When the keeper itself is killed, the command is killed too. A command that runs as another user can
gain no further rights by any program on the machine.

On systems without ``/proc`` and prctl it ends the tree as it stands at that moment.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DEATH_SIGNAL, SUBREAPER, NO_NEW_RIGHTS = 1, 36, 38  #: of prctl(2)
GRACE = 3.0  #: seconds between SIGTERM and SIGKILL
PERIOD = 0.1  #: seconds between two looks while ending
WATCH = 1.0  #: seconds between two looks at the parent; anything else wakes the keeper
CANNOT_START = 126  #: exit status where there is no such command, as a shell's
TOLD = 128 + signal.SIGTERM  #: exit status where somebody has ended the keeper

_ending = False


def main(*arguments: str) -> int:
    """Run the command; return its exit status, or 0 where standard input closed."""
    asked = _options(*arguments)
    wake = _signals()
    parent = os.getppid()
    _prctl(SUBREAPER, 1)
    try:
        process = _start(asked)
    except OSError as error:
        os.write(2, f"cannot start {asked.command[0]}: {error.strerror}\n".encode())
        return CANNOT_START
    if asked.report is not None:
        os.write(asked.report, b"%d\n" % process.pid)
    status: int | None = None
    while status is None and not _ending and os.getppid() == parent:
        readable, _, _ = select.select([0, wake], [], [], WATCH)
        if 0 in readable and not os.read(0, 64):
            break
        if wake in readable:
            os.read(wake, 64)
        status = reap().get(process.pid)
    if status is None:
        _ask(process.pid, seconds=asked.patience)
    end_all()
    if asked.remove:
        shutil.rmtree(asked.remove, ignore_errors=True)
    if status is None:
        return TOLD if _ending else 0
    return os.waitstatus_to_exitcode(status) % 256


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="keeper", description=__doc__, allow_abbrev=False)
    parser.add_argument("--remove", help="folder to remove at the end")
    parser.add_argument("--report", type=int, help="file descriptor to write the command's pid to")
    parser.add_argument("--user", type=int, help="user id of the command")
    parser.add_argument("--group", type=int, help="group id of the command")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        help="seconds that the command has after SIGTERM before what it started is ended too",
    )
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def _signals() -> int:
    """Set up signals; return a file descriptor that is readable after each."""
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return wake


def _end(number: int, frame: object) -> None:
    global _ending
    _ending = True


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _start(asked: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the command, as the other user where one is asked for."""
    prctl: Callable[..., int] | None = None
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl  # loaded here: the child should do as little as it can

    def prepare() -> None:
        # After the change of user, which would clear the first of them.
        for number in (signal.SIGINT, signal.SIGHUP):  # what is ignored stays so in a new program
            signal.signal(number, signal.SIG_DFL)
        if prctl is not None:
            prctl(DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
            if asked.user is not None:
                prctl(NO_NEW_RIGHTS, 1, 0, 0, 0)

    other = asked.user is not None
    return subprocess.Popen(
        asked.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=asked.user,
        group=asked.group if asked.group is not None else asked.user,
        extra_groups=[] if other else None,
        umask=0o077 if other else -1,
        preexec_fn=prepare,
    )


def _ask(pid: int, *, seconds: float) -> None:
    """Ask the command to end and wait for it, so that it can end what it started in its order."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    while time.monotonic() < end and pid not in reap():
        time.sleep(PERIOD / 2)


def reap() -> dict[int, int]:
    """Collect children that have ended: {pid: wait status}.

    Flower takes a zombie for a living parent, so none may stay.
    """
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def end_all() -> None:
    """End every descendant: SIGTERM, and after the grace SIGKILL until none is left."""
    start = time.monotonic()
    asked: set[int] = set()
    while left := living(asked):
        late = time.monotonic() - start > GRACE
        for pid in left if late else left - asked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= left
        time.sleep(PERIOD / 2)


def living(known: set[int]) -> set[int]:
    """Return the descendants of this process.

    Without a subreaper orphans are not among them: those of ``known`` are looked at too.
    """
    gone = set(reap())
    parents = parents_by_pid()
    orphans = set() if sys.platform == "linux" else known & set(parents) - gone
    found, waiting = set(orphans), [os.getpid(), *orphans]
    while waiting:
        above = waiting.pop()
        below = {pid for pid, parent in parents.items() if parent == above} - found
        found |= below
        waiting += below
    return found - gone


def parents_by_pid() -> dict[int, int]:
    """Return the parent of every process on the machine."""
    if not Path("/proc/self/stat").exists():
        lines = subprocess.run(
            ["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        pairs = (line.split() for line in lines)
        return {int(pid): int(parent) for pid, parent in pairs}
    found: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in brackets may hold spaces and brackets itself: the last one ends it.
                stat = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                found[int(entry.name)] = int(stat[1])
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
