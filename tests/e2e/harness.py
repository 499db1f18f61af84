"""A centre and plants as real processes, by the commands that people type.

Each has a folder of its own below a temporary one, listens on free ports of loopback, and is ended
with everything that it started. Between a plant and the centre's edge stands a `Proxy` of the
plant's own. What happened is read from the files that the processes write (state, events, releases,
outbox), which also works while one of them is dead, and costs no second of a processor a look; what
an operator would look at is read by ``--json``.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from server.state.tables import LATELY
from tests.e2e.processes import Started, environment, free_port, line, name, wait_for
from tests.e2e.proxy import Proxy

#: Seconds on a machine that others keep busy: for a command, for a centre to listen, for a plant to
#: be connected, for a process to be there, and for a run, faults included.
COMMAND = START = JOIN = KILL = 400.0
PATIENCE = 900.0

#: What a process of the tree has in its command line.
PATTERNS = {
    "superlink": r"-m server\.engine\.superlink",
    "serverapp": r"flwr-serverapp",
    "nginx": r"nginx: master",
    "link": r"-m client\.link\.link",
    "supernode": r"bin/flower-supernode|-m client\.link\.supernode_main",
    "superexec": r"[ /]flower-superexec |-m client\.link\.superexec_main",
    "bridge": r"-m client\.link\.(superexec_main|entry)|bin/flwr-clientapp",
    "worker": r"-m client\.desk\.worker_process",
}
CENTRE = ("daemon", "superlink", "serverapp", "nginx")
PLANT = ("daemon", "worker", "link", "supernode", "bridge")


class Side:
    """What centre and plant have in common: a folder, a command line, a tree of processes.

    Parameters
    ----------
    folder : of the centre or plant.
    module : the command line's module.

    Attributes
    ----------
    program : what runs the command line; a test may put another in its place.
    """

    def __init__(self, folder: Path, *, module: str) -> None:
        self.folder = folder
        self.program = [sys.executable, "-m", module]
        self._up: Started | None = None

    def command(self, *arguments: str, expect: int = 0, seconds: float = COMMAND) -> str:
        """Run a command and return its output; standard error goes into the message."""
        done = self.try_command(*arguments, seconds=seconds)
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == expect, f"{' '.join(arguments)}: {done.returncode}\n{said}"
        assert "Traceback" not in said, said
        return done.stdout

    def try_command(
        self, *arguments: str, seconds: float = COMMAND
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        return subprocess.run(
            [*self.program, *arguments],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=self.folder.parent,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def ask(self, verb: str, *more: str) -> Any:
        """Run a command on the folder with ``--json`` and return what it says."""
        return json.loads(self.command(verb, str(self.folder), *more, "--json"))

    def start(self) -> None:
        """Run ``up``; return at once."""
        assert not self.is_up(), f"{self.folder.name} is up already"
        log = self.folder.parent / f"{self.folder.name}.log"
        self._up = Started([*self.program, "up", str(self.folder)], log=log)

    def is_up(self) -> bool:
        return self._up is not None and self._up.running()

    def output(self) -> str:
        """Return all that ``up`` has printed, over all starts."""
        return self._up.output() if self._up else ""

    def processes(self, role: str) -> list[psutil.Process]:
        """Return the processes of a role; ``daemon`` is ``up`` itself."""
        if self._up is None:
            return []
        if role == "daemon":
            return [psutil.Process(self._up.pid)] if self._up.running() else []
        if role == "keeper":
            return self._up.find(r"common/keeper\.py", but="\0")
        if role == "nursery":
            return [
                p
                for p in self._up.find(PATTERNS["superexec"], but="keeper.py")
                if name(p) == "nursery"
            ]
        # A keeper's command line ends with that of the program that it keeps.
        found = self._up.find(PATTERNS[role], but="keeper.py")
        # SuperExec, its nursery and what this forks have one command line.
        if role == "superexec":
            return [process for process in found if name(process) not in ("nursery", "bridge")]
        if role == "bridge":
            return [p for p in found if name(p) == "bridge" or "superexec" not in line(p)]
        return found

    def kill(self, role: str, *, seconds: float = KILL) -> int:
        """Kill a process of a role (SIGKILL), wait for its end, and return its pid.

        Raises
        ------
        LateError
            If there is none in time.
        """
        found = wait_for(
            lambda: self.processes(role),
            what=f"{role} of {self.folder.name}",
            seconds=seconds,
            period=0.01,
        )
        for process in found:
            process.kill()
        psutil.wait_procs(found, timeout=10)
        if role == "daemon" and self._up is not None:
            self._up.process.wait(10)
        return int(found[0].pid)

    def kill_all(self) -> None:
        """Kill all processes at once (SIGKILL), as when the power is cut."""
        assert self._up is not None
        found = self._up.tree()
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=20)
        self._up.process.wait(20)

    def stop(self) -> int:
        """End ``up`` as systemd does and return its exit code."""
        assert self._up is not None
        return self._up.terminate(seconds=120)

    def leftovers(self, *, seconds: float = 15) -> list[str]:
        """Return what of the tree is still there after some seconds; ``up`` has ended."""
        assert self._up is not None
        end = time.monotonic() + seconds
        while (left := self._up.lines()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def end(self) -> None:
        """End everything, however it is."""
        if self._up is not None:
            self._up.end()


class Centre(Side):
    """A centre in ``ROOT/centre``.

    Parameters
    ----------
    root : folder for it.
    federation : settings, as lines of federation.toml.
    """

    def __init__(self, root: Path, *, federation: str, settings: str = "") -> None:
        super().__init__(root / "centre", module="server.cli")
        self.edge, self.enrolment, self.metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.command("init", str(self.folder), "--name", "acme", "--address", self.edge)
        (self.folder / "federation.toml").write_text(federation)
        (self.folder / "centre.toml").write_text(
            f'name = "acme"\naddress = "{self.edge}"\nenrolment = "{self.enrolment}"\n'
            f'bind = "127.0.0.1"\nmetrics = "{self.metrics}"\n{settings}'
        )

    def up(self) -> None:
        """Run ``up`` and wait until plants can join and connect."""
        self.start()
        wait_for(
            lambda: not self.is_up() or (self.answers() and listens(self.enrolment)),
            what=f"centre on {self.edge} and {self.enrolment}",
            seconds=START,
        )
        assert self.is_up(), self.output()

    def answers(self) -> bool:
        """Return whether the edge passes requests on to SuperLink.

        An empty request is none of a known node: SuperLink says so with 401 or 400, and an edge
        without SuperLink with 502.
        """
        status = post(self.edge, "/v1/fleet/pull-messages", trust=self.folder / "pki/ca.pem")
        return status in (400, 401, 403, 415, 422)

    def invite(self, plant: str, *more: str) -> str:
        """Return a token for a plant."""
        return str(self.ask("invite", plant, *more)["token"])

    def plant(self, name: str, *, data: Path, settings: str = "", proxy: bool = True) -> Plant:
        """Let a plant join, and return it; it is not up yet."""
        found = Plant(self.folder.parent / name, centre=self if proxy else None)
        found.join(self.invite(name), data=data)
        found.change(settings)
        return found

    def query(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        """Return rows of the centre's state; none where it is not there, or a case damaged it."""
        place = f"file:{self.folder / 'state.db'}?mode=ro"
        try:
            with closing(sqlite3.connect(place, uri=True)) as state:
                return state.execute(statement, values).fetchall()
        except sqlite3.DatabaseError:
            return []

    def connected(self) -> list[str]:
        """Return the names of the plants that were heard lately."""
        since = (datetime.now(UTC) - LATELY).isoformat(timespec="microseconds")
        query = "SELECT name FROM plants WHERE state = 'enrolled' AND last_seen >= ? ORDER BY name"
        return [name for (name,) in self.query(query, since)]

    def run(self, *more: str) -> str:
        """Submit a run and return its name; it goes on by itself."""
        return str(self.ask("run", "--detach", *more)["run"])

    def state(self, run: str) -> str:
        """Return what has become of a run; empty where the state cannot be read."""
        rows = self.query("SELECT state FROM runs WHERE name = ?", run)
        return str(rows[0][0]) if rows else ""

    def finish(self, run: str, *, seconds: float = PATIENCE) -> str:
        """Wait until a run has ended and return how."""
        return wait_for(
            lambda: (state := self.state(run)) in ("finished", "failed", "stopped") and state,
            what=f"end of run {run}; events: {self.events(run)[-6:]}",
            seconds=seconds,
        )  # type: ignore[return-value]

    def events(self, run: str) -> list[dict[str, Any]]:
        """Return what the round loop told so far; a line that a killed writer began is left out."""
        path = self.folder / "runs" / run / "events.jsonl"
        found = []
        for row in path.read_text().splitlines() if path.exists() else ():
            try:
                found.append(json.loads(row))
            except ValueError:
                continue
        return found

    def rounds(self, run: str) -> dict[int, dict[str, Any]]:
        """Return the rounds of a run that are over, by number, from the state itself.

        A program that is killed right after a commit has told nobody of it.
        """
        columns = ("number", "outcome", "reason", "result", "seconds")
        rows = self.query(
            f"SELECT {', '.join(columns)} FROM rounds WHERE run = ? AND outcome != 'open'", run
        )
        replies = self.query("SELECT round, plant, outcome, reason FROM replies WHERE run = ?", run)
        found = {row[0]: dict(zip(columns, row, strict=True), replies={}) for row in rows}
        for number, plant, outcome, reason in replies:
            if number in found:
                found[number]["replies"][plant] = f"{outcome} {reason}".strip()
        return found

    def told(self, run: str, event: str, number: int) -> list[dict[str, Any]]:
        """Return the events of a kind and round."""
        return [e for e in self.events(run) if (e["event"], e["round"]) == (event, number)]

    def releases(self) -> dict[int, str]:
        """Return the hashes of the releases by number, from their manifests."""
        found = {}
        for path in sorted((self.folder / "releases").glob("*/manifest.json")):
            manifest = json.loads(path.read_text())
            found[int(manifest["number"])] = str(manifest["hash"])
        return found


