"""Flower's own state in SQLite with a run, as `server.engine.superlink` has it, for tests of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.federation import NoOpFederationManager

from server.engine import superlink
from server.engine.objects import FileObjectStore
from server.fleet.allowance import group

VECTOR = 2**20  #: bytes of the release that was sent down


class Line:
    """A state with a run, two nodes, and a message to each.

    Attributes
    ----------
    messages : their ids.
    """

    def __init__(self, folder: Path, identify: Callable[[str, int], None]) -> None:
        self._folder, self.identify, self.group = folder, identify, group("1", vector=VECTOR)
        self.open()
        self.run = self.state.create_run(
            *("a/b", "1", "0" * 64, {}, NOOP_FEDERATION_ID, None, "aid", TaskType.SERVER_APP)
        )
        assert self.run
        identify("_run_id", self.run)
        (task,) = self.state.get_tasks()
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        self.nodes = [self._node() for _ in range(2)]
        self.messages = [self._message(node) for node in self.nodes]

    def open(self) -> None:
        """Open the state, as SuperLink does when it starts."""
        factory = superlink.store_in(self._folder / "objects")()
        database = str(self._folder / "superlink.db")
        found = LinkStateFactory(database, NoOpFederationManager(), factory).state()
        assert isinstance(found, SqlLinkState)
        assert isinstance(found.object_store, FileObjectStore)
        self.state = found

    def _node(self) -> int:
        key = secrets.token_bytes(32)
        node = self.state.create_node("aid", "name", key, heartbeat_interval=1e6)
        self.state.activate_node(node, 1e6)
        return node

    def _message(self, node: int) -> Message:
        self.identify("_node_id", SUPERLINK_NODE_ID)
        message = Message(RecordDict(), node, "train", ttl=1000.0, group_id=self.group)
        self._send(message)
        return message

    def _send(self, message: Message) -> str:
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.run)
        stored, _ = self.state.store_message_and_object_tree(
            message, get_object_tree(message), session
        )
        assert stored
        return session

    def begin(self, number: int) -> Callable[[], None]:
        """Announce the reply of a node; return what uploads its next piece."""
        self.identify("_node_id", self.nodes[number])
        data = bytes([number]) * 200_000
        content = RecordDict({"a": ArrayRecord({"flat": Array("float32", (50_000,), "r", data)})})
        reply = Message(content, reply_to=self.messages[number])
        session = self._send(reply)
        pieces = iter(get_all_nested_objects(reply).items())

        def upload() -> None:
            name, piece = next(pieces)
            self.last = (self.run, session, name, piece.deflate())
            assert self.state.store_object(*self.last)

        self.pieces = len(get_all_nested_objects(reply))
        return upload

    def take(self) -> list[int]:
        """Return the nodes whose replies are handed out."""
        asked = {message.metadata.message_id for message in self.messages}
        found = self.state.get_message_res(asked, self.run)
        return [self.nodes.index(m.metadata.src_node_id) for m in found if not m.has_error()]
