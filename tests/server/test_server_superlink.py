"""Replies are handed out whole, on Flower's own state in SQLite."""

from __future__ import annotations

import asyncio
import errno
from datetime import timedelta

import pytest
from fastapi import Request, Response
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.date import now
from flwr.supercore.error import http_error_translator
from flwr.superlink import config_loader
from sqlalchemy.exc import OperationalError

from server.engine import superlink
from tests.server.line import Line

# Flower's migrations, under this alembic.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


def test_a_reply_is_handed_out_when_all_of_it_is_there(line: Line) -> None:
    upload = line.begin(0)
    for _ in range(line.pieces):
        assert line.take() == []
        upload()
    assert line.take() == [0]
    assert line.take() == []  # once


def test_one_that_is_on_its_way_does_not_hold_up_the_other(line: Line) -> None:
    line.begin(0)()
    upload = line.begin(1)
    for _ in range(line.pieces):
        upload()
    assert line.take() == [1]


def test_one_whose_upload_stands_still_is_handed_out_and_then_an_error(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.begin(0)()
    later = now() + timedelta(seconds=200)
    for module in (superlink, sql_corestate):
        monkeypatch.setattr(module, "now", lambda: later)
    assert line.take() == [0]
    reply = line.state.object_store
    missing = [name for name in reply.store if reply.get(name) == b""]  # type: ignore[attr-defined]
    assert missing
    assert line.state.get_object(line.run, missing[0]) is None  # what the ServerApp is told


def test_a_node_that_asks_for_a_message_has_left_its_upload(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = superlink.leaving(SqlLinkState.get_message_ins)
    monkeypatch.setattr(SqlLinkState, superlink.GIVE, give)
    line.begin(0)()
    upload = line.begin(1)
    upload()
    assert line.take() == []
    line.state.get_message_ins(line.nodes[0], 1)
    assert line.take() == [0]  # in part: the ServerApp finds a piece missing, and asks again
    for _ in range(line.pieces - 1):
        upload()
    assert line.take() == [1]
    line.state.get_message_ins(line.nodes[1], 1)  # nothing left of one that is all there
    assert line.take() == []


def test_what_is_replaced_is_there() -> None:
    assert callable(vars(SqlLinkState)[superlink.TAKE])
    assert "ObjectStoreFactory" in vars(config_loader)


def test_a_piece_that_comes_again_is_no_failure(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqlLinkState, superlink.KEEP, superlink.repeated(SqlLinkState.store_object))
    upload = line.begin(0)
    for _ in range(line.pieces):
        upload()
        assert line.state.store_object(*line.last)
    run, session, _, content = line.last
    assert not line.state.store_object(run, session, "0" * 64, content)
    assert line.take() == [0]


def test_a_message_that_a_node_has_not_confirmed_goes_out_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqlLinkState, superlink.GIVE, superlink.again(SqlLinkState.get_message_ins))

    def given(node: int) -> list[str]:
        return [m.metadata.message_id for m in line.state.get_message_ins(node, 1)]

    first, second = (message.metadata.message_id for message in line.messages)
    assert given(line.nodes[0]) == [first]
    assert given(line.nodes[1]) == [second]
    assert given(line.nodes[0]) == [first]  # the answer before was lost
    line.state.object_store.delete(first)  # as Flower does when it is confirmed
    assert given(line.nodes[0]) == []
    times = 0
    while given(line.nodes[1]):
        times += 1
        assert times <= superlink.TIMES
    assert times == superlink.TIMES


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("INSERT", {}, Exception("database or disk is full")), 503),
        (OSError(errno.ENOSPC, "No space left on device"), 503),
        (RuntimeError("something else"), 500),
    ],
)
def test_a_full_disk_asks_for_patience_and_an_error_does_not(error: Exception, status: int) -> None:
    request = Request({"type": "http", "path": "/v1/fleet/pull-messages", "headers": []})

    async def call(request: Request) -> Response:
        raise error

    async def answered() -> Response:
        return await superlink.later(http_error_translator)(request, call)

    assert asyncio.run(answered()).status_code == status
