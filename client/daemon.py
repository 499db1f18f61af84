"""The plant's daemon: one process that owns data, device, keys, personal store, ledger and policy.

It stays light (no torch; only the training process has it) and lives long. What it is made of is in
the files beside this one: the desk decides, the worker trains, the service is what the link can
call. Everything that must outlive it is on disk before an answer is sent, so it may be killed at
any moment.

A folder has one daemon: it holds ``lock``, and so does its training process, so that after a kill
the next daemon waits until the old process is really gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from client import metrics
from client.desk.desk import Desk
from client.desk.ledger import Ledger
from client.desk.worker import Worker
from client.identity import IDENTITY, Identity
from client.joining.pair import make_pair
from client.layout import LOCK, account, open_settings
from client.service import PlantService, Service
from common.config import PlantConfig
from common.endpoint import Endpoint
from common.errors import EngineError, StateError
from common.files import unwritable
from common.version import program_version

log = logging.getLogger(__name__)

WAIT = 10.0  #: seconds that a daemon of before may take to be gone
PERIOD = 0.2  #: seconds between two looks
MMAP_THRESHOLD, ARENA_MAX = -3, -8  #: of mallopt(3)
LARGE = 2**18  #: bytes from which on memory is the system's own
ARENAS = 2


def local_time() -> datetime:
    """Return the time with the plant's own zone."""
    return datetime.now().astimezone()


class Daemon:
    """One plant's daemon; `run` once.

    Parameters
    ----------
    folder : the plant's.
    now : local time, aware.
    ready : told the service's address once it answers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], datetime] = local_time,
        ready: Callable[[str], None] = lambda address: None,
    ) -> None:
        self._folder = folder.absolute()
        self._now = now
        self._ready = ready
        self._stop = threading.Event()
        self._stopping = False

    def stop(self) -> None:
        """End `run`; may be called from any thread."""
        self._stopping = True
        self._stop.set()

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `stop`.

        Raises
        ------
        ConfigError, IdentityError, StateError, EngineError
            If it cannot start: settings, keys, ledger, another daemon, an address in use.
        """
        settings = open_settings(self._folder)
        _give_memory_back()
        with _signals(self.stop), _locked(self._folder) as lock:
            ledger = Ledger(self._folder)
            ledger.prepare()
            identity = Identity(self._folder / IDENTITY, name=settings.name, at=self._now())
            worker = Worker(self._folder, lock=lock)
            desk = Desk(
                self._folder,
                identity=identity,
                ledger=ledger,
                worker=worker,
                now=self._now,
                ended=self._stop.set,
            )
            servicer = PlantService(desk, identity=identity, plant=settings.name, now=self._now)
            service = Service(servicer)
            with _metrics(settings, self._folder):
                address = _listen(service, settings, self._folder)
                self._serve(desk, service, ledger, address)
        if not self._stopping:
            raise EngineError("daemon must work until it is stopped, it failed; its log says why")

    def _serve(self, desk: Desk, service: Service, ledger: Ledger, address: str) -> None:
        desk.start()
        service.start()
        started = self._now().isoformat(timespec="seconds")
        facts = {
            "pid": os.getpid(),
            "version": program_version(),
            "address": address,
            "since": started,
        }
        ledger.note({"daemon": facts, "work": None, "queue": 0}, at=self._now())
        log.info("plant daemon answers on %s", address)
        self._ready(address)
        try:
            self._stop.wait()
        finally:
            log.info("stopping")
            service.refuse()
            desk.close()
            service.stop()
            ledger.note({"daemon": None, "work": None, "queue": 0}, at=self._now())


def _listen(service: Service, settings: PlantConfig, folder: Path) -> str:
    link = account(settings.link.user) if settings.link.user else None
    if settings.link.listen:
        make_pair(folder, owner=None if link is None else (link.uid, link.gid))
        return service.listen_tcp(settings.link.listen, folder=folder)
    group = None if link is None else link.gid
    return service.listen_unix(folder / settings.link.socket, group=group)


def _give_memory_back() -> None:
    """Let freed vectors go back to the system at once, where the C library is glibc.

    By default it keeps what threads have freed, in as many pools as there are threads, so that the
    daemon's memory goes up and down by tens of megabytes.
    """
    library = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(ARENA_MAX, ARENAS)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; yield its file descriptor.

    Raises
    ------
    StateError
        If another daemon holds it.
    """
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        end = time.monotonic() + WAIT
        while not _taken(handle):
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip()
            if time.monotonic() >= end or _alive(holder):
                raise StateError(
                    f"{folder} must have one daemon, process {holder or 'unknown'} is another; "
                    "stop that one first"
                )
            time.sleep(PERIOD)
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)
        yield handle
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: str) -> bool:
    """Whether a process is there; where it is not, what it has started is just ending."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Stop on SIGTERM and SIGINT, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: stop())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _metrics(settings: PlantConfig, folder: Path) -> Iterator[Endpoint | None]:
    """Answer scrapes where the settings say so."""
    if not settings.metrics:
        yield None
        return
    with metrics.serve(settings.metrics, metrics.registry(folder)) as endpoint:
        log.info("metrics on %s", endpoint.address)
        yield endpoint
