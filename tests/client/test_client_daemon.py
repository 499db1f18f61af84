"""The daemon as a real process, and its service as the link finds it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.desk.ledger import Ledger
from client.desk.outbox import Outbox
from client.link.bridge_client import PlantClient, answer
from client.plant import Plant
from client.service import NAME
from common.config import FederationConfig, LinkSection, PolicySection
from common.errors import ConfigError, EngineError, IdentityError, UpdateError
from common.orders import Order, Outcome, Release, Reply
from common.pki import Role
from common.signing import open_seal
from common.update import Schema
from common.wire.messages import unpack_reply
from common.wire.parts import Parts
from common.wire.pieces import PIECE, cut
from common.wire.plant_pb2 import Head, Piece
from common.wire.plant_pb2_grpc import PlantStub

ROOT = Path(__file__).resolve().parents[2]
LARGE = Release(number=3, schema=Schema({"w": (1_400_000,)}), vector=np.ones(1_400_000, np.float32))
CLOSED = PolicySection(minimum_cohort=9, disk_free=0.0)
START = "import sys; from pathlib import Path; from client.daemon import Daemon;"
START += "from client.console.logs import log_to_stderr; log_to_stderr();"
START += "Daemon(Path(sys.argv[1])).run()"


class Running:
    """A daemon process of a plant."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.log = plant.folder.parent / f"{plant.name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(plant.folder)], stderr=log, cwd=ROOT
            )
        self.facts: dict[str, Any] = {}

    def until_up(self) -> Running:
        end = time.monotonic() + 60
        ledger = Ledger(self.plant.folder)
        while (ledger.facts().get("daemon") or {}).get("pid") != self.process.pid:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        self.facts = ledger.facts()["daemon"]
        return self

    @property
    def address(self) -> str:
        return str(self.facts["address"])

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def launch() -> Iterator[Callable[[Plant], Running]]:
    """Return ``launch(plant)``, which starts a daemon; whatever still runs is ended."""
    running: list[Running] = []

    def start(plant: Plant) -> Running:
        running.append(Running(plant))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def daemon(
    enrolled: Callable[..., Plant], launch: Callable[[Plant], Running]
) -> Callable[..., Running]:
    """Return ``daemon(plant=None, **settings)``, which starts one and waits until it answers."""

    def start(plant: Plant | None = None, **settings: Any) -> Running:
        return launch(plant or enrolled(**({"policy": CLOSED} | settings))).until_up()

    return start


@pytest.fixture
def order(small_config: FederationConfig, order_for: Callable[..., Order]) -> Order:
    return order_for(small_config, LARGE)


@pytest.fixture
def parts(centre: Any, order: Order) -> Parts:
    sealed: Parts = centre.seal(order, LARGE)
    return sealed


