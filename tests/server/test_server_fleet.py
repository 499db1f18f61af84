"""The fleet over Flower's own in-memory Grid, with the real bridge at its nodes."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.supercore.task_identity import TaskIdentity

from client import app as bridge
from common.errors import AggregationError, EngineError
from common.orders import Order, Outcome, Release, Reply
from common.secagg.messages import Call, Said
from common.secagg.transcript import SessionId
from common.wire.messages import pack_said, read_order, unpack_call
from common.wire.parts import Parts
from server.fleet.grid import GridFleet
from tests.server.nodes import RELEASE, Answer, Nodes, done, order, task_identity


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Nodes]:
    for name in ("steel", "tile", "wood"):
        (tmp_path / "plants" / name).mkdir(parents=True)
    monkeypatch.setenv("TRANSFERLINE_HOME", str(tmp_path))
    for key, value in task_identity().items():
        monkeypatch.setattr(TaskIdentity, key, value)
    link = Nodes()
    yield link
    link.close()


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Choose how plants answer, at the seam where the bridge opens one."""

    def choose(answer: Answer) -> None:
        class Plant:
            def __init__(self, folder: Path) -> None:
                self.name = folder.name

            def answer(self, order: Order, release: Release) -> Reply:
                return answer(self.name, order, release)

        module = types.ModuleType("stand_in")
        module.open_plant = Plant  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "stand_in", module)
        monkeypatch.setattr(bridge, "OPEN_PLANT", "stand_in:open_plant")

    choose(done)
    return choose


def test_plants_are_known_by_name(nodes: Nodes) -> None:
    fleet = GridFleet(nodes.grid)
    assert fleet.plants() == []
    seen: list[int] = []
    for number in (2, 0, 1):
        nodes.add(number)
    assert fleet.wait(plants=3, seconds=20, on_change=seen.append) == ["steel", "tile", "wood"]
    assert seen == sorted(set(seen))


def test_plants_come_and_go(nodes: Nodes) -> None:
    fleet = GridFleet(nodes.grid)
    first = nodes.add(0)
    assert fleet.wait(plants=1, seconds=20) == ["steel"]
    nodes.add(1)
    assert fleet.wait(plants=2, seconds=20) == ["steel", "tile"]
    nodes.remove(first)
    assert fleet.plants() == ["tile"]
    nodes.add(0)
    assert fleet.wait(plants=2, seconds=20) == ["steel", "tile"]


def test_the_missing_are_told_with_the_reason_of_one(nodes: Nodes) -> None:
    fleet = GridFleet(nodes.grid)
    nodes.add(None)
    with pytest.raises(EngineError, match=r"2 plants must connect, got 0 .* has no plant"):
        fleet.wait(plants=2, seconds=1)


def test_a_second_node_of_the_same_name_is_refused(nodes: Nodes) -> None:
    fleet = GridFleet(nodes.grid)
    nodes.add(0)
    fleet.wait(plants=1, seconds=20)
    nodes.add(0)
    with pytest.raises(EngineError, match="steel is connected already"):
        fleet.wait(plants=2, seconds=1)


def test_replies_arrive_and_are_exact(nodes: Nodes, answer_with: Callable[..., None]) -> None:
    fleet = GridFleet(nodes.grid)
    for number in range(3):
        nodes.add(number)
    fleet.wait(plants=3, seconds=20)
    replies = {reply.plant: reply for reply in fleet.ask(order("steel", "wood"), RELEASE)}
    assert sorted(replies) == ["steel", "wood"]
    for plant, reply in replies.items():
        assert (reply.outcome, reply.weight) == (Outcome.DONE, len(plant))
        assert reply.payload == (RELEASE.vector * 2).tobytes()


def test_the_first_reply_does_not_wait_for_the_last(
    nodes: Nodes, answer_with: Callable[..., None]
) -> None:
    release = threading.Event()

    def slow(plant: str, asked: Order, given: Release) -> Reply:
        if plant == "steel":
            release.wait(20)
        return done(plant, asked, given)

    answer_with(slow)
    fleet = GridFleet(nodes.grid)
    nodes.add(0)
    nodes.add(2)
    fleet.wait(plants=2, seconds=20)
    replies = fleet.ask(order("steel", "wood"), RELEASE)
    assert next(replies).plant == "wood"
    release.set()
    assert next(replies).plant == "steel"
    assert list(replies) == []


