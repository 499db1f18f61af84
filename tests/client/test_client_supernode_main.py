"""A reply that was left behind is sent, on SuperNode's own state."""

from __future__ import annotations

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client.link.supernode_main import NO_RUN, delivering, has_reply


def empty() -> InMemoryNodeState:
    return InMemoryNodeState(ObjectStoreFactory().store())


def stored(state: InMemoryNodeState) -> None:
    """Store a message and the reply to it, as SuperNode does."""
    message = Message(RecordDict(), 7, "train")
    message.metadata.__dict__["_message_id"] = "message"
    reply = Message(RecordDict(), reply_to=message)
    reply.metadata.__dict__["_message_id"] = "reply"
    for one in (message, reply):
        state.store_message(one)


def test_a_reply_left_behind_is_sent_when_no_message_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("_run_id", 1), ("_task_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)
    state = empty()
    pull = delivering(lambda **kept: None)
    assert pull(state=state) is None
    stored(state)
    assert has_reply(state)
    assert pull(state=state) == NO_RUN
    assert [one.metadata.message_id for one in state.get_messages_legacy(is_reply=True)] == [
        "reply"
    ]
    assert pull(state=state) is None


def test_a_message_that_came_is_told() -> None:
    assert delivering(lambda **kept: 11)(state=empty()) == 11


def test_what_is_replaced_is_there() -> None:
    assert callable(vars(start_client_internal)["_pull_and_store_message"])