def test_a_life_on_a_socket(
    daemon: Callable[..., Running],
    launch: Callable[[Plant], Running],
    centre: Any,
    order: Order,
    parts: Parts,
) -> None:
    at = daemon()
    path = Path(at.address.removeprefix("unix:"))
    mode = path.stat()
    assert stat.S_ISSOCK(mode.st_mode)
    assert stat.S_IMODE(mode.st_mode) == 0o660
    with PlantClient(at.address) as client:
        said = client.describe()
        assert (said.plant, said.protocol) == ("ash", 1)
        assert len(said.fingerprint) == 64
        got = client.answer(parts, seconds=30)
        assert unpack_reply(got).outcome is Outcome.DECLINED
        nonce = open_seal(
            parts.seal, kind="order", trust=centre.trust, role=Role.RELEASE, at=datetime.now(UTC)
        ).nonce
        assert f'"nonce": "{nonce}"' in got.seal
    with grpc.insecure_channel(at.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest(service=NAME)).status
        assert status == health_pb2.HealthCheckResponse.SERVING

    # What is not signed or not whole is refused with a code, before its vector is taken.
    def sent(stream: list[Piece]) -> str:
        with grpc.insecure_channel(at.address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                list(PlantStub(channel).Answer(iter(stream), timeout=20))
            return f"{caught.value.code().name} {caught.value.details()}"  # type: ignore[attr-defined]

    pieces = list(cut(parts))
    head = pieces[0].head
    unsigned = Piece(head=Head(protocol=1, head=head.head, size=head.size))
    larger = Piece(head=Head(protocol=1, head=head.head, seal=head.seal, size=head.size + 4))
    assert sent([unsigned]) == "UNAUTHENTICATED identity"
    assert sent([larger]) == "INVALID_ARGUMENT update"
    assert sent(pieces[:-1]) == "INVALID_ARGUMENT update"
    assert sent([pieces[0], Piece(data=bytes(PIECE + 1))]) == "INVALID_ARGUMENT update"
    altered = replace(parts, vector=bytes(len(parts.vector or b"")))
    with pytest.raises(UpdateError, match="its log says why"):
        answer(at.address, altered, seconds=20)
    with pytest.raises(IdentityError, match="its log says why"):
        answer(at.address, replace(parts, seal=""), seconds=20)

    # A second daemon says so; a killed one is replaced at once, and the link's order goes on.
    second = launch(at.plant)
    assert second.process.wait(30) != 0
    assert f"must have one daemon, process {at.process.pid} is another" in second.log.read_text()
    at.process.kill()
    at.process.wait()
    waiting: list[Parts] = []
    thread = threading.Thread(
        target=lambda: waiting.append(answer(at.address, parts, seconds=30, patience=30))
    )
    thread.start()
    third = daemon(at.plant)
    thread.join()
    assert unpack_reply(waiting[0]).outcome is Outcome.DECLINED

    assert third.end() == 0
    assert not path.exists()
    assert Ledger(at.plant.folder).facts()["daemon"] is None
    assert "Traceback" not in at.log.read_text().replace(second_traceback(at.log), "")
    with pytest.raises(EngineError, match="start it with transferline-plant up"):
        answer(at.address, parts, seconds=5, patience=0)


def second_traceback(log: Path) -> str:
    """Return what the second daemon wrote: started by hand, nobody turned its error into a line."""
    text = log.read_text()
    start = text.find("Traceback")
    end = text.find("stop that one first")
    return text[start:end] if start >= 0 else ""


def test_memory_stays_flat_and_torch_outside(
    daemon: Callable[..., Running], centre: Any, order: Order
) -> None:
    """Thirty orders of 5.6 MB that are declined, and thirty answers of it from the outbox."""
    at = daemon()
    kept = replace(order, round=1)
    Outbox(at.plant.folder / "outbox").put(
        kept,
        Reply(
            plant="ash",
            run=kept.run,
            round=1,
            release=kept.release,
            outcome=Outcome.DONE,
            payload=LARGE.vector.tobytes(),
        ),
    )
    process = psutil.Process(at.process.pid)
    worker = Ledger(at.plant.folder).facts().get("worker") or {}

    def hold(client: PlantClient, rounds: range) -> int:
        for number in rounds:
            declined = centre.seal(replace(order, round=number), LARGE)
            assert unpack_reply(client.answer(declined, seconds=30)).outcome == "declined"
            done = unpack_reply(client.answer(centre.seal(kept, LARGE), seconds=30))
            assert done.payload is not None
        return int(process.memory_info().rss)

    with PlantClient(at.address) as client:
        before = hold(client, range(10, 15))
        after = hold(client, range(15, 45))
    assert after - before < LARGE.vector.nbytes
    assert after < 250_000_000
    if sys.platform == "linux":
        assert "libtorch" not in Path(f"/proc/{at.process.pid}/maps").read_text()
    assert worker.get("killed", 0) == 0


def test_tcp_takes_only_the_pinned_link(
    daemon: Callable[..., Running],
    launch: Callable[[Plant], Running],
    enrolled: Callable[..., Plant],
    parts: Parts,
    tmp_path: Path,
) -> None:
    at = daemon(link=LinkSection(listen="127.0.0.1:0"))
    link = at.plant.folder / "link"
    assert stat.S_IMODE((link / "tls.key").stat().st_mode) == 0o600
    with PlantClient(at.address, folder=link) as client:
        assert client.describe().plant == "ash"
        assert unpack_reply(client.answer(parts, seconds=30)).outcome is Outcome.DECLINED
    with pytest.raises(ConfigError, match="with the link's keys"):
        PlantClient(at.address)

    # A link of another plant, and one without keys.
    other = daemon(enrolled("elm", policy=CLOSED, link=LinkSection(listen="127.0.0.1:0")))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("tls.key", "tls.pem"):
        (theirs / name).write_bytes((other.plant.folder / "link" / name).read_bytes())
    (theirs / "daemon.pem").write_bytes((link / "daemon.pem").read_bytes())
    for folder in (theirs, other.plant.folder / "link"):
        with (
            PlantClient(at.address, folder=folder) as client,
            pytest.raises(EngineError, match="must be running"),
        ):
            client.describe()
    with (
        grpc.insecure_channel(at.address) as channel,
        pytest.raises(grpc.RpcError),
    ):
        PlantStub(channel).Describe(Head(), timeout=5)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = launch(enrolled("oak", policy=CLOSED, link=LinkSection(listen=f"127.0.0.1:{port}")))
        assert busy.process.wait(30) != 0
        assert f"cannot listen on 127.0.0.1:{port}: it is in use" in busy.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a socket to another group: needs root")
def test_the_socket_belongs_to_the_links_group(daemon: Callable[..., Running]) -> None:
    at = daemon(link=LinkSection(user="54321"))
    path = Path(at.address.removeprefix("unix:"))
    assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (54321, 0o660)


def test_a_certificate_is_renewed_over_the_link(
    daemon: Callable[..., Running], enrolled: Callable[..., Plant], centre: Any
) -> None:
    plant = enrolled(policy=CLOSED)
    fresh = daemon(plant)
    with PlantClient(fresh.address) as client:
        assert client.renewal() == ""
    fresh.end()
    centre.enrol(plant.folder, name="ash", days=30, at=datetime.now(UTC) - timedelta(days=20))
    at = daemon(plant)
    with PlantClient(at.address) as client:
        asked = open_seal(
            client.renewal(), kind="renewal", trust=centre.trust, role=Role.PLANT,
            at=datetime.now(UTC),
        )  # fmt: skip
        assert asked.fields["serial"] == asked.signer.serial
        pem = centre.authority.sign_request(asked.fields["request"], name="ash", days=30)
        until = client.install(pem, authority=centre.authority.pem)
        assert datetime.fromisoformat(until) > datetime.now(UTC) + timedelta(days=29)
        assert client.renewal() == ""
        with pytest.raises(IdentityError):
            client.install("not a certificate")
    assert (plant.folder / "identity" / "identity.pem").read_text() == pem
