"""Plain Flower as the reference of `benchmarks/deployment.py`: what users of it have today.

SuperLink with TLS on loopback and SuperNode authentication, nginx before it with ``/v1/fleet/``
only, SuperNodes with registered keys, an app in a bundle. The ServerApp sends the 62 arrays of a
resnet18 with a small head (11.2 M float32, 45 MB) to all nodes and waits for their replies; the
ClientApp adds a number to each and sends them back. Without that Flower would see that it has the
objects already, and upload nothing.

All else is Flower's own: ``send_and_receive``, poll intervals, entry points.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.pki import Authority
from server.engine import edge
from tests.e2e.processes import Started, environment, free_port, wait_for

#: ``flwr-clientapp`` without the command line's imports (SQLAlchemy, alembic, uvicorn).
LEAN = """\
#!{python}
import sys
from argparse import ArgumentParser

from flwr.supernode.runtime.run_clientapp import run_clientapp

parser = ArgumentParser()
parser.add_argument("--runtime-api-address")
parser.add_argument("--token")
parser.add_argument("--insecure", action="store_true")
parser.add_argument("--parent-pid", type=int)
given = parser.parse_args()
run_clientapp(
    runtime_api_address=given.runtime_api_address,
    token=given.token,
    insecure=given.insecure,
    parent_pid=given.parent_pid,
)
"""

PROJECT = """\
[project]
name = "plain"
version = "1.0.0"
description = "Sends a model to and fro"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "transferline"

[tool.flwr.app.components]
serverapp = "plain.server_app:app"
clientapp = "plain.client_app:app"

[tool.flwr.app.config]
out = ""
rounds = 1
nodes = 1
arrays = 62
"""

CLIENT_APP = """\
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    arrays = message.content["arrays"]
    changed = {name: Array(array.numpy() + 1) for name, array in arrays.items()}
    return Message(RecordDict({"arrays": ArrayRecord(changed)}), reply_to=message)
