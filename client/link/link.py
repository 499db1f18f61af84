"""The link: the only part of a plant that talks to the centre, in a process of its own.

It keeps Flower's SuperNode running, says how the connection stands, and carries certificate
requests between the daemon and the centre. `up` starts it, as the user of ``[link].user`` where it
can; in another zone it is started with the folder ``link/`` alone::

    python -m client.link.link FOLDER

Covered: code that a server ships runs as the link's user, who has this folder and the daemon's
socket, no other right, no further group, no way to gain one, and nothing of the environment of
`up`. A SuperNode that ends, hangs on its way out or is killed is started again; one that the centre
has cut off is left until ``link.key`` is another, and tried now and then; one whose daemon is gone
signs off until it is back (`client.link.presence`).

Not covered: what that user may read elsewhere on the machine, and its network. A unit or a
container closes both (``deploy/``). With one user for link and daemon nothing is covered: for
trials.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from client.console.logs import log_to_stderr
from client.joining import enrolment
from client.link import supernode
from client.link.bridge_client import VARIABLE, PlantClient
from client.link.files import (
    AUTHORITY,
    LINK,
    LOG,
    SETTINGS,
    LinkStatus,
    hand_settings,
    own_status,
    read_settings,
    write_status,
)
from client.link.presence import Presence
from client.link.supernode import State
from common.errors import ConfigError, EngineError, IdentityError, TransferlineError
from common.files import write_atomic
from common.pki.keys import LINK_KEY
from common.supervise import Program, Status, Supervisor
from common.supervise import State as Running

if TYPE_CHECKING:  # the link does without pydantic
    from client.layout import Account
    from common.config import PlantConfig

LOOK = 0.5  #: seconds between two looks
RENEWAL = 300.0  #: seconds between two questions whether a certificate is due
AGAIN = 600.0  #: seconds after which a link that was cut off is tried once more
GRACE = 20.0  #: seconds for the link to end, more than its SuperNode has

SHARED = (
    "data and link share a user: code that a server ships could read the data. For trials only; "
    "set link.user in plant.toml and start as root"
)

log = logging.getLogger("client.link.link")


def link_program(folder: Path, plant: PlantConfig, *, link: Account | None) -> Program:
    """Return the link as a program that `up` keeps running; writes its settings.

    Parameters
    ----------
    folder : the plant's.
    link : the user to run it as, which needs root; None for that of this process, and a warning.

    Raises
    ------
    ConfigError, StateError
        If the plant has not joined, or ``link/`` cannot be written.
    EngineError
        If this process is not root, or that user cannot run this installation.
    """
    folder = folder.absolute()
    if link is None:
        log.warning(SHARED)
    kept = (*supernode.KEPT, VARIABLE)
    env = {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PATH": os.defpath,
        "PYTHONPATH": str(supernode.HERE),
    }
    if link is not None:
        _check_python(link, env=env)
    hand_settings(folder, plant, link=link)
    return Program(
        name="link",
        command=[sys.executable, "-m", "client.link.link", str(folder / LINK)],
        env=env,
        user=None if link is None else link.uid,
        group=None if link is None else link.gid,
        delay=(1.0, 30.0),
        stop_grace=GRACE,
    )


def _check_python(link: Account, *, env: Mapping[str, str]) -> None:
    """Try whether the link's user can run what is installed here: it may be in a closed folder."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import client.link.files, flwr.app"],
            user=link.uid,
            group=link.gid,
            extra_groups=[],
            env=dict(env),
            cwd="/",
            capture_output=True,
            check=False,
        )
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it failed"]
        if done.returncode == 0:
            return
    except OSError as error:
        why = [str(error)]
    raise EngineError(
        f"link.user must be able to run {sys.executable}, user {link.uid} cannot ({why[0]}); start "
        "as root, with Transferline in a folder that others may read, such as /opt"
    )


