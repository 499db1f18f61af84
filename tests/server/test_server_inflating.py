"""What a plant's pieces make is counted before it is made; what comes out is a message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid

from server.fleet import inflating
from server.fleet.allowance import ROOM
from server.fleet.grid import GridFleet
from server.fleet.inflating import UNREADABLE, at_most, careful
from tests.server.nodes import task_identity

SIZE = 12 * 2**20  #: bytes: three of Flower's pieces


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in task_identity().items():
        monkeypatch.setattr(TaskIdentity, key, value)


def message(data: bytes = bytes(SIZE), *, head: str = "{}") -> tuple[str, dict[str, bytes]]:
    """Return a message's id and pieces; those of zeros are one piece, named three times."""
    content = RecordDict({"head": ConfigRecord({"json": head})})
    content["vector"] = ArrayRecord({"flat": Array("uint8", (len(data),), "raw", data)})
    made = Message(content, 7, "train", ttl=100.0)
    return made.object_id, {
        name: piece.deflate() for name, piece in get_all_nested_objects(made).items()
    }


def inflated(name: str, pieces: dict[str, bytes], *, limit: int = SIZE + ROOM) -> Message:
    with at_most(limit):
        found = careful(inflate_object_from_contents)(name, pieces)
    assert isinstance(found, Message)
    return found


def test_a_message_comes_out_as_it_went_in() -> None:
    for data in (bytes(SIZE), np.arange(SIZE // 4, dtype="<u4").tobytes()):
        found = inflated(*message(data))
        assert found.content.array_records["vector"]["flat"].data == data
    assert len(message()[1]) < len(message(np.arange(SIZE // 4, dtype="<u4").tobytes())[1])


def test_a_piece_that_is_named_a_thousand_times_is_not_unfolded() -> None:
    name, pieces = message()
    (array,) = [key for key, piece in pieces.items() if piece.startswith(b"Array ")]
    head, _, body = pieces[array].partition(b"\x00")
    fields = json.loads(body) | {"arraychunk_ids": [0] * 1_000_000}  # 5 TB
    body = json.dumps(fields).encode()
    pieces[array] = b" ".join([*head.split(b" ")[:-1], str(len(body)).encode()]) + b"\x00" + body
    found = inflated(name, pieces)
    assert found.error.code == UNREADABLE
    assert f"at most {SIZE + ROOM} bytes" in (found.error.reason or "")


def test_a_head_as_large_as_a_vector_is_refused() -> None:
    assert inflated(*message(head="x" * (ROOM // 2))).has_content()
    found = inflated(*message(b"", head="x" * (ROOM + 1)))
    assert "beside the vector" in (found.error.reason or "")


@pytest.mark.parametrize("change", ["no message", "lost piece", "garbage", "no header", "depth"])
def test_whatever_does_not_parse_is_an_error(change: str) -> None:
    name, pieces = message()
    record = next(key for key, piece in pieces.items() if piece.startswith(b"ConfigRecord"))
    if change == "no message":
        name = record
    elif change == "lost piece":
        del pieces[record]
    elif change == "garbage":
        pieces[record] = pieces[record][:-2] + b"\xff\xff"
    elif change == "no header":
        pieces[record] = b"?"
    else:
        array = next(key for key, piece in pieces.items() if piece.startswith(b"Array "))
        head = pieces[array].partition(b"\x00")[0]
        pieces[array] = head + b"\x00" + b"[" * 100_000
    assert inflated(name, pieces).error.code == UNREADABLE


def test_a_fleet_reads_with_care(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = vars(http_grid)
    monkeypatch.setitem(names, inflating.INFLATE, inflate_object_from_contents)
    for _ in range(2):
        GridFleet(object())  # type: ignore[arg-type]
    found = names[inflating.INFLATE]("0", {})
    assert found.error.code == UNREADABLE
