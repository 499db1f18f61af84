"""Secure sums in real rounds: over worker processes, with the trained updates of small plants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.config import FederationConfig
from common.orders import Order, Release, Reply
from common.secagg.messages import Call, Said
from server.chain import Place
from server.federation import Federation
from server.releases import Releases
from server.seals import papers_of
from server.state.store import history
from simulation.desks import PKI
from simulation.local import LocalFleet
from simulation.prepare import Prepared, prepare
from simulation.unmasked import unmasked
from simulation.workers import Workers


class Faults:
    """A fleet in between: withholds what a plant says at a stage, counts exchanges.

    Attributes
    ----------
    silent : called with (round, stage, plant); True withholds the answer. A plant that is killed is
        `forgets`: its sessions are gone too.
    """

    def __init__(self, fleet: LocalFleet) -> None:
        self.fleet = fleet
        self.silent: Callable[[int, str, str], bool] = lambda number, stage, plant: False
        self.forgets = False
        self.exchanges: list[str] = []
        self.round = 0

    def plants(self) -> list[str]:
        return self.fleet.plants()

    def ask(
        self, order: Order, release: Release, *, beside: Mapping[str, str] | None = None
    ) -> Iterator[Reply]:
        self.round = order.round
        if beside is not None:
            self.exchanges.append("order")
        for reply in self.fleet.ask(order, release, beside=beside):
            if beside is not None and self._lost("order", reply.plant):
                continue
            yield reply

    def exchange(
        self, calls: Mapping[str, Call], *, run: str, seconds: float
    ) -> Iterator[tuple[str, Said]]:
        stages = [name for call in calls.values() for name in Call.model_fields if name != "life"
                  and getattr(call, name)]  # fmt: skip
        stage = next(s for s in ("unmask", "confirm", "setup", "hello") if s in stages)
        self.exchanges.append(stage)
        for plant, said in self.fleet.exchange(calls, run=run, seconds=seconds):
            if not self._lost(stage, plant):
                yield plant, said

    def _lost(self, stage: str, plant: str) -> bool:
        lost = self.silent(self.round, stage, plant)
        if lost and self.forgets:
            self.fleet.desks.sums[plant].close()
        return lost


class Trial:
    """A prepared run of small plants, to be held over a faulty fleet."""

    def __init__(
        self, home: Path, data: Path, config: FederationConfig, *, plants: int, workers: Workers
    ) -> None:
        found = sorted(folder for folder in data.iterdir() if folder.is_dir())
        # More plants than there are folders: the same images under another name.
        folders = {
            f"{found[i % len(found)].name}-{i}": found[i % len(found)] for i in range(plants)
        }
        self.prepared: Prepared = prepare(
            home, config=config, base=home, data=folders, workers=workers
        )
        self.home, self.job = home, self.prepared.job
        self.names = sorted(folders)
        self.workers = workers
        self.fleet = Faults(LocalFleet(home, plants=self.names, workers=workers))

    def open(self, fleet: Any = None) -> Federation:
        return Federation(
            Place(home=self.home, papers=lambda: papers_of(self.home / PKI)),
            fleet=fleet or self.fleet,
            config=self.job.config,
            source=self.job.source,
            travelling=self.job.travelling,
            run=self.job.run,
        )

    def hashes(self) -> list[str]:
        releases = Releases(self.home)
        return [releases.manifest(number).hash for number in releases.numbers()]


@pytest.fixture
def secure(small_config: FederationConfig) -> FederationConfig:
    fields = small_config.model_dump() | {
        "min_plants": 3,
        "round_deadline": 60.0,
        "secure_aggregation": {"enabled": True, "bits": 20, "stage_deadline": 10.0},
        "methods": {"local_first": False, "personal_fine_tune": False},
    }
    return FederationConfig.model_validate(fields)


@pytest.fixture
def trial(
    tmp_path: Path, small_plants: Path, secure: FederationConfig
) -> Iterator[Callable[..., Trial]]:
    """Return ``trial(plants=3, workers=1, name="out", **changes)``."""
    opened: list[Workers] = []

    def make(*, plants: int = 3, workers: int = 1, name: str = "out", **changes: Any) -> Trial:
        pool = Workers(workers)
        opened.append(pool)
        config = secure.model_copy(update=changes)
        return Trial(tmp_path / name, small_plants, config, plants=plants, workers=pool)

    yield make
    for pool in opened:
        pool.__exit__(None, None, None)


def test_a_secure_run_gives_bit_for_bit_the_releases_of_a_plain_one(
    trial: Callable[..., Trial],
) -> None:
    secure = trial(name="secure")
    last = secure.open().run()
    plain = trial(name="plain")
    with unmasked():
        plain.open().run()
    assert last.number == 2
    assert secure.hashes() == plain.hashes()
    # Two exchanges a round once it runs; the last one sets no other up.
    assert secure.fleet.exchanges == ["hello", "setup", "order", "unmask", "order", "unmask"]


def test_the_centre_sees_no_update_and_no_weight(trial: Callable[..., Trial]) -> None:
    seen: list[Reply] = []
    made = trial(rounds=1)
    assert any("plants accept each other" in said for said in made.prepared.warnings)

    class Watched(Faults):
        def ask(self, *asked: Any, **how: Any) -> Iterator[Reply]:
            for reply in super().ask(*asked, **how):
                seen.append(reply)
                yield reply

    made.open(Watched(made.fleet.fleet)).run()
    masked = [reply for reply in seen if reply.payload is not None]
    assert len(masked) == 3
    assert all(reply.beside and reply.weight == 0 for reply in masked)
    row = history(made.home)[0]
    assert {reply["weight"] for reply in row["replies"].values()} == {0}
    assert Releases(made.home).manifest(1).replies == dict.fromkeys(made.names, 0)
