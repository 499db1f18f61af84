"""How the training process begins: it ties its life to the daemon's, then loads what trains.

It ends with its daemon, however that ends, and holds the folder's lock as long as it lives, so that
two never work on one plant.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name

from client.console.logs import log_to_stderr

DEATH_SIGNAL = 1  #: of prctl(2)
SERVE = "client.desk.worker_plant:serve"  #: by name: it loads torch, which takes seconds


def main(folder: str, connection: str, life: str) -> None:
    """Serve until the daemon closes the connection.

    Parameters
    ----------
    folder : the plant's.
    connection, life : file descriptors: of the socket to the daemon, and of a pipe whose other end
        closes when the daemon is gone.
    """
    _end_with_daemon(int(life))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_to_stderr()
    serve: Callable[[Connection, Path], None] = resolve_name(SERVE)
    serve(Connection(int(connection)), Path(folder))


def _end_with_daemon(life: int) -> None:
    """End when the daemon is gone: by a thread, and on Linux by the kernel, even in a long call."""

    def watch() -> None:
        os.read(life, 1)
        os._exit(0)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    threading.Thread(target=watch, name="daemon's end", daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
