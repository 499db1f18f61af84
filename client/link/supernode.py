"""How the link runs Flower's SuperNode: command, environment, and what its output means.

SuperNode starts SuperExec, which starts a ``flwr-clientapp`` for every message, all by name. The
first of these names in ``PATH`` are ours: `client.link.supernode_main`, because the stock one may
stay a message behind for good; `client.link.superexec_main`, which forks what the stock one has
import Flower anew; and `client.link.entry`, for when that cannot be.

What SuperNode's output and exit status mean (1.41): it is connected once it prints its id. A centre
that has unregistered it ends it with status 0, and refuses it from then on; but it also refuses,
for about a minute, a node whose SuperNode was killed and could not sign off. Only time tells these
apart, or the status. `client.link.signoff` spares a plant that minute.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from client.link.bridge_client import VARIABLE
from client.link.files import AUTHORITY, LOG, LinkSettings
from common.pki.keys import LINK_KEY
from common.supervise import Program

NAME = "supernode"
HERE = Path(__file__).resolve().parent.parent  #: what is to be found by ``import client``
FOLDER = "TRANSFERLINE_LINK"  #: environment: the link's folder, as in `client.app`

#: What keeps Flower quiet and quick, and its helpers from installing anything.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}

#: What the link takes over from its own environment; the rest may hold secrets.
KEPT = ("LANG", "LC_ALL", "TZ", "TMPDIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
LOCAL = "127.0.0.1,localhost"

FIRST, LONGEST = 2.0, 20.0  #: seconds before a restart
GRACE = 8.0  #: seconds for SuperNode to sign off at the centre
FORGOTTEN = 120.0  #: seconds after which a refusal is no killed SuperNode's any more

#: Commands of Flower's that ours take the place of, by their modules.
SCRIPTS = {
    "flower-supernode": "client.link.supernode_main",
    "flower-superexec": "client.link.superexec_main",
    "flwr-clientapp": "client.link.entry",
}

_CONNECTED = re.compile(r"SuperNode ID: (\d+)")
_REFUSED = re.compile(r"Failed to activate SuperNode")


class State(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REFUSED = "refused"  #: not connected, which may pass
    REVOKED = "revoked"
    STOPPED = "stopped"
    ALONE = "without daemon"  #: signed off, because the plant's daemon does not answer


class Reading:
    """Reads SuperNode's output as it grows, and says how the connection stands.

    Attributes
    ----------
    state : as far as it is known.
    node : the node's id, "" until it is known.
    heard : whether a SuperNode has said anything of it since `begin`.
    orphan : the id of a node whose SuperNode could not sign off, else "".
    """

    def __init__(self, path: Path) -> None:
        self.state = State.CONNECTING
        self.heard = False
        self.node = self.orphan = ""
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = ""
        self._refused_since: float | None = None
        self._cut_off = False

    def begin(self) -> None:
        """Take note that SuperNode is started; the state stays until it says another."""
        self.heard = False

    def ended(self, status: int) -> None:
        """Take note that SuperNode has ended."""
        if self.state is State.CONNECTED:
            self.orphan = self.node if status else ""
            self._cut_off = status == 0
            self.state = State.CONNECTING

    def look(self, now: float) -> State:
        """Read what is new; return how the connection stands."""
        for line in self._lines():
            if found := _CONNECTED.search(line):
                self.state, self.node, self.heard = State.CONNECTED, found[1], True
                self._refused_since, self._cut_off, self.orphan = None, False, ""
            elif _REFUSED.search(line):
                since = self._refused_since = self._refused_since or now
                if self._cut_off or now - since >= FORGOTTEN or self.state is State.REVOKED:
                    self.state = State.REVOKED
                else:
                    self.state = State.REFUSED
                self.heard = True
        return self.state

    def _lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:  # it was cut, see common.supervise
                    self._offset = 0
                file.seek(self._offset)
                data = file.read(2**20)
        except OSError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        self._rest = self._rest[-1000:]
        return lines


def program(
    folder: Path, settings: LinkSettings, *, orphan: Callable[[], str] = lambda: ""
) -> Program:
    """Return SuperNode as a program to keep running.

    Parameters
    ----------
    folder : the link's.
    orphan : asked before each start for the node to sign off first; "" for none.
    """
    authority, key = str(folder / AUTHORITY), str(folder / LINK_KEY)

    def command() -> list[str]:
        node = orphan()
        first = (sys.executable, "-m", "client.link.signoff", settings.fleet, authority, key, node)
        return [
            *(first if node else ()),
            "flower-supernode",
            *("--superlink", settings.fleet),
            *("--root-certificates", authority),
            *("--auth-supernode-private-key", key),
            *("--isolation", "subprocess"),
            *("--host", "127.0.0.1", "--port", str(free_port())),
        ]

    return Program(
        name=NAME,
        command=command,
        env=environment(folder, settings),
        log=folder / LOG,
        delay=(FIRST, LONGEST),
        stop_grace=GRACE,
        folder=folder,
    )


def environment(
    folder: Path, settings: LinkSettings, *, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables of SuperNode and all below it."""
    kept = {name: inherited[name] for name in KEPT if name in inherited}
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = ",".join(filter(None, (inherited.get(name), LOCAL)))
    home = folder / "flwr"
    return {
        **kept,
        **ENVIRONMENT,
        "PATH": os.pathsep.join((str(folder / "bin"), str(_scripts()), os.defpath)),
        "PYTHONPATH": str(HERE),
        "HOME": str(home),
        "FLWR_HOME": str(home),
        VARIABLE: inherited.get(VARIABLE) or settings.daemon,
        FOLDER: str(folder),
    }


def write_scripts(folder: Path) -> None:
    """Write our commands to ``bin/``, with the Python that this process runs."""
    (folder / "bin").mkdir(mode=0o700, exist_ok=True)
    for name, module in SCRIPTS.items():
        script = folder / "bin" / name
        # By way of the shell: a script's first line has room for a short path without spaces.
        python = shlex.quote(sys.executable)
        script.write_text(f'#!/bin/sh\nexec {python} -m {module} "$@"\n', encoding="utf-8")
        script.chmod(0o700)


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _scripts() -> Path:
    """Return the folder of Flower's commands."""
    return Path(sys.executable).parent
