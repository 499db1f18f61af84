"""A reply that was left behind is sent, on SuperNode's own state."""

from __future__ import annotations

import os
import signal
import time

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client.link.supernode_main import (
    LOCAL,
    NO_RUN,
    PIECE,
    QUICK,
    SHARE,
    SLOW,
    delivering,
    has_reply,
    lasting,
    mend,
    told,
    untaken,
)
from common.kept import Kept

LOST = {3, 4, 5, 8, 101}  #: codes after which the centre asks again (`server.fleet.grid`)


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
    asked: list[float] = []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            stored(state)

    pull = delivering(lambda **kept: None, sleep=sleep)
    assert pull(state=state) == NO_RUN
    assert len(asked) == 3
    assert has_reply(state)
    assert [one.metadata.message_id for one in state.get_messages_legacy(is_reply=True)] == [
        "reply"
    ]
    assert not has_reply(state)


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("replied", [True, False])
def test_a_client_app_that_was_ended_is_answered_for(
    monkeypatch: pytest.MonkeyPatch, *, taken: bool, replied: bool
) -> None:
    for name, value in (("_run_id", 1), ("_task_id", 1), ("_node_id", 7)):
        monkeypatch.setattr(TaskIdentity, name, value)
    answer = untaken(InMemoryNodeState._store_error_replies)
    monkeypatch.setattr(InMemoryNodeState, "_store_error_replies", answer)
    monkeypatch.setattr(InMemoryNodeState, "finish_task", told(InMemoryNodeState.finish_task))
    state = empty()
    task = state.create_task(TaskType.CLIENT_APP, run_id=1)
    assert task is not None
    assert state.claim_task(task)
    message = Message(RecordDict(), 7, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    state.store_message(message)
    state.record_message_processing_start(message.metadata.message_id)
    if taken:
        state.get_messages_legacy(is_reply=False)
    if replied:
        reply = Message(RecordDict(), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        state.store_message(reply)
    assert state.finish_task(task, SubStatus.FAILED, "ended")
    (found,) = state.get_messages_legacy(is_reply=True)
    assert found.metadata.reply_to_message_id == message.metadata.message_id
    assert found.has_error() is not replied
    if not replied:
        assert found.error.code in LOST


def test_it_asks_often_where_rounds_are_quick_and_rarely_where_they_are_not() -> None:
    now, asked = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds
        asked.append(now[0])

    messages = iter([None] * 2000 + [11])
    pull = delivering(lambda **kept: next(messages), sleep=sleep, clock=lambda: now[0])
    assert pull(state=empty()) == 11
    assert asked[0] == QUICK
    first = [moment for moment in asked if moment <= 10.0]
    assert len(first) == 10.0 / QUICK
    assert asked[-1] - asked[-2] == SLOW
    late = [moment for moment in asked if 60.0 < moment <= 120.0]
    assert 60.0 / (SHARE * 120.0) <= len(late) <= 60.0 / (SHARE * 60.0)


def test_a_message_that_came_is_told() -> None:
    assert delivering(lambda **kept: 11)(state=empty()) == 11


def test_what_is_replaced_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    names, defaults = vars(start_client_internal), pull_objects.__kwdefaults__
    assert defaults is not None
    for name in ("finish_task", "_store_error_replies"):
        monkeypatch.setattr(InMemoryNodeState, name, getattr(InMemoryNodeState, name))
    for name in ("_pull_and_store_message", "time", "subprocess"):
        monkeypatch.setattr(start_client_internal, name, names[name])
    for name in PIECE:
        monkeypatch.setitem(defaults, name, defaults[name])
    monkeypatch.setattr(fleet_http_connection, "HeartbeatSender", HeartbeatSender)
    mend()
    sender = fleet_http_connection.HeartbeatSender(lambda: True)
    assert isinstance(sender, HeartbeatSender)
    assert sender.heartbeat_fn()
    assert defaults["initial_backoff"] == PIECE["initial_backoff"]
    started = time.monotonic()
    names["time"].sleep(3.0)
    assert LOCAL <= time.monotonic() - started < 3.0
    assert names["subprocess"].Popen is Kept
    assert names["time"].monotonic is time.monotonic


def test_a_piece_that_is_not_there_yet_is_asked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defaults = pull_objects.__kwdefaults__
    assert defaults is not None
    for name, value in PIECE.items():
        monkeypatch.setitem(defaults, name, value)
    asked: list[float] = []

    def pull(name: str) -> bytes:
        asked.append(time.monotonic())
        if len(asked) < 3:
            raise ObjectUnavailableError(name)
        return b"piece"

    assert pull_objects(["a"], pull) == {"a": b"piece"}
    assert asked[-1] - asked[0] < 1.0


def answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://centre")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


def test_a_heartbeat_outlives_whatever_the_centre_answers() -> None:
    said: list[Exception] = [answer(500), httpx.ReadTimeout("late")]

    def beat() -> bool:
        if said:
            raise said.pop(0)
        return True

    sender = HeartbeatSender(lasting(beat))
    sender._retry_invoker.wait_function = lambda seconds: None
    sender.start()
    end = time.monotonic() + 10.0
    while said and time.monotonic() < end:
        time.sleep(0.01)
    assert not said
    assert sender.is_running
    sender.stop()


def test_a_node_that_the_centre_does_not_know_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))

    def beat() -> bool:
        raise RuntimeError("The SuperLink does not recognize this SuperNode.")

    assert not lasting(beat)()
    assert sent == [(os.getpid(), signal.SIGINT)]
