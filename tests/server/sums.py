"""A fleet of small numpy plants with real desks for secure sums, and faults between the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.desk.contributions import Contributions
from client.desk.ledger import Ledger
from client.desk.sums import Sums, limits_of
from common.config import PolicySection
from common.errors import TransferlineError
from common.forms import Turn, linear_of
from common.orders import Order, Outcome, Release, Reply
from common.pki import Role
from common.secagg.encoding import Encoding, Packer, decode
from common.secagg.masks import add_masks
from common.secagg.messages import Call, Said
from common.signing import Signer
from server.releases import Releases
from server.seals import Papers
from server.state.store import history
from simulation.desks import refused

NAMES = ("ash", "elm", "fir", "oak", "yew")
MORE = (*NAMES, "yucca", "zelkova")
BITS, BOUND = 20, 4.0
STEADY = ["order", "unmask"]  #: exchanges of a round
STAGES = ("unmask", "confirm", "setup", "hello")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a round stands when a plant answers."""

    round: int
    name: str


class SummingPlants:
    """Plants behind the Fleet seam: `Plants` that train, and the desks that mask for them.

    Attributes
    ----------
    kills : called with (stage, plant) before the plant answers; True restarts it there: its
        sessions are gone, and it says nothing.
    silences : the same, after it has answered; True loses the answer on its way.
    away : plants that are not connected.
    exchanges : stages that were gone through, in order.
    sums : the desks by plant.
    """

    def __init__(self, plants: Any, keys: Any, folder: Path, **policy: Any) -> None:
        self.inner, self.keys, self.folder = plants, keys, folder
        self.policy = PolicySection(**policy)
        self.kills: Callable[[Stage, str], bool] = lambda stage, plant: False
        self.silences: Callable[[Stage, str], bool] = lambda stage, plant: False
        self.spoil: Callable[[Stage, str, Any], Any] = lambda stage, plant, answer: answer
        self.away: set[str] = set()
        self.exchanges: list[str] = []
        self.round = 1
        self.signers = {name: self._signer(name) for name in plants.names}
        self.accepted = {
            name: frozenset(signer.fingerprint for signer in self.signers.values())
            for name in plants.names
        }
        self.sums = {name: self._open(name) for name in plants.names}

    def _signer(self, name: str) -> Signer:
        key = Ed25519PrivateKey.generate()
        pem = self.keys.authority.issue(key.public_key(), name=name, role=Role.PLANT, days=30)
        return Signer(key=key, certificate=pem, name=name)

    def _open(self, name: str) -> Sums:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder)
        ledger.prepare()
        signer = self.signers[name]
        return Sums(
            name=name,
            federation="acme",
            papers=lambda: (signer, self.keys.trust),
            limits=lambda: limits_of(
                self.policy, accepted=self.accepted[name], own=signer.fingerprint
            ),
            record=Contributions(ledger=ledger),
            now=lambda: datetime.now(UTC),
        )

    def restart(self, name: str) -> None:
        """Kill a plant's daemon and start it again: what was in memory is gone."""
        self.sums[name] = self._open(name)

    def plants(self) -> list[str]:
        return sorted(set(self.inner.names) - self.away)

    def ask(
        self, order: Order, release: Release, *, beside: Mapping[str, str] | None = None
    ) -> Iterator[Reply]:
        self.round = order.round
        if beside is None:
            yield from self.inner.ask(order, release)
            return
        self.exchanges.append("order")
        stage = Stage(round=order.round, name="order")
        for plant in self.inner.order_of_arrival(sorted(set(beside) - self.away)):
            if self.kills(stage, plant):
                self.restart(plant)
                continue
            reply = self._masked(plant, order, release, beside[plant])
            if not self.silences(stage, plant):
                yield self.spoil(stage, plant, reply)

    def _masked(self, plant: str, order: Order, release: Release, beside: str) -> Reply:
        try:
            self.sums[plant].examine(order, beside)
            reply = self.inner.answer(plant, order, release)
            assert reply.outcome is Outcome.DONE
            return self.sums[plant].mask(order, beside, reply)
        except TransferlineError as error:
            return refused(plant, order, error)

    def exchange(
        self, calls: Mapping[str, Call], *, run: str, seconds: float
    ) -> Iterator[tuple[str, Said]]:
        asked = {s for call in calls.values() for s in STAGES if getattr(call, s)}
        # Of the round after, hello and set-up come along with this one's questions.
        for call in calls.values() if not asked & {"confirm", "unmask"} else ():
            begun = call.hello or (call.setup.sid if call.setup else None)
            self.round = max(self.round, begun.round if begun else 0)
        stage = Stage(round=self.round, name=next(s for s in STAGES if s in asked))
        self.exchanges.append(stage.name)
        for plant in sorted(set(calls) - self.away):
            if self.kills(stage, plant):
                self.restart(plant)
                continue
            said = self.sums[plant].call(calls[plant])
            if not self.silences(stage, plant):
                yield plant, self.spoil(stage, plant, said)


