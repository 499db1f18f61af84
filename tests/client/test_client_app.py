"""The bridge: what it imports, who it says it is, how it hands on orders and errors."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.server.utils.validator import validate_message

from client import app as bridge
from common.config import FederationConfig
from common.errors import StateError
from common.orders import Kind, Order, Outcome, Release, Reply
from common.update import Schema
from common.wire.messages import pack_order, unpack_hello, unpack_reply
from common.wire.parts import Parts
from common.wire.plant_pb2 import Piece
from common.wire.plant_pb2_grpc import PlantServicer, add_PlantServicer_to_server

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Schema({"a": (5,)})
RELEASE = Release(number=0, schema=SCHEMA, vector=np.arange(5, dtype=np.float32))


class Echo:
    """Answers with the release's own values, at the end of the `open_plant` seam."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name

    def answer(self, order: Order, release: Release) -> Reply:
        return Reply(
            plant=self.name,
            run=order.run,
            round=order.round,
            release=order.release,
            outcome=Outcome.DONE,
            payload=release.vector.tobytes(),
            schema=release.schema.digest,
            weight=7,
        )


def locked(folder: Path) -> Echo:
    raise StateError(f"{folder} is locked")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with two plants and the seam where a plant is opened."""
    for name in ("steel", "wood"):
        (tmp_path / "plants" / name).mkdir(parents=True)
    monkeypatch.setenv("TRANSFERLINE_HOME", str(tmp_path))
    use(Echo, monkeypatch)
    return tmp_path


def use(opener: object, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("stand_in")
    module.open_plant = opener  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in", module)
    monkeypatch.setattr(bridge, "OPEN_PLANT", "stand_in:open_plant")


def context(**node: int) -> Context:
    config = {name.replace("_", "-"): value for name, value in node.items()}
    return Context(run_id=5, node_id=9, node_config=config, state=RecordDict(), run_config={})


def message(content: RecordDict, kind: str) -> Message:
    metadata = Metadata(
        run_id=5,
        message_id="m",
        src_node_id=1,
        dst_node_id=9,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1e12,
        message_type=kind,
    )
    return Message(content, metadata=metadata)  # type: ignore[call-overload]


def order_record() -> RecordDict:
    order = Order(
        run="r",
        round=1,
        kind=Kind.TRAIN,
        release=RELEASE.hash,
        cohort=("steel", "wood"),
        deadline=5.0,
        config=FederationConfig(),
    )
    return bridge.to_record(pack_order(order, RELEASE))


def test_a_node_says_the_name_of_its_folder(home: Path) -> None:
    reply = bridge.app(message(RecordDict(), "query.hello"), context(partition_id=1))
    assert unpack_hello(bridge.from_record(reply.content)) == "wood"


def test_an_order_reaches_the_plant_and_its_reply_comes_back(home: Path) -> None:
    got = bridge.app(message(order_record(), "train"), context(partition_id=0))
    reply = unpack_reply(bridge.from_record(got.content))
    assert (reply.plant, reply.run, reply.round, reply.weight) == ("steel", "r", 1, 7)
    assert reply.payload == RELEASE.vector.tobytes()
    assert got.metadata.reply_to_message_id == "m"


@pytest.mark.parametrize("ahead", [-600.0, 0.0, 340.0, 900.0])
def test_a_reply_counts_whatever_the_plants_clock_says(home: Path, ahead: float) -> None:
    """The plant's clock is ahead of, or behind, that of the centre, which made the order now."""
    asked = message(order_record(), "train")
    now = time.time()
    asked.metadata.created_at, asked.metadata.ttl = now - ahead, 330.0
    got = bridge.app(asked, context(partition_id=0))
    with pytest.MonkeyPatch.context() as patch:  # what SuperLink checks, by its own clock
        centre = datetime.fromtimestamp(now - ahead, tz=UTC)
        patch.setattr("flwr.server.utils.validator.now", lambda: centre)
        got.metadata.__dict__["_message_id"] = "m2"
        assert validate_message(got, is_reply_message=True) == []
    assert got.metadata.created_at + got.metadata.ttl == pytest.approx(now - ahead + 330.0)


def test_a_real_node_without_a_plant_says_so_in_one_line(home: Path) -> None:
    for kind, content in (("query.hello", RecordDict()), ("train", order_record())):
        reply = bridge.app(message(content, kind), context())
        assert reply.has_error()
        assert reply.error.reason == "this node has no plant: start transferline-plant beside it"


def test_more_nodes_than_plants_is_an_error(home: Path) -> None:
    reply = bridge.app(message(RecordDict(), "query.hello"), context(partition_id=2))
    assert "got node 2 for 2" in (reply.error.reason or "")


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"head": ConfigRecord({"json": 1})}),
        RecordDict({"head": ConfigRecord({"json": "{}"})}),
    ],
)
def test_a_damaged_order_is_refused(home: Path, content: RecordDict) -> None:
    reply = bridge.app(message(content, "train"), context(partition_id=0))
    assert reply.has_error()
    assert "\n" not in (reply.error.reason or "\n")