def test_a_round_ends_at_its_deadline(nodes: Nodes, answer_with: Callable[..., None]) -> None:
    release = threading.Event()

    def stuck(plant: str, asked: Order, given: Release) -> Reply:
        release.wait(20)
        return done(plant, asked, given)

    answer_with(stuck)
    fleet = GridFleet(nodes.grid)
    nodes.add(0)
    fleet.wait(plants=1, seconds=20)
    start = time.monotonic()
    assert list(fleet.ask(order("steel", deadline=0.5), RELEASE)) == []
    assert 0.4 < time.monotonic() - start < 5
    answer_with(done)
    release.set()
    # The late reply to the first order is not taken for one to the second.
    assert [r.plant for r in fleet.ask(order("steel"), RELEASE)] == ["steel"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda plant, o, r: done("tile", o, r), "reply must be to"),
        (lambda plant, o, r: done(plant, Order(**{**vars(o), "round": 9}), r), "reply must be to"),
        (lambda plant, o, r: (_ for _ in ()).throw(EngineError("no GPU")), "no GPU"),
    ],
)
def test_a_wrong_answer_is_a_failed_reply(
    nodes: Nodes, answer_with: Callable[..., None], answer: Answer, said: str
) -> None:
    answer_with(answer)
    fleet = GridFleet(nodes.grid)
    nodes.add(0)
    fleet.wait(plants=1, seconds=20)
    (reply,) = fleet.ask(order("steel"), RELEASE)
    assert (reply.plant, reply.outcome, reply.round) == ("steel", Outcome.FAILED, 1)
    assert said in reply.reason
    assert reply.payload is None


def test_who_is_not_connected_is_told_at_once(
    nodes: Nodes, answer_with: Callable[..., None]
) -> None:
    fleet = GridFleet(nodes.grid)
    nodes.add(0)
    fleet.wait(plants=1, seconds=20)
    replies = {reply.plant: reply for reply in fleet.ask(order("steel", "wood"), RELEASE)}
    assert replies["steel"].outcome is Outcome.DONE
    assert (replies["wood"].outcome, replies["wood"].reason) == (Outcome.FAILED, "not connected")


# -- small messages of a secure sum ----------------------------------------------------------------


@pytest.fixture
def desks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[Call], Said]]:
    """Let a dict say how the desk of each plant answers, in place of the host of a simulation."""
    found: dict[str, Callable[[Call], Said]] = {}

    def call(address: str, folder: Path, parts: Parts) -> Parts:
        return pack_said(found[folder.name](unpack_call(parts)))

    module = types.ModuleType("stand_in_host")
    module.call = call  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stand_in_host", module)
    monkeypatch.setattr(bridge, "DESK_HOST", "stand_in_host")
    monkeypatch.setenv(bridge.DESKS, "somewhere")
    return found


SID = SessionId(federation="acme", run="r", round=1, attempt=0)


def test_each_plant_gets_its_own_message_and_answers(
    nodes: Nodes, desks: dict[str, Callable[[Call], Said]]
) -> None:
    asked: dict[str, Call] = {}
    for name in ("steel", "tile", "wood"):

        def answer(call: Call, name: str = name) -> Said:
            asked[name] = call
            return Said(advert=f"keys of {name}")

        desks[name] = answer
    fleet = GridFleet(nodes.grid)
    for number in range(3):
        nodes.add(number)
    fleet.wait(plants=3, seconds=20)
    calls = {"steel": Call(hello=SID), "wood": Call(unmask="request")}
    said = dict(fleet.exchange({**calls, "gone": Call()}, run="r", seconds=20))
    assert said == {name: Said(advert=f"keys of {name}") for name in calls}
    assert asked == calls


def test_who_does_not_answer_a_message_in_time_is_left_out(
    nodes: Nodes, desks: dict[str, Callable[[Call], Said]]
) -> None:
    until = threading.Event()

    def stuck(call: Call) -> Said:
        until.wait(20)
        return Said()

    def broken(call: Call) -> Said:
        raise AggregationError("no such session")

    desks.update(steel=stuck, tile=broken, wood=lambda call: Said(shares="s"))
    fleet = GridFleet(nodes.grid)
    for number in range(3):
        nodes.add(number)
    fleet.wait(plants=3, seconds=20)
    started = time.monotonic()
    said = dict(fleet.exchange(dict.fromkeys(desks, Call()), run="r", seconds=2.0))
    assert time.monotonic() - started < 10
    until.set()
    assert said == {"tile": Said(reason="no such session"), "wood": Said(shares="s")}


def test_only_those_with_something_beside_it_get_an_order(
    nodes: Nodes, answer_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = GridFleet(nodes.grid)
    for number in range(3):
        nodes.add(number)
    fleet.wait(plants=3, seconds=20)
    seen: list[str] = []
    respond = nodes.respond

    def watch(message: Message, context: Context) -> Message:
        seen.append(str(message.content.config_records["head"]["json"]))
        return respond(message, context)

    nodes.respond = watch
    asked = order("steel", "tile", "wood")
    replies = fleet.ask(asked, RELEASE, beside={"steel": "for steel", "wood": "for wood"})
    assert sorted(reply.plant for reply in replies) == ["steel", "wood"]
    assert sorted(read_order(head)[1] for head in seen) == ["for steel", "for wood"]