class Run:
    """A run of secure sums over small plants."""

    def __init__(
        self, centre: Any, keys: Any, folder: Path, *, names: Sequence[str], **policy: Any
    ) -> None:
        self.centre = centre
        centre.plants.names = tuple(names)
        centre.papers = lambda: Papers(signer=keys.signer, trust=keys.trust)
        self.plants = SummingPlants(centre.plants, keys, folder, **policy)
        self.configure()

    def configure(self, **changes: Any) -> None:
        sums = {"enabled": True, "bits": BITS, "bound": BOUND, "stage_deadline": 5.0}
        self.centre.configure(**({"min_plants": 3, "secure_aggregation": sums} | changes))

    def hold(self) -> Any:
        return self.centre.open(fleet=self.plants).run()

    @property
    def rounds(self) -> dict[int, Any]:
        return {row["round"]: row for row in history(self.centre.home)}

    def release_after(self, number: int) -> Any:
        releases = Releases(self.centre.home)
        wanted = self.rounds[number]["release"]
        return next(
            releases.read(n) for n in releases.numbers() if releases.manifest(n).hash == wanted
        )

    def check_sum(self, number: int, plants: Sequence[str], *, cohort: int) -> None:
        """Compare a round's release with the mean of the plain fixed-point numbers, bit for bit."""
        after = self.release_after(number)
        before = Releases(self.centre.home).read(after.number - 1)
        total: Any = None
        for plant in plants:
            _, reply = self.plants.inner.outbox[plant, f"run-{number:05d}-train"]
            vector = np.frombuffer(reply.payload, "<f4")
            encoding = Encoding(
                size=vector.size,
                bits=BITS,
                bound=BOUND,
                max_weight=self.centre.config.server.max_weight,
                plants=cohort,
            )
            words = np.empty(encoding.words, np.uint64)
            add_masks(words, fill=Packer(vector, weight=reply.weight, encoding=encoding).fill)
            total = words if total is None else total + words
        summed = decode(total, encoding=encoding, survivors=len(plants))
        expected = before.vector.copy()
        values = before.schema.unflatten(expected)
        schema = before.schema.subset(frozenset({"backbone.a", "backbone.b"}))
        turn = Turn(run="run", round=number)
        form = linear_of(self.centre.config.update, schema=schema, turn=turn)
        mean = form.lift((summed.vector / summed.weight).astype(np.float32))
        for name, change in schema.unflatten(mean).items():
            values[name] += change
        assert np.array_equal(after.vector, expected)
        assert np.any(mean)


def at(wanted: str, plants: Sequence[str], *, number: int = 2) -> Callable[[Stage, str], bool]:
    """Return a fault: these plants at a stage of a round."""
    return lambda stage, plant: stage == Stage(round=number, name=wanted) and plant in plants


def summed(found: Run, number: int) -> Any:
    federation = found.centre.open(fleet=found.plants)
    return federation._chain.tenure.rounds()[number].summed
