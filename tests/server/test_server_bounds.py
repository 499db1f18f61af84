"""A node gets in what its reply may have, and no more; on Flower's own state and handlers."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.servicer.fleet import fleet_handlers

from server.engine import bounds
from server.engine.bounds import TOO_LARGE, Bounds
from server.engine.objects import FileObjectStore
from server.fleet.allowance import LARGEST, ROOM, allowance, group
from tests.server.line import VECTOR, Line

# Flower's migrations, under this alembic.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


class Peer:
    """A node of a line that says to its SuperLink what it likes.

    Attributes
    ----------
    put : pieces that were taken.
    """

    def __init__(self, line: Line, number: int, folder: Path) -> None:
        self.line, self.number, self.folder = line, number, folder
        limits = Bounds()
        state = type(line.state)
        self._push = limits.announced(fleet_handlers.push_messages)
        self._keep = limits.kept(state.store_object)
        self.put = 0

    def reply(self, size: int) -> Message:
        """Return a reply with a vector of so many bytes, no two pieces of it alike."""
        self.line.identify("_node_id", self.line.nodes[self.number])
        data = os.urandom(size)
        content = RecordDict({"vector": ArrayRecord({"flat": Array("uint8", (size,), "r", data)})})
        reply = Message(content, reply_to=self.line.messages[self.number])
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return reply

    def announce(self, reply: Message, tree: ObjectTree | None = None) -> PushMessagesResponse:
        node = Node(node_id=self.line.nodes[self.number])
        request = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(reply)],
            message_object_trees=[tree or get_object_tree(reply)],
        )
        return self._push(request=request, state=self.line.state)

    def send(self, reply: Message, session: str) -> None:
        """Put all pieces, whatever SuperLink says to any."""
        for name, piece in get_all_nested_objects(reply).items():
            self.put += self._keep(self.line.state, self.line.run, session, name, piece.deflate())

    def answer(self) -> tuple[int, str]:
        """Return code and reason of the error that the ServerApp gets; 0 for a reply."""
        message = self.line.messages[self.number].metadata.message_id
        (found,) = self.line.state.get_message_res({message}, self.line.run)
        return (found.error.code, found.error.reason or "") if found.has_error() else (0, "")

    def used(self) -> int:
        """Return the bytes on the disk."""
        return sum(path.stat().st_size for path in (self.folder / "objects").iterdir())


@pytest.fixture
def node(line: Line, tmp_path: Path) -> Peer:
    return Peer(line, 0, tmp_path)


def test_an_honest_reply_passes_and_takes_no_room_afterwards(node: Peer) -> None:
    reply = node.reply(2 * VECTOR)  # the most that a form takes
    response = node.announce(reply)
    assert len(response.objects_to_push) == len(get_all_nested_objects(reply))
    node.send(reply, response.session_id)
    assert node.put == len(get_all_nested_objects(reply))
    assert node.used() > 2 * VECTOR
    assert node.answer() == (0, "")
    node.line.state.object_store.delete(reply.object_id)  # as when the ServerApp has it
    assert node.used() == 0


def test_a_reply_ten_times_too_large_is_dropped_on_its_way(node: Peer) -> None:
    reply = node.reply(10 * (2 * VECTOR + ROOM))
    node.send(reply, node.announce(reply).session_id)
    most = max(len(piece.deflate()) for piece in get_all_nested_objects(reply).values())
    assert node.put * most < 2 * VECTOR + ROOM + most
    assert node.used() == 0
    code, reason = node.answer()
    assert code == TOO_LARGE
    assert f"at most {2 * VECTOR + ROOM} bytes" in reason
    store = node.line.state.object_store
    assert reply.object_id not in store


def test_another_nodes_reply_is_not_touched(node: Peer, line: Line, tmp_path: Path) -> None:
    other = Peer(line, 1, tmp_path)
    sound, large = other.reply(VECTOR), node.reply(2 * (2 * VECTOR + ROOM))
    session = other.announce(sound).session_id
    node.send(large, node.announce(large).session_id)
    other.send(sound, session)
    assert other.answer() == (0, "")
    assert node.answer()[0] == TOO_LARGE


def test_after_that_nothing_more_is_taken_for_the_message(node: Peer) -> None:
    large = node.reply(2 * (2 * VECTOR + ROOM))
    node.send(large, node.announce(large).session_id)
    before = node.put
    for again in (large, node.reply(VECTOR)):
        response = node.announce(again)
        assert not response.objects_to_push
        node.send(again, response.session_id)
    assert node.put == before
    assert node.used() == 0


def test_pieces_that_were_not_announced_are_refused(node: Peer) -> None:
    session = node.announce(node.reply(VECTOR)).session_id
    node.send(node.reply(VECTOR), session)
    node.send(node.reply(VECTOR), "")  # a SuperNode of old says no session
    assert (node.put, node.used()) == (0, 0)


@pytest.mark.parametrize("change", ["many", "twice", "self", "more", "other root"])
def test_announcements_that_would_never_end_are_refused(node: Peer, change: str) -> None:
    reply = node.reply(VECTOR)
    tree = get_object_tree(reply)
    if change == "more":  # the second time
        assert node.announce(reply).objects_to_push
    extra = {
        "many": [f"{number:064x}" for number in range(1000)],
        "twice": [tree.children[0].children[0].object_id],
        "self": [tree.object_id],
        "more": ["1" * 64],
        "other root": [],
    }[change]
    tree.children.extend(ObjectTree(object_id=name) for name in extra)
    if change == "other root":
        tree.object_id = "2" * 64
    before = len(node.line.state.object_store)
    assert not node.announce(reply, tree).objects_to_push
    if change != "more":  # that one's first announcement stays as it was
        assert node.answer()[0] == TOO_LARGE
        assert len(node.line.state.object_store) <= before + 1  # the error
    else:
        assert len(node.line.state.object_store) == before


def test_the_same_announcement_again_is_fine(node: Peer) -> None:
    reply = node.reply(VECTOR)
    assert node.announce(reply).objects_to_push
    response = node.announce(reply)
    assert response.objects_to_push
    node.send(reply, response.session_id)
    assert node.answer() == (0, "")


def test_nobody_speaks_for_another_or_for_the_centre(node: Peer, line: Line) -> None:
    other = Peer(line, 1, node.folder)
    forged = other.reply(VECTOR)
    assert not node.announce(forged).objects_to_push
    line.identify("_node_id", SUPERLINK_NODE_ID)
    order = Message(RecordDict(), line.nodes[1], "train", ttl=1000.0)
    order.metadata.__dict__["_message_id"] = order.object_id
    before = line.state.num_message_ins()
    assert not node.announce(order).objects_to_push
    assert (line.state.num_message_ins(), line.state.num_message_res()) == (before, 0)


def test_what_nobody_fetched_goes_with_its_message(
    node: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = node.reply(VECTOR)
    node.send(reply, node.announce(reply).session_id)
    assert node.used() > VECTOR
    later = now() + timedelta(seconds=2000)
    monkeypatch.setattr(bounds, "now", lambda: later)
    bounds.tidy(node.line.state)
    assert node.used() == 0
    assert len(node.line.state.object_store) == 0
    assert node.line.state.num_message_ins() == 0


def test_an_order_goes_with_its_answer_whether_it_was_confirmed_or_not(node: Peer) -> None:
    order = node.line.messages[0].metadata.message_id
    reply = node.reply(VECTOR)
    node.send(reply, node.announce(reply).session_id)
    assert order in node.line.state.object_store
    assert node.answer() == (0, "")
    assert order not in node.line.state.object_store


def test_the_store_knows_what_a_message_holds(node: Peer) -> None:
    reply = node.reply(VECTOR)
    store = node.line.state.object_store
    assert isinstance(store, FileObjectStore)
    assert store.total(reply.object_id) == 0
    session = node.announce(reply).session_id
    assert store.total(reply.object_id) == 0
    node.send(reply, session)
    pieces: dict[str, Callable[[], bytes]] = {
        name: piece.deflate for name, piece in get_all_nested_objects(reply).items()
    }
    assert store.total(reply.object_id) == sum(len(piece()) for piece in pieces.values())


def test_a_group_says_what_its_reply_may_have() -> None:
    assert allowance(group("run:7", vector=100)) == 200 + ROOM
    assert allowance("3") == LARGEST


@pytest.mark.parametrize("restarted", [False, True])
def test_a_recorded_upload_is_worth_nothing_a_second_time(node: Peer, *, restarted: bool) -> None:
    reply = node.reply(VECTOR)
    node.send(reply, node.announce(reply).session_id)
    assert node.answer() == (0, "")
    order = node.line.messages[0].metadata.message_id
    node.line.state.delete_messages({order})  # as Flower does when it hands the reply out
    node.line.state.object_store.delete(reply.object_id)
    if restarted:
        node.line.open()
    before = node.put
    response = node.announce(reply)
    assert not response.objects_to_push
    node.send(reply, response.session_id)
    assert (node.put, node.used(), node.line.state.num_message_res()) == (before, 0, 0)