class Plant(Side):
    """A plant in ``ROOT/<name>``.

    Parameters
    ----------
    folder : of the plant; its name is the plant's.
    centre : whose edge the plant's proxy leads to; None for no proxy.
    """

    def __init__(self, folder: Path, *, centre: Centre | None) -> None:
        super().__init__(folder, module="client.cli")
        self.proxy = Proxy(centre.edge).__enter__() if centre else None

    def join(self, token: str, *, data: Path, more: Sequence[str] = ()) -> None:
        """Join with a token; from then on the way to the edge is by the proxy."""
        self.token = token
        self.command(
            "join", "--token", token, "--data", str(data), "--dir", str(self.folder), *more
        )
        if self.proxy:
            self.replace(r'^fleet = ".*"$', f'fleet = "{self.proxy.address}"')

    def replace(self, pattern: str, text: str) -> None:
        """Change a line of plant.toml."""
        path = self.folder / "plant.toml"
        changed, times = re.subn(pattern, text, path.read_text(), flags=re.MULTILINE)
        assert times == 1, f"{pattern} must be once in\n{path.read_text()}"
        path.write_text(changed)

    def change(self, settings: str) -> None:
        """Put lines before the first table of plant.toml."""
        path = self.folder / "plant.toml"
        path.write_text(f"{settings}\n{path.read_text()}")

    def link_log(self) -> Path:
        """Return what SuperNode and bridge say."""
        return self.folder / "link" / "supernode.log"

    def filed(self) -> set[str]:
        """Return the names of the answers in the outbox."""
        return {path.name for path in (self.folder / "outbox").glob("*.safetensors")}

    def end(self) -> None:
        super().end()
        if self.proxy:
            self.proxy.__exit__(None, None, None)
            self.proxy = None


