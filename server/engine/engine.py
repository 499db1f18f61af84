"""The engine of a centre: SuperLink as a program, and the little that `up` asks of it.

SuperLink listens on loopback with TLS, takes only who holds the inner key and, of SuperNodes, those
that are registered, keeps its state in a file of the centre's folder, starts each ServerApp as a
process of its own, and installs and reports nothing.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from common.errors import EngineError
from common.home import VARIABLE, python_path
from common.supervise import Program
from server.centre import SERVER, SERVER_KEY, Centre
from server.engine.control import Control
from server.engine.inner import VARIABLE as KEY
from server.engine.inner import Inner, write_programs

NAME = "superlink"
BIN = "bin"  #: folder of the centre's, for what SuperLink starts

#: What keeps Flower quiet, quick and on this machine.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "PYTHONUNBUFFERED": "1",
}


def program(
    centre: Centre, *, address: str, control: Control, inner: Inner | None = None
) -> Program:
    """Return the program that `up` keeps running.

    Parameters
    ----------
    address : host and port on loopback.
    control : a connection to it; tells when it is up.
    inner : the key that it asks for; None takes anybody.
    """
    folder, pki = centre.folder, centre.pki
    host, _, port = address.rpartition(":")
    return Program(
        name=NAME,
        command=(
            *(sys.executable, "-P", "-m", "server.engine.superlink"),
            *("--host", host, "--port", port),
            *("--ssl-certfile", str(pki / SERVER), "--ssl-keyfile", str(pki / SERVER_KEY)),
            *("--ssl-ca-certfile", str(centre.authority_pem)),
            *("--enable-supernode-auth", "--isolation", "subprocess"),
            *("--database", str(folder / "superlink.db")),
            "--disable-runtime-dependency-installation",
        ),
        env=environment(folder, inner=inner),
        log=folder / "log" / "superlink.log",
        delay=(1.0, 30.0),
        ready=control.is_up,
        folder=folder,
    )


def environment(folder: Path, *, inner: Inner | None = None) -> dict[str, str]:
    """Return the variables of SuperLink and all below it; nothing secret is among them."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLWR_", "TRANSFERLINE_"))
    }
    return {
        **inherited,
        **ENVIRONMENT,
        "FLWR_HOME": str(folder / "flwr"),
        VARIABLE: str(folder),
        # The same code there as here, installed or not.
        "PYTHONPATH": python_path(),
        **({} if inner is None else {KEY: str(inner.key)}),
        # SuperLink starts its helpers by name.
        "PATH": os.pathsep.join(
            (
                *(() if inner is None else (str(folder / BIN),)),
                str(Path(sys.executable).parent),
                os.environ.get("PATH", os.defpath),
            )
        ),
    }


class Engine:
    """A SuperLink and a connection to it (`server.engine.watch.Engine`).

    Parameters
    ----------
    address : host and port on loopback that it listens on.
    inner : the key that it asks for; None takes anybody.
    """

    def __init__(self, centre: Centre, *, address: str, inner: Inner | None = None) -> None:
        self._centre, self.address, self._inner = centre, address, inner
        self.control = Control(address, authority=centre.authority_pem, inner=inner)

    def program(self) -> Program:
        """Return the program that `up` keeps running."""
        if self._inner is not None:
            write_programs(self._centre.folder / BIN)
        return program(self._centre, address=self.address, control=self.control, inner=self._inner)

    def close(self) -> None:
        """Close the connection."""
        self.control.close()

    def is_up(self) -> bool:
        return self.control.is_up()

    def submit(self, run: str, *, fence: int) -> int:
        """Start the ServerApp of a run and return Flower's id; EngineError if that fails."""
        return self.control.start({"run": run, "fence": str(fence)})

    def has_ended(self, ident: int) -> bool:
        """Whether Flower says that a run has ended; False while it cannot be asked."""
        with suppress(EngineError):
            return self.control.status(ident).finished
        return False

    def stop(self, ident: int) -> None:
        self.control.stop(ident)


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
