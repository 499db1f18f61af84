"""Runs one command and leaves nothing of it behind: a process of its own, standard library only.

Flower starts SuperExec in a session of its own, which starts the simulation, which starts Ray with
a dozen daemons that outlive their parents when those are killed. So process groups do not help, and
neither does clean-up code in the process that the user interrupts: a second Ctrl-C or a kill would
skip it. The keeper stands between: it is the subreaper (prctl(2)) of all that it starts, so every
orphan becomes its child, and it ends them all and removes a folder when

- the command ends,
- its standard input closes or its parent is gone, however that happened, SIGKILL included, or
- it gets SIGTERM.

On systems without ``/proc`` and subreapers it ends the tree as it stands at that moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SUBREAPER = 36  #: PR_SET_CHILD_SUBREAPER
GRACE = 3.0  #: seconds between SIGTERM and SIGKILL
PERIOD = 0.1  #: seconds between two looks

_ending = False


def main(folder: str, *command: str) -> int:
    """Run the command; return its exit status, or 0 where the keeper was told to end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    status: int | None = None
    while status is None and not _ending and os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], PERIOD)
        if readable and not os.read(sys.stdin.fileno(), 64):
            break
        status = reap().get(process.pid)
    end_all(known={process.pid})
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if status is None else os.waitstatus_to_exitcode(status) % 256


def _end(number: int, frame: object) -> None:
    global _ending
    _ending = True


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


def end_all(*, known: set[int]) -> None:
    """End every descendant: SIGTERM, and after the grace SIGKILL until none is left."""
    start = time.monotonic()
    asked: set[int] = set()
    while left := living(known):
        known |= left
        late = time.monotonic() - start > GRACE
        for pid in left if late else left - asked:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= left
        time.sleep(PERIOD / 2)


def living(known: set[int]) -> set[int]:
    """Return the descendants of this process, and those of ``known`` that are still there."""
    gone = set(reap())
    parents = parents_by_pid()
    found = {pid for pid in known if pid in parents} - gone
    waiting = [os.getpid(), *found]
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
