"""The centre's daemon, `transferline-server up`: one process, and below it SuperLink and nginx.

It keeps both running, enrols plants, serves metrics, cuts revoked plants off, and looks after the
run that is due (`server.engine.watch`). What the operator's commands want it reads from the store,
once a second. All that it knows is on disk: killed at any moment, the next `up` continues.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from common.config import load_federation
from common.errors import ConfigError, EngineError, StateError, TransferlineError
from common.supervise import Program, State, Status, Supervisor
from server.centre import SERVER, SERVER_KEY, Centre
from server.console.display import closed_line
from server.engine import edge
from server.engine.control import Node
from server.engine.edge import Edge
from server.engine.engine import NAME as SUPERLINK
from server.engine.engine import Engine, free_port
from server.engine.event_log import EventReader
from server.engine.inner import Inner
from server.engine.job import ERROR
from server.engine.watch import RunWatch
from server.enrolment import Enrolment, serve
from server.metrics import metrics
from server.seals import CA, RELEASE, RELEASE_KEY
from server.state.tables import ENROLLED, utcnow

EDGE = "edge"
PERIOD = 0.5  #: seconds between two looks at the store
KEYS = 3.0  #: seconds between two looks at the centre's own keys
SEEN = 5.0  #: seconds between two looks at who is connected
DAY = timedelta(days=1).total_seconds()
GRACE = 2.0  #: seconds that an enrolment in progress may take at the end

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts of a centre listen.

    Attributes
    ----------
    edge : for plants; "" without nginx.
    superlink : on loopback; without nginx at the edge's port, for plants on this machine.
    metrics : "" for none.

    Without nginx all of them are on loopback.
    """

    edge: str
    superlink: str
    enrolment: str
    metrics: str

    @classmethod
    def of(cls, centre: Centre, *, nginx: bool) -> Addresses:
        """Choose the addresses and check that they are free.

        Raises
        ------
        EngineError
            If one is not: which, where, and what to do.
        """
        config = centre.config
        host = config.bind if nginx else "127.0.0.1"
        host = f"[{host}]" if ":" in host else host
        outside = f"{host}:{config.address.rpartition(':')[2]}"
        found = cls(
            edge=outside if nginx else "",
            superlink=f"127.0.0.1:{free_port()}" if nginx else outside,
            enrolment=f"{host}:{config.enrolment.rpartition(':')[2]}",
            metrics=config.metrics,
        )
        if found.metrics and not (nginx or found.metrics.startswith("unix:")):
            found = replace(found, metrics=f"{host}:{found.metrics.rpartition(':')[2]}")
        check_free(outside, what="the TLS edge", key="address")
        check_free(found.enrolment, what="enrolment", key="enrolment")
        if found.metrics and not found.metrics.startswith("unix:"):
            check_free(found.metrics, what="metrics", key="metrics")
        return found


