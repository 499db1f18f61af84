"""Whether the plant's daemon answers, for the link: a plant that cannot train should not be asked.

A link whose daemon is gone or hangs still looks connected to the centre, which would ask that plant
in every round and wait. So the link signs off while its daemon is silent, and the centre holds its
rounds with the others. A daemon that is only started again is back long before.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from client.link.bridge_client import PlantClient
from common.errors import TransferlineError

PERIOD = 10.0  #: seconds between two questions
SILENT = 120.0  #: seconds without an answer after which the daemon counts as gone


class Presence:
    """Asks the daemon who it is, now and then, in a thread of its own.

    Parameters
    ----------
    address : the daemon's.
    folder : the link's.
    clock : monotonic seconds.
    """

    def __init__(
        self, address: str, *, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._folder, self._clock = address, folder, clock
        self._heard = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin to ask; it counts as heard now."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, with the question that is out."""
        self._stop.set()

    @property
    def gone(self) -> bool:
        """Whether the daemon has not answered for so long that nobody should wait for it."""
        return self._clock() - self._heard > SILENT

    def _run(self) -> None:
        while True:
            with (
                contextlib.suppress(TransferlineError),
                PlantClient(self._address, folder=self._folder) as daemon,
            ):
                daemon.describe()
                self._heard = self._clock()
            if self._stop.wait(PERIOD):
                return