@contextmanager
def deployment(
    root: Path,
    *,
    federation: str,
    data: Path,
    names: Sequence[str],
    settings: str = "",
    proxy: bool = True,
) -> Iterator[tuple[Centre, dict[str, Plant]]]:
    """Start a centre, let plants join and connect, yield them, end them.

    Parameters
    ----------
    root : an empty folder.
    federation : federation.toml.
    data : with ``<plant>/<class>/*`` for each name.
    settings : further lines of centre.toml.
    proxy : whether each plant reaches the edge by a proxy.
    """
    with ExitStack() as stack:
        centre = Centre(root, federation=federation, settings=settings)
        stack.callback(centre.end)
        centre.up()
        plants = {}
        for name in names:
            plants[name] = centre.plant(name, data=data / name, proxy=proxy)
            stack.callback(plants[name].end)
            plants[name].start()
        wait_connected(centre, names)
        yield centre, plants


def wait_connected(centre: Centre, names: Sequence[str], *, seconds: float = JOIN) -> None:
    """Wait until these plants and no others are connected."""
    wait_for(
        lambda: centre.connected() == sorted(names),
        what=f"plants {sorted(names)}",
        seconds=seconds,
    )


def listens(address: str) -> bool:
    """Return whether somebody accepts connections at an address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def post(address: str, path: str, *, trust: Path, body: bytes = b"") -> int | None:
    """Send a request over TLS and return the answer's status, None if there is none."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(trust))
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/x-protobuf\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as line,
            context.wrap_socket(line, server_hostname=host) as channel,
        ):
            channel.sendall(request.encode() + body)
            found = re.match(rb"HTTP/1\.[01] (\d{3})", channel.recv(4096))
            return int(found[1]) if found else None
    except OSError:
        return None