class Link:
    """Runs a link until it is stopped.

    Parameters
    ----------
    folder : the link's.

    Raises
    ------
    StateError
        If ``link.json`` is missing or damaged, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._settings = read_settings(self._folder)
        self._stop = threading.Event()
        self._reading = supernode.Reading(self._folder / LOG)
        before = own_status(self._folder)
        if before is not None and before.state == State.CONNECTED and before.node.isdecimal():
            self._reading.orphan = before.node  # this link was killed, or the power was cut
        self._status = LinkStatus(state="", since="")
        self._marks: tuple[bytes, ...] = ()
        self._tried = 0.0
        self._alone = False
        address = os.environ.get(VARIABLE) or self._settings.daemon
        self._presence = Presence(address, folder=self._folder)

    def stop(self, *_: object) -> None:
        """Make `run` return; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Keep the link going until `stop`."""
        for name in ("bin", "flwr"):
            (self._folder / name).mkdir(mode=0o700, exist_ok=True)
        supernode.write_scripts(self._folder)
        carrier = threading.Thread(target=self._renewals, name="renewals", daemon=True)
        carrier.start()
        self._presence.start()
        with Supervisor(self._changed) as supervisor:
            self._start(supervisor)
            while not self._stop.wait(LOOK):
                self._look(supervisor, now=time.monotonic())
        self._presence.stop()
        self._say(State.STOPPED, restarts=self._status.restarts)

    def _start(self, supervisor: Supervisor) -> None:
        self._marks = self._identity()
        self._tried = time.monotonic()
        self._reading.begin()
        supervisor.start(
            supernode.program(self._folder, self._settings, orphan=lambda: self._reading.orphan)
        )

    def _look(self, supervisor: Supervisor, *, now: float) -> None:
        """Say what has changed, and do what follows from it."""
        if self._alone != self._presence.gone:
            self._change(supervisor)
        if self._alone:
            return
        state = self._reading.look(now)
        running = supervisor.states().get(supernode.NAME)
        self._say(state, restarts=running.restarts if running else self._status.restarts)
        if self._identity() != self._marks:
            supervisor.stop(supernode.NAME)
            self._reading = supernode.Reading(self._folder / LOG)
            self._start(supervisor)
        elif running is None and now - self._tried >= AGAIN:
            self._start(supervisor)
        elif running is not None and state is State.REVOKED and self._reading.heard:
            supervisor.stop(supernode.NAME)

    def _change(self, supervisor: Supervisor) -> None:
        """Sign off because the daemon is gone, or begin again because it is back."""
        self._alone = not self._alone
        if self._alone:
            supervisor.stop(supernode.NAME)
            self._reading = supernode.Reading(self._folder / LOG)
            self._say(State.ALONE, restarts=self._status.restarts)
        else:
            self._start(supervisor)

    def _identity(self) -> tuple[bytes, ...]:
        """Return what SuperNode reads when it starts: with another key or CA it starts anew."""
        found = []
        for name in (LINK_KEY, AUTHORITY):
            with contextlib.suppress(OSError):
                found.append((self._folder / name).read_bytes())
        return tuple(found)

    def _changed(self, name: str, status: Status) -> None:
        if status.state in (Running.WAITING, Running.ENDED) and status.exit is not None:
            self._reading.ended(status.exit)

    def _say(self, state: State, *, restarts: int) -> None:
        before = self._status
        fresh = replace(before, state=str(state), node=self._reading.node, restarts=restarts)
        if fresh == before:
            return
        if fresh.state != before.state:
            fresh = replace(fresh, since=datetime.now(UTC).isoformat(timespec="seconds"))
            log.info("%s: %s", self._settings.plant, SAID[state].format(self._settings.fleet))
        self._status = fresh
        try:
            write_status(self._folder, fresh)
        except TransferlineError as error:
            log.warning("%s", error)

    def _renewals(self) -> None:
        address = os.environ.get(VARIABLE) or self._settings.daemon
        while True:
            try:
                renew(self._folder, address=address, enrolment_address=self._settings.enrolment)
            except IdentityError as error:
                log.error("certificate not renewed: %s", error)  # noqa: TRY400  # one line
            except TransferlineError as error:
                log.info("certificate not renewed now: %s", error)
            if self._stop.wait(RENEWAL):
                return


SAID = {
    State.STOPPED: "link to {} stopped",
    State.CONNECTING: "connecting to {}",
    State.CONNECTED: "connected to {}",
    State.REFUSED: "refused by {}; normal for a minute after a crash, trying on",
    State.ALONE: "signed off from {}: the plant's daemon does not answer; see its log, or start it",
    State.REVOKED: "cut off by {}: this plant is revoked; ask the operator to readmit it, then "
    "join again with the new token",
}


def renew(folder: Path, *, address: str, enrolment_address: str) -> bool:
    """Carry a certificate request to the centre and the certificate back, if one is due.

    Parameters
    ----------
    folder : the link's.
    address : the daemon's.

    Returns
    -------
    Whether the centre was asked.

    Raises
    ------
    IdentityError
        If the centre or the daemon refuses.
    EngineError
        If one of them does not answer.
    StateError
        If ``ca.pem`` cannot be written.
    """
    path = folder / AUTHORITY
    with PlantClient(address, folder=folder) as daemon:
        request = daemon.renewal()
        if not request:
            return False
        authority = path.read_text(encoding="ascii")
        fresh = enrolment.renew(request, address=enrolment_address, authority=authority)
        daemon.install(fresh.certificate, authority=fresh.authority)
    if fresh.roots != authority:
        write_atomic(path, fresh.roots.encode(), mode=0o600)
    return True


def link_folder(path: Path) -> Path:
    """Return the link's folder, given it or the plant's.

    Raises
    ------
    ConfigError
        If neither is one.
    """
    for folder in (path, path / LINK):
        if (folder / SETTINGS).exists():
            return folder
    raise ConfigError(
        f"{path} must be a plant's folder or its link/, got one without {SETTINGS}; start "
        "`transferline-plant up` there first"
    )


def main(arguments: list[str], *, run: Callable[[Link], None] = Link.run) -> int:
    """Run the link of a folder until SIGTERM or Ctrl-C; return the exit status."""
    log_to_stderr()
    try:
        link = Link(link_folder(Path(arguments[0])))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, link.stop)
        run(link)
    except TransferlineError as error:
        log.error("%s", error)  # noqa: TRY400  # one line, no traceback
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