"""

SERVER_APP = '''\
import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


def shapes(arrays):
    """A resnet18 with a head of six classes, or as many values in one array."""
    found = [(64, 3, 7, 7), (64,), (64,)]
    before = 64
    for stage in (64, 128, 256, 512):
        for block in range(2):
            found += [(stage, before, 3, 3), (stage,), (stage,)]
            found += [(stage, stage, 3, 3), (stage,), (stage,)]
            if before != stage:
                found += [(stage, before, 1, 1), (stage,), (stage,)]
            before = stage
    found += [(6, 512), (6,)]
    assert len(found) == 62
    return found if arrays == 62 else [(sum(int(np.prod(shape)) for shape in found),)]


@app.main()
def main(grid, context):
    config = context.run_config
    rng = np.random.default_rng(0)
    while len(nodes := sorted(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    for number in range(config["rounds"]):
        arrays = {
            str(place): Array(rng.standard_normal(shape, dtype=np.float32))
            for place, shape in enumerate(shapes(config["arrays"]))
        }
        content = RecordDict({"arrays": ArrayRecord(arrays)})
        messages = [Message(content, node, "train", group_id=str(number)) for node in nodes]
        start = time.monotonic()
        replies = list(grid.send_and_receive(messages))
        seconds = time.monotonic() - start
        assert len(replies) == len(nodes)
        for message in replies:
            assert not message.has_error(), message.error
            back = message.content["arrays"]
            assert np.allclose(back["0"].numpy(), arrays["0"].numpy() + 1)
        with open(config["out"], "a") as file:
            file.write(json.dumps(seconds) + "\\n")
'''


@dataclass(frozen=True)
class Reference:
    """A running deployment of plain Flower."""

    home: Path
    env: dict[str, str]

    def measure(self, *, rounds: int, nodes: int, arrays: int = 62) -> list[float]:
        """Return the seconds from order to last reply of each round."""
        out = self.home / "seconds.jsonl"
        out.write_text("")
        settings = f"out='{out}' rounds={rounds} nodes={nodes} arrays={arrays}"
        flwr(self, "run", str(self.home / "app"), "here", "--run-config", settings)

        def done() -> list[float] | None:
            found = [json.loads(line) for line in out.read_text().splitlines()]
            return found if len(found) == rounds else None

        return wait_for(done, what="the rounds of plain Flower", seconds=200 * rounds + 60)


@contextmanager
def plain_flower(home: Path, *, nodes: int, lean: bool) -> Iterator[Reference]:
    """Start everything in a folder, yield it when the SuperNodes are there, end it.

    Parameters
    ----------
    home : an empty folder.
    nodes : number of SuperNodes.
    lean : whether SuperNodes find an entry point without needless imports before the stock one.
    """
    ports = {"superlink": free_port(), "edge": free_port()}
    prepare(home, ports=ports)
    env = environment(FLWR_HOME=str(home / "flwr"), TMPDIR=str(home))
    del env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]
    with ExitStack() as stack:
        start = superlink_command(home, port=ports["superlink"])
        superlink = stack.enter_context(Started(start, log=home / "superlink.log", env=env))
        stack.enter_context(Started(edge_command(home, ports), log=home / "nginx.log", env=env))
        wait_for(lambda: up(home, ports["superlink"]) or not superlink.running(),
                 what=f"SuperLink, see {superlink.log},", seconds=120)  # fmt: skip
        reference = Reference(home, env)
        for number in range(nodes):
            key = link_key(home / f"{number}.key")
            flwr(reference, "supernode", "register", str(key), "here", "--name", f"node-{number}")
        for number in range(nodes):
            node = supernode_command(home, number=number, port=ports["edge"])
            own = {**env, "FLWR_HOME": str(home / f"flwr-{number}")}
            if lean:
                own["PATH"] = f"{home / 'bin'}{os.pathsep}{own['PATH']}"
            stack.enter_context(Started(node, log=home / f"node-{number}.log", env=own))
        yield reference


def prepare(home: Path, *, ports: dict[str, int]) -> None:
    """Write certificates, configuration, app and entry point."""
    authority = Authority.create(home / "pki", federation="plain")
    key, certificate = authority.issue_tls(["localhost", "127.0.0.1"], days=2)
    files = {
        "server.key": key,
        "server.pem": certificate,
        "app/pyproject.toml": PROJECT,
        "app/plain/__init__.py": "",
        "app/plain/client_app.py": CLIENT_APP,
        "app/plain/server_app.py": SERVER_APP,
        "bin/flwr-clientapp": LEAN.format(python=sys.executable),
        "flwr/config.toml": f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = '
        f'"127.0.0.1:{ports["superlink"]}"\nroot-certificates = "{home / "pki/ca.pem"}"\n',
    }
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (home / "bin/flwr-clientapp").chmod(0o755)


def superlink_command(home: Path, *, port: int) -> list[str]:
    """Return the command of a SuperLink as a centre starts it."""
    return [
        "flower-superlink",
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-certfile", str(home / "server.pem"), "--ssl-keyfile", str(home / "server.key")),
        *("--ssl-ca-certfile", str(home / "pki/ca.pem")),
        *("--database", str(home / "superlink.db"), "--enable-supernode-auth"),
        *("--isolation", "subprocess", "--disable-runtime-dependency-installation"),
    ]


def edge_command(home: Path, ports: dict[str, int]) -> tuple[str, ...]:
    """Return the command of the TLS edge: Transferline's own."""
    nginx = edge.find_nginx("nginx")
    if nginx is None:
        raise SystemExit(edge.MISSING)
    place = edge.Edge(
        folder=home / "edge",
        listen=f"127.0.0.1:{ports['edge']}",
        upstream=f"127.0.0.1:{ports['superlink']}",
        certificate=home / "server.pem",
        key=home / "server.key",
        authority=home / "pki/ca.pem",
    )
    return edge.prepare(place, nginx=nginx)


def supernode_command(home: Path, *, number: int, port: int) -> list[str]:
    """Return the command of a SuperNode as a plant's link starts it."""
    return [
        "flower-supernode",
        *("--superlink", f"127.0.0.1:{port}", "--root-certificates", str(home / "pki/ca.pem")),
        *("--auth-supernode-private-key", str(home / f"{number}.key")),
        *("--port", str(free_port()), "--isolation", "subprocess"),
    ]


def up(home: Path, port: int) -> bool:
    """Return whether SuperLink answers."""
    try:
        context = ssl.create_default_context(cafile=str(home / "pki/ca.pem"))
        return httpx.get(f"https://127.0.0.1:{port}/health", verify=context, timeout=2).is_success
    except httpx.HTTPError:
        return False


def link_key(path: Path) -> Path:
    """Make a SuperNode's key pair and return the public file."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    path.write_bytes(private)
    path.chmod(0o600)
    public = path.with_suffix(".pub")
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
    return public


def flwr(reference: Reference, *arguments: str) -> Any:
    """Run Flower's command line and return its output."""
    done = subprocess.run(
        ["flwr", *arguments], env=reference.env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"flwr {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout
