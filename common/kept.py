"""A helper process that is started again when it ends unasked. Standard library only.

Flower's SuperNode and SuperLink start a SuperExec each, once, and never look at it again. When that
dies, a node takes orders and answers none, and a centre starts no ServerApp, until somebody starts
the whole anew. Here it is missed within a moment.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

DELAY = 1.0  #: seconds before it is started again

log = logging.getLogger(__name__)


class Kept:
    """In place of `subprocess.Popen`: what Flower does with a SuperExec, and no more.

    Parameters
    ----------
    command : program and arguments; errors of the first start are raised.
    how : as Popen takes it.
    """

    def __init__(self, command: Sequence[str], **how: Any) -> None:
        self._command, self._how = list(command), how
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(self._command, **how)
        threading.Thread(target=self._watch, name="kept", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """Ask it to end, for good."""
        self._told.set()
        with self._lock:
            self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process of this moment has ended; return its exit status."""
        return self._process.wait(timeout)

    def _watch(self) -> None:
        while not self._told.is_set():
            status = self._process.wait()
            if self._told.wait(DELAY):
                return
            log.warning("%s ended with status %d; starts again", self._command[0], status)
            with self._lock:
                if not self._told.is_set():
                    self._start()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(self._command, **self._how)
        except OSError as error:  # no memory, no processes: it is tried again
            log.warning("%s: %s", self._command[0], error)


class Subprocess:
    """The module ``subprocess`` for a module that starts a helper and never looks at it again."""

    Popen = Kept

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)
