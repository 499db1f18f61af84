"""A fleet of small numpy plants: an implementation of the seam, not a mock. Databases, keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.config import FederationConfig
from common.forms import Turn, form_of
from common.orders import Kind, Order, Outcome, Release, Reply
from common.pki import Authority, Role, Trust
from common.signing import Signer
from common.update import Schema
from server.chain import Place
from server.federation import Federation
from server.seals import Papers
from tests.server.postgres import Server, running
from tests.server.sums import MORE, Run

SCHEMA = Schema({"backbone.a": (40, 3), "backbone.norm": (7,), "backbone.b": (11,)})
TRAVELLING = frozenset({"backbone.a", "backbone.b"})


class Plants:
    """Plants whose answer is half the way to a target of their own, and a little noise.

    Attributes
    ----------
    asked : (kind, round, plant) of every answer that was worked out.
    spoil : changes a reply before it is yielded; may yield several, or none.
    """

    def __init__(self, names: tuple[str, ...] = ("ash", "elm", "oak")) -> None:
        self.names = names
        self.order_of_arrival: Callable[[list[str]], list[str]] = list
        self.spoil: Callable[[Reply], list[Reply]] = lambda reply: [reply]
        self.before: Callable[[str, Order], None] = lambda plant, order: None
        self.asked: list[tuple[Kind, int, str]] = []
        self.outbox: dict[tuple[str, str], tuple[str, Reply]] = {}

    def plants(self) -> list[str]:
        return sorted(self.names)

    def ask(
        self, order: Order, release: Release, *, beside: Mapping[str, str] | None = None
    ) -> Iterator[Reply]:
        assert beside is None, "these plants answer in the clear"
        here = [plant for plant in order.cohort if plant in self.names]
        for plant in self.order_of_arrival(here):
            self.before(plant, order)
            yield from self.spoil(self.answer(plant, order, release))

    def answer(self, plant: str, order: Order, release: Release) -> Reply:
        text, key = order.to_json(), (plant, order.key)
        if key in self.outbox:
            before, reply = self.outbox[key]
            assert before == text, "a different order for an answered round"
            return reply
        self.asked.append((order.kind, order.round, plant))
        seed = hashlib.sha256(f"{plant}/{order.key}".encode()).digest()
        draws = np.random.default_rng(list(seed))
        schema = release.schema.subset(TRAVELLING)
        values = {name: release.schema.unflatten(release.vector)[name] for name in schema.shapes}
        target = float(seed[0]) / 255
        delta = 0.5 * (target - schema.flatten(values)) + 0.01 * draws.normal(size=schema.size)
        trains = order.kind is Kind.TRAIN
        turn = Turn(run=order.run, round=order.round)
        form = form_of(order.config.update, schema=schema, turn=turn)
        reply = Reply(
            plant=plant,
            run=order.run,
            round=order.round,
            release=order.release,
            outcome=Outcome.DONE,
            payload=form.encode(delta.astype(np.float32)) if trains else None,
            schema=schema.digest if trains else "",
            weight=1 + seed[1] if trains else 0,
            scores={"incoming": {"balanced_accuracy": seed[2] / 255}},
            seconds={"evaluate": 0.5},
            notes={} if trains else {"adopted": "federated"},
        )
        self.outbox[key] = (text, reply)
        return reply


class Centre:
    """Makes federations on one folder with the same run, configuration and source."""

    def __init__(self, home: Path, database: str = "", signer: Signer | None = None) -> None:
        self.home, self.database, self.signer = home, database, signer
        self.papers: Callable[[], Papers] | None = None
        self.plants = Plants()
        self.config = FederationConfig(
            rounds=3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), round_deadline=20.0
        )
        draws = np.random.default_rng(7)
        vector = draws.normal(size=SCHEMA.size).astype(np.float32)
        self.source = Release(number=0, schema=SCHEMA, vector=vector)
        self.events: list[Any] = []

    def configure(self, **changes: Any) -> None:
        fields = self.config.model_dump() | changes
        server = self.config.server.model_dump() | changes.get("server", {})
        self.config = FederationConfig.model_validate(fields | {"server": server})

    def place(self, fence: int | None = None) -> Place:
        return Place(
            home=self.home,
            database=self.database,
            signer=self.signer,
            fence=fence,
            papers=self.papers,
        )

    def open(self, *, fence: int | None = None, **changes: Any) -> Federation:
        settings: dict[str, Any] = {
            "fleet": self.plants,
            "config": self.config,
            "source": self.source,
            "travelling": TRAVELLING,
            "run": "run",
            "events": self.events.append,
        }
        return Federation(self.place(fence), **(settings | changes))


@dataclass(frozen=True, kw_only=True)
class Keys:
    """A federation's CA, its release key, and how to make plants' keys."""

    authority: Authority
    signer: Signer
    trust: Trust


def make_keys(folder: Path) -> Keys:
    authority = Authority.create(folder, federation="acme")
    key = Ed25519PrivateKey.generate()
    pem = authority.issue(key.public_key(), name="centre", role=Role.RELEASE, days=90)
    signer = Signer(key=key, certificate=pem, name="centre")
    return Keys(authority=authority, signer=signer, trust=Trust.of(folder / "ca.pem"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest) -> str:
    """Return the URL of a database without tables, "" for SQLite."""
    if request.param == "sqlite":
        return ""
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a database with no rows, "" for SQLite."""
    if request.param == "sqlite":
        return ""
    server: Server = request.getfixturevalue("postgres")
    return server.new_store(tmp_path / "template")


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return Centre(tmp_path / "out")


@pytest.fixture(scope="session")
def make_centre() -> type[Centre]:
    return Centre


@pytest.fixture
def make_plants() -> type[Plants]:
    return Plants


@pytest.fixture
def good() -> tuple[Order, Reply, Schema, FederationConfig]:
    """An order, a reply that answers it soundly, the update's schema, and the configuration."""
    config = FederationConfig()
    source = Release(number=0, schema=SCHEMA, vector=np.zeros(SCHEMA.size, np.float32))
    order = Order(
        run="run",
        round=1,
        kind=Kind.TRAIN,
        release=source.hash,
        cohort=("ash", "elm"),
        deadline=1.0,
        config=config,
    )
    reply = replace(Plants().answer("ash", order, source))
    return order, reply, SCHEMA.subset(TRAVELLING), config


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Flower's state with a run and two nodes (`tests.server.line`); slow to import."""
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.corestate import sql_corestate
    from flwr.supercore.task_identity import TaskIdentity

    from server.engine import superlink
    from tests.server.line import Line

    monkeypatch.setattr(TaskIdentity, "_task_id", 1, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(sql_corestate, "HEARTBEAT_DEFAULT_INTERVAL", superlink.PATIENCE)
        patch.setattr(SqlLinkState, superlink.TAKE, superlink.whole(SqlLinkState.get_message_res))
        yield Line(tmp_path, lambda name, value: patch.setattr(TaskIdentity, name, value))


@pytest.fixture
def run(centre: Any, keys: Any, tmp_path: Path) -> Callable[..., Run]:
    """Return ``run(count=5, **policy)``."""

    def make(count: int = 5, **policy: Any) -> Run:
        return Run(centre, keys, tmp_path / "desks", names=MORE[:count], **policy)

    return make
