"""Sealed orders and replies, and what is asked again, over Flower's own in-memory Grid."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import Error, Message
from flwr.supercore.task_identity import TaskIdentity

from common.config import CentreConfig
from common.orders import Outcome, Reply
from common.pki import Role, Trust, make_identity
from common.signing import Signer
from common.wire.messages import pack_reply
from common.wire.parts import Parts
from common.wire.seals import open_order, seal_reply
from server.centre import Centre
from server.engine.bounds import TOO_LARGE
from server.fleet import errands
from server.fleet.grid import GridFleet
from server.fleet.inflating import UNREADABLE
from server.fleet.names import Member
from server.fleet.records import from_record, to_record
from server.seals import Seals
from server.state.tables import utcnow
from tests.server.nodes import RELEASE, Nodes, done, order, task_identity


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    for key, value in task_identity().items():
        monkeypatch.setattr(TaskIdentity, key, value)
    link = Nodes()
    yield link
    link.close()


class Enrolled:
    """Two enrolled plants at nodes, each with an identity that answers are signed by."""

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        self.nodes = nodes
        config = CentreConfig(name="acme", address="localhost:1", enrolment="localhost:2")
        self.centre = Centre.create(folder / "centre", config)
        self.folder = folder
        self.signers = {name: self.signer(name) for name in ("ash", "elm")}
        self.at = {nodes.add(None): name for name in self.signers}
        self.roster = {
            node: Member(name=name, fingerprint=self.signers[name].fingerprint)
            for node, name in self.at.items()
        }
        self.asked: list[str] = []
        self.nonces: list[str] = []
        nodes.respond = lambda message, context: self.answer(message)
        self.fleet = GridFleet(
            nodes.grid, roster=lambda: self.roster, seals=Seals(folder=self.centre.pki)
        )

    def signer(
        self, name: str, *, centre: Centre | None = None, at: datetime | None = None
    ) -> Signer:
        key = make_identity(self.folder / secrets.token_hex(4))
        authority = (centre or self.centre).authority()
        pem = authority.issue(key.public_key(), name=name, role=Role.PLANT, days=30, at=at)
        return Signer(key=key, certificate=pem, name=name)

    def answer(self, message: Message) -> Message:
        name = self.at[message.metadata.dst_node_id]
        self.asked.append(name)
        reply_to = from_record(message.content)
        asked, given, nonce = open_order(
            reply_to, trust=Trust.of(self.centre.authority_pem), at=utcnow()
        )
        self.nonces.append(nonce)
        return Message(
            to_record(self.seal(name, done(name, asked, given), nonce)), reply_to=message
        )

    def seal(self, name: str, reply: Reply, nonce: str) -> Parts:
        return seal_reply(pack_reply(reply), reply, nonce=nonce, signer=self.signers[name])

    def ask(self, *cohort: str, deadline: float = 20.0) -> dict[str, Reply]:
        replies = self.fleet.ask(order(*cohort, deadline=deadline), RELEASE)
        return {reply.plant: reply for reply in replies}


@pytest.fixture
def enrolled(nodes: Nodes, tmp_path: Path) -> Enrolled:
    return Enrolled(nodes, tmp_path)


def test_the_roster_says_who_is_who(enrolled: Enrolled) -> None:
    enrolled.nodes.add(None)
    assert enrolled.fleet.plants() == ["ash", "elm"]
    enrolled.roster.pop(next(iter(enrolled.roster)))
    assert enrolled.fleet.plants() == ["elm"]
    assert enrolled.asked == []


def test_sealed_orders_get_sealed_replies(enrolled: Enrolled) -> None:
    replies = enrolled.ask("ash", "elm")
    assert {name: reply.outcome for name, reply in replies.items()} == {
        "ash": Outcome.DONE,
        "elm": Outcome.DONE,
    }
    for reply in replies.values():
        assert reply.payload == (RELEASE.vector * 2).tobytes()
    assert enrolled.ask("ash")["ash"].outcome is Outcome.DONE
    assert len(set(enrolled.nonces)) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("unsigned", "signed envelope"),
        ("foreign", "issued by the federation's CA"),
        ("expired", "must be valid at"),
        ("earlier identity", "identity that is enrolled"),
        ("another plant", "signed by that plant"),
        ("altered", "what was signed"),
        ("replayed", "nonce of its order"),
    ],
)
def test_a_reply_that_is_not_the_plants_does_not_count(
    enrolled: Enrolled, tmp_path: Path, change: str, said: str
) -> None:
    config = CentreConfig(name="other", address="localhost:1", enrolment="localhost:2")
    if change == "foreign":
        other = Centre.create(tmp_path / "other", config)
        enrolled.signers["ash"] = enrolled.signer("ash", centre=other)
    elif change == "expired":
        signer = enrolled.signer("ash", at=utcnow() - timedelta(days=60))
        enrolled.signers["ash"] = signer
    elif change == "earlier identity":
        enrolled.signers["ash"] = enrolled.signer("ash")
    elif change == "another plant":
        enrolled.signers["ash"] = enrolled.signers["elm"]
    whole = enrolled.seal

    def seal(name: str, reply: Reply, nonce: str) -> Parts:
        parts = whole(name, reply, "0" * 32 if change == "replayed" else nonce)
        if change == "unsigned":
            return Parts(head=parts.head, vector=parts.vector)
        if change == "altered":
            assert parts.vector is not None
            changed = bytes([parts.vector[0] ^ 1]) + parts.vector[1:]
            return Parts(head=parts.head, vector=changed, seal=parts.seal)
        return parts

    enrolled.seal = seal  # type: ignore[method-assign]
    reply = enrolled.ask("ash")["ash"]
    assert (reply.outcome, reply.payload) == (Outcome.FAILED, None)
    assert said in reply.reason


def test_who_was_revoked_meanwhile_does_not_count(enrolled: Enrolled) -> None:
    def revoked(message: Message) -> Message:
        answer = whole(message)
        enrolled.roster.clear()
        return answer

    whole, enrolled.answer = enrolled.answer, revoked  # type: ignore[method-assign]
    reply = enrolled.ask("ash")["ash"]
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "the plant is no longer enrolled")


def test_who_is_revoked_while_it_trains_is_not_waited_for(enrolled: Enrolled) -> None:
    def cut_off(message: Message) -> Message:
        enrolled.roster.pop(message.metadata.dst_node_id)
        enrolled.nodes.stop.wait()  # its answer never comes
        return Message(Error(5, "too late"), reply_to=message)

    enrolled.answer = cut_off  # type: ignore[method-assign]
    started = time.monotonic()
    reply = enrolled.ask("ash", deadline=300.0)["ash"]
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "the plant is no longer enrolled")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("code", [3, 5, 8, 101])
def test_a_lost_reply_is_asked_for_again(
    enrolled: Enrolled, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(errands, "RETRY", (0.1, 0.2))
    whole = enrolled.answer
    failures = iter(range(2))

    def lost(message: Message) -> Message:
        if next(failures, None) is None:
            return whole(message)
        return Message(Error(code, "lost on its way"), reply_to=message)

    enrolled.answer = lost  # type: ignore[method-assign]
    assert enrolled.ask("ash")["ash"].outcome is Outcome.DONE
    assert enrolled.asked == ["ash"]


@pytest.mark.parametrize("code", [100, TOO_LARGE, UNREADABLE])
def test_a_plants_own_failure_is_final(enrolled: Enrolled, code: int) -> None:
    enrolled.answer = lambda message: Message(  # type: ignore[method-assign]
        Error(code, "no GPU"), reply_to=message
    )
    reply = enrolled.ask("ash")["ash"]
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "no GPU")


def test_a_node_that_went_away_is_waited_for_and_then_given_up(
    enrolled: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errands, "RETRY", (0.1, 0.2))
    monkeypatch.setattr(errands, "AWAY", 1.0)
    ash = next(iter(enrolled.at))

    def leave(message: Message) -> Message:
        enrolled.nodes.remove(ash)
        enrolled.nodes.stop.wait()
        return Message(Error(5, "too late"), reply_to=message)

    enrolled.answer = leave  # type: ignore[method-assign]
    started = time.monotonic()
    reply = enrolled.ask("ash")["ash"]
    assert reply.outcome is Outcome.FAILED
    assert "Node Unavailable" in reply.reason
    assert 0.9 < time.monotonic() - started < 10