def test_a_plant_that_does_not_open_is_an_error_reply(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(locked, monkeypatch)
    reply = bridge.app(message(order_record(), "train"), context(partition_id=0))
    assert (reply.error.code, reply.error.reason) == (100, f"{home / 'plants' / 'steel'} is locked")


def test_run_config_names_the_run_folder_where_the_operator_did_not(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRANSFERLINE_HOME")
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    node = context(partition_id=0)
    node.run_config = {"home": str(home)}
    assert bridge.plant_folder(node) == home / "plants" / "steel"
    (tmp_path / "flower" / "transferline" / "5" / "plants" / "made_up").mkdir(parents=True)
    assert bridge.plant_folder(context(partition_id=0)).name == "made_up"


class Daemon(PlantServicer):
    """A daemon's service that answers with what it got, and remembers it."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.seconds = 0.0

    def Answer(self, request_iterator: Iterator[Piece], context: Any) -> Iterator[Piece]:  # noqa: N802
        self.seconds = context.time_remaining()
        self.pieces = list(request_iterator)
        yield from self.pieces


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon on a socket with a short path, and a bridge that knows it."""
    with tempfile.TemporaryDirectory(prefix="tl-") as folder:
        address = f"unix:{folder}/plant.sock"
        monkeypatch.setenv("TRANSFERLINE_PLANT", address)
        service = Daemon()
        server = grpc.server(ThreadPoolExecutor(2))
        add_PlantServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(address)
        server.start()
        yield service
        server.stop(0).wait()


def sealed(size: int) -> RecordDict:
    vector = np.random.default_rng(0).random(size, dtype=np.float32).tobytes()
    return bridge.to_record(Parts(head='{"any": "json"}', seal='{"kind": "order"}', vector=vector))


def test_at_a_plant_parts_pass_through_untouched(daemon: Daemon) -> None:
    content = sealed(700_000)
    got = bridge.app(message(content, "train"), context(partition_id=0))
    assert bridge.from_record(got.content) == bridge.from_record(content)
    assert [len(piece.data) for piece in daemon.pieces] == [0, 2**20, 2**20, 2_800_000 - 2**21]
    assert got.metadata.reply_to_message_id == "m"


def test_an_order_without_a_vector_and_the_deadline_pass_too(daemon: Daemon) -> None:
    order = message(bridge.to_record(Parts(head="{}", seal="s")), "train")
    order.metadata.ttl = 77.0
    got = bridge.app(order, context())
    assert bridge.from_record(got.content) == Parts(head="{}", seal="s")
    assert 60 < daemon.seconds < 78  # the two ends' clocks differ by a little


def test_at_a_plant_nobody_says_hello(daemon: Daemon) -> None:
    reply = bridge.app(message(RecordDict(), "query.hello"), context(partition_id=0))
    assert reply.has_error()


def test_a_daemon_that_is_not_there_is_one_line_here_and_a_code_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRANSFERLINE_PLANT", f"unix:{tmp_path}/none.sock")
    monkeypatch.setattr(bridge, "PATIENCE", 0.5)
    reply = bridge.app(message(sealed(5), "train"), context())
    assert reply.error.code == 100
    assert reply.error.reason == "engine: the plant gave no answer; the log of its link says why"
    (line,) = caplog.messages
    assert line.startswith(f"no answer: daemon at unix:{tmp_path}/none.sock must be running")
    assert "transferline-plant up" in line


def test_a_damaged_message_does_not_reach_the_daemon(daemon: Daemon) -> None:
    reply = bridge.app(message(RecordDict(), "train"), context())
    assert (reply.error.reason or "").startswith("update: ")
    assert daemon.pieces == []


def test_the_bridge_imports_next_to_nothing() -> None:
    """Beside what flwr brings: our few light files, and no package at all."""
    code = """
import sys, time
import flwr.app, flwr.clientapp
before, start = set(sys.modules), time.process_time()
import client.app
seconds, new = time.process_time() - start, set(sys.modules) - before
ours = {name for name in new if name.split(".")[0] in ("client", "common")}
assert ours <= {
    "client", "client.app", "client.link", "client.link.bridge_client", "common", "common.closing",
    "common.errors", "common.home",
    "common.wire", "common.wire.parts", "common.wire.pieces", "common.wire.plant_pb2",
    "common.wire.plant_pb2_grpc",
}, ours
others = {name.split(".")[0] for name in new} - {"client", "common"}
assert others <= {"grpc"} | set(sys.stdlib_module_names), others
print(seconds)
"""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert output.returncode == 0, output.stderr
    assert float(output.stdout) < 0.2  # measured at 0.006 s
