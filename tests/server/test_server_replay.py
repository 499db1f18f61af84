"""Recorded bytes that come again after the centre was killed: refused, nothing counts twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from common.config import CentreConfig
from common.orders import Order
from common.pki import Role, Trust, make_identity
from common.signing import Signer
from common.wire.messages import pack_reply
from common.wire.parts import Parts
from common.wire.seals import open_order, seal_reply
from server.centre import Centre as CentreFolder
from server.events import ReplyArrived, RoundClosed
from server.fleet.grid import GridFleet
from server.fleet.names import Member
from server.fleet.records import from_record, to_record
from server.seals import Seals
from server.state.store import history
from server.state.tables import utcnow
from tests.server.nodes import Nodes, task_identity


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Link:
    """Nodes of three plants; what passes is recorded, and one of them may hand it in again.

    Attributes
    ----------
    recorded : (plant, round, what it sent), as it travelled.
    """

    def __init__(self, nodes: Nodes, centre: Any, folder: Path) -> None:
        config = CentreConfig(name="acme", address="localhost:1", enrolment="localhost:2")
        self._papers = CentreFolder.create(folder / "papers", config)
        self._plants, self._grid = centre.plants, nodes.grid
        self._signers = {name: self._signer(name, folder / name) for name in self._plants.names}
        self._at = {nodes.add(None): name for name in self._signers}
        self.recorded: list[tuple[str, int, Parts]] = []
        self.replay: Callable[[str, Order], Parts | None] = lambda plant, order: None
        nodes.respond = lambda message, context: self._answer(message)

    def fleet(self) -> GridFleet:
        """Return the fleet of a centre that has just started."""
        roster = {
            node: Member(name=name, fingerprint=self._signers[name].fingerprint)
            for node, name in self._at.items()
        }
        return GridFleet(self._grid, roster=lambda: roster, seals=Seals(folder=self._papers.pki))

    def sent(self, plant: str, number: int) -> Parts:
        """Return what a plant sent in a round the first time."""
        return next(parts for name, at, parts in self.recorded if (name, at) == (plant, number))

    def _signer(self, name: str, folder: Path) -> Signer:
        key = make_identity(folder)
        pem = self._papers.authority().issue(key.public_key(), name=name, role=Role.PLANT, days=30)
        return Signer(key=key, certificate=pem, name=name)

    def _answer(self, message: Message) -> Message:
        plant = self._at[message.metadata.dst_node_id]
        order, release, nonce = open_order(
            from_record(message.content), trust=Trust.of(self._papers.authority_pem), at=utcnow()
        )
        parts = self.replay(plant, order)
        if parts is None:
            reply = self._plants.answer(plant, order, release)
            signer = self._signers[plant]
            parts = seal_reply(pack_reply(reply), reply, nonce=nonce, signer=signer)
            self.recorded.append((plant, order.round, parts))
        return Message(to_record(parts), reply_to=message)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, centre: Any) -> Iterator[Link]:
    for key, value in task_identity().items():
        monkeypatch.setattr(TaskIdentity, key, value)
    centre.configure(rounds=2)
    nodes = Nodes()
    yield Link(nodes, centre, tmp_path)
    nodes.close()


@pytest.fixture
def undisturbed(centre: Any, make_centre: Any, tmp_path: Path) -> list[str]:
    """Return the hashes of the releases of a run that nobody disturbs."""
    other = make_centre(tmp_path / "undisturbed")
    other.config = centre.config
    other.open().run()
    return [row["release"] for row in history(other.home)]


def killed(centre: Any, link: Link, when: Callable[[Any], bool]) -> None:
    """Run until an event, and no further."""

    def die(event: Any) -> None:
        if when(event):
            raise Killed

    with pytest.raises(Killed):
        centre.open(fleet=link.fleet(), events=die).run()


def test_a_reply_of_a_closed_round_does_not_count_in_the_next(
    link: Link, centre: Any, undisturbed: list[str]
) -> None:
    killed(centre, link, lambda e: isinstance(e, RoundClosed) and e.round == 1)
    before = history(centre.home)
    old = link.sent("ash", 1)
    link.replay = lambda plant, order: old if plant == "ash" and order.round == 2 else None
    centre.open(fleet=link.fleet()).run()
    first, second = history(centre.home)
    assert [first] == before
    assert first["release"] == undisturbed[0]
    outcomes = {plant: reply["outcome"] for plant, reply in second["replies"].items()}
    assert outcomes == {"ash": "failed", "elm": "done", "oak": "done"}
    assert "must carry the nonce of its order" in second["replies"]["ash"]["reason"]
    assert second["release"] not in (None, undisturbed[1])  # of two plants


@pytest.mark.parametrize("honest", [True, False])
def test_what_was_sent_before_a_kill_does_not_count_beside_what_is_sent_after(
    link: Link, centre: Any, undisturbed: list[str], *, honest: bool
) -> None:
    """The resumed centre asks the same order again. Only an answer to that asking counts, once."""
    seen: list[str] = []

    def third(event: Any) -> bool:
        if isinstance(event, ReplyArrived):
            seen.append(event.plant)
        return len(seen) == 3

    killed(centre, link, third)
    assert sorted(seen) == ["ash", "elm", "oak"]  # all there, nothing committed
    assert history(centre.home) == []
    old = link.sent("ash", 1)
    if not honest:
        link.replay = lambda plant, order: old if plant == "ash" and order.round == 1 else None
    centre.open(fleet=link.fleet()).run()
    first, _ = history(centre.home)
    assert len(first["replies"]) == 3
    if honest:
        again = [parts for plant, at, parts in link.recorded if (plant, at) == ("ash", 1)]
        assert len(again) == 2
        assert (again[0].head, again[0].vector) == (again[1].head, again[1].vector)
        assert [row["release"] for row in history(centre.home)] == undisturbed
    else:
        assert first["replies"]["ash"]["outcome"] == "failed"
        assert "answers an earlier sending" in first["replies"]["ash"]["reason"]
        assert first["release"] not in (None, undisturbed[0])