class Daemon:
    """A centre that is up.

    Parameters
    ----------
    centre : its folder.
    """

    def __init__(self, centre: Centre) -> None:
        self.centre = centre
        self._stop = threading.Event()
        self._engine_lost = threading.Event()
        self._trouble = ""
        self._due: dict[str, float] = {}
        self._keys: tuple[int, ...] = ()
        self._keys_before: tuple[int, ...] = ()
        self._events: tuple[str, EventReader] | None = None

    def stop(self) -> None:
        """Have `run` end; also from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Start everything, and end everything once `stop` is called.

        Raises
        ------
        TransferlineError
            If it cannot start; what was started is ended.
        """
        with self.centre.lock():
            while not self._stop.is_set():
                # A fresh look at the folder: keys may have been renewed or rotated.
                self.centre = Centre.open(self.centre.folder)
                self._check_state()
                self._session()

    def _check_state(self) -> None:
        """Return if the state is whole: a damaged page that is not read today spoils tomorrow."""
        store = self.centre.store()
        if wrong := store.damage():
            said = " ".join(wrong[0].split())
            raise StateError(
                f"{store.name} is damaged: {said}; restore the folder from a backup, then start "
                "`up` again"
            )

    def _session(self) -> None:
        """Run everything until `stop` is called or the centre's own keys are new."""
        centre = self.centre
        with ExitStack() as stack:
            for name in centre.renew_due():
                log.info("%s is renewed", name)
            keys = self._keys = self._keys_before = _state_of(centre.pki)
            nginx = edge.find_nginx(centre.config.nginx)
            if nginx is None:
                log.warning("%s", edge.MISSING)
            where = Addresses.of(centre, nginx=nginx is not None)
            # Without an edge SuperLink serves plants of this machine itself, who have no such key.
            inner = None if nginx is None else Inner.of(centre.pki)
            engine = stack.enter_context(
                closing(Engine(centre, address=where.superlink, inner=inner))
            )
            supervisor = stack.enter_context(Supervisor(self._changed))
            supervisor.start(engine.program())
            if nginx is not None:
                supervisor.start(self._edge(nginx, where, inner))
            self._serve(stack, engine, where)
            if where.metrics:
                registry = metrics.registry(
                    centre.store(), home=centre.folder, processes=supervisor.states
                )
                stack.enter_context(metrics.serve(where.metrics, registry))
            watch = RunWatch(centre.registry, engine=engine, say=self._say, reason=self._last_error)
            log.info(
                "centre %s is up: plants at %s, enrolment at %s%s; logs in %s",
                *(centre.config.name, where.edge or where.superlink, where.enrolment),
                f", metrics at {where.metrics}" if where.metrics else "",
                centre.folder / "log",
            )
            while not self._stop.wait(PERIOD) and self._keys == keys:
                self._look(watch, engine, supervisor)
            log.info("stopping" if self._stop.is_set() else "the centre's keys are new: restarting")

    def _edge(self, nginx: str, where: Addresses, inner: Inner | None) -> Program:
        centre = self.centre
        settings = Edge(
            folder=centre.folder / "edge",
            listen=where.edge,
            upstream=where.superlink,
            certificate=centre.pki / SERVER,
            key=centre.pki / SERVER_KEY,
            authority=centre.authority_pem,
            inner=inner,
        )
        return Program(
            name=EDGE,
            command=edge.prepare(settings, nginx=nginx),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            log=centre.folder / "log" / "edge.log",
            delay=(0.5, 10.0),
            stop_grace=2.0,
        )

    def _serve(self, stack: ExitStack, engine: Engine, where: Addresses) -> None:
        """Start the enrolment service."""
        centre = self.centre
        service = Enrolment(
            centre.registry,
            pki=centre.pki,
            centre=centre.config,
            # Read at each joining: the operator may edit the file meanwhile.
            task=lambda: load_federation(centre.federation_toml).model_dump_json(),
            register=lambda key: engine.control.register(key, name="plant"),
        )
        server, _ = serve(service, address=where.enrolment, pki=centre.pki)
        stack.callback(lambda: server.stop(GRACE).wait(2 * GRACE))

    def _changed(self, name: str, status: Status) -> None:
        """Say what became of a program; called from the supervisor's thread."""
        if status.state is State.RUNNING:
            again = ", again" if status.restarts else ""
            log.info("%s runs%s (process %s)", name, again, status.pid)
        elif status.state is State.WAITING and status.exit is not None and name == SUPERLINK:
            self._engine_lost.set()  # that it ended, the supervisor has said

    def _look(self, watch: RunWatch, engine: Engine, supervisor: Supervisor) -> None:
        """Do what is due; trouble with the store or the engine is told once and tried again."""
        try:
            if self._engine_lost.is_set():
                self._engine_lost.clear()
                watch.engine_restarted()
            watch.step()
            self._follow(watch.current)
            if supervisor.states()[SUPERLINK].state is State.RUNNING:
                self._cut_off(engine)
                if self._is_due("seen", SEEN):
                    self._see(engine)
            if self._is_due("certificates", DAY):
                self.centre.renew_due()
            if self._is_due("keys", KEYS):
                self._look_at_keys()
            self._trouble = ""
        except TransferlineError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("%s", error)  # noqa: TRY400  one line, no traceback

    def _cut_off(self, engine: Engine) -> None:
        """Have the engine forget the nodes of plants that were revoked."""
        registry = self.centre.registry
        for node in registry.to_unregister():
            engine.control.unregister(node)
            registry.unregistered(node)
            log.info("node %d is cut off", node)

    def _see(self, engine: Engine) -> None:
        """Note who is connected; make plants known again whom the engine has forgotten."""
        registry = self.centre.registry
        nodes = {node.node_id: node for node in engine.control.nodes()}
        enrolled = [plant for plant in registry.plants() if plant.state == ENROLLED]
        for plant in enrolled:
            if plant.node_id not in nodes:
                node = engine.control.register(plant.link_key, name="plant")
                if node != plant.node_id:  # else it has joined this moment
                    registry.moved(plant.name, node_id=node)
                    log.warning("superlink.db was lost: %s is registered again", plant.name)
        here = [plant.name for plant in enrolled if _online(nodes.get(plant.node_id))]
        if here:
            registry.seen(here, at=utcnow())

    def _look_at_keys(self) -> None:
        """Take notice of new keys, once all of them are written."""
        now = _state_of(self.centre.pki)
        if now == self._keys_before:
            self._keys = now
        self._keys_before = now

    def _say(self, text: str) -> None:
        """Say what became of a run, after what its program had to say."""
        self._tell_rounds()
        log.info("%s", text)

    def _follow(self, run: str) -> None:
        """Say how each round of a run ends from now on: one line a round."""
        if self._events is not None and self._events[0] != run:
            self._tell_rounds()
            self._events[1].close()
            self._events = None
        if run and self._events is None:
            self._events = (run, EventReader(self.centre.run_folder(run), fresh=False))
            list(self._events[1].read())
        self._tell_rounds()

    def _tell_rounds(self) -> None:
        if self._events is not None:
            run, reader = self._events
            for event in reader.read():
                if (line := closed_line(event)) is not None:
                    log.info("run %s %s", run, line)

    def _is_due(self, what: str, seconds: float) -> bool:
        """Whether something that is done so often is due; then it counts as done."""
        now = time.monotonic()
        if now < self._due.setdefault(what, now + seconds if seconds >= DAY else now):
            return False
        self._due[what] = now + seconds
        return True

    def _last_error(self, run: str) -> str:
        try:
            return (self.centre.run_folder(run) / ERROR).read_text("utf-8").strip()
        except OSError:
            return ""


def _online(node: Node | None) -> bool:
    return node is not None and node.online


def _state_of(pki: Path) -> tuple[int, ...]:
    """Return when the centre's keys and certificates were written."""
    files = (SERVER_KEY, SERVER, RELEASE_KEY, RELEASE, CA)
    return tuple((pki / name).stat().st_mtime_ns for name in files if (pki / name).exists())


def check_free(address: str, *, what: str, key: str) -> None:
    """Return if nobody listens at an address of this machine.

    Raises
    ------
    ConfigError
        If the machine does not have the address, or may not use it.
    EngineError
        If another program uses it.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
    except (OSError, OverflowError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise EngineError(
                f"{what} must have {address} for itself, another program uses it; stop that one, "
                f"or change `{key}` in centre.toml"
            ) from error
        said = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{what} must be able to listen at {address}, got: {said}; change `{key}` or `bind` in "
            "centre.toml"
        ) from error
