"""Orders and replies survive the wire; what is damaged or out of range does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import FederationConfig
from common.errors import AggregationError, UpdateError
from common.orders import Kind, Order, Outcome, Release, Reply
from common.secagg.messages import Call, Said, Setup
from common.secagg.transcript import SessionId
from common.update import Schema
from common.wire import messages
from common.wire.parts import Parts

CONFIG = FederationConfig(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), classes=("good", "bad"))
SCHEMA = Schema({"backbone.a": (2, 3), "backbone.b": ()})

names = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=64)
names = names.filter(lambda text: "/" not in text and "\\" not in text)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def release(value: float = 1.0) -> Release:
    return Release(number=3, schema=SCHEMA, vector=np.full(7, value, np.float32))


def order(of: Release) -> Order:
    return Order(
        run="r",
        round=4,
        kind=Kind.TRAIN,
        release=of.hash,
        cohort=("a", "b"),
        deadline=5.0,
        config=CONFIG,
    )


def reply(**changes: Any) -> Reply:
    fields: dict[str, Any] = {
        "plant": "a",
        "run": "r",
        "round": 4,
        "release": "0" * 64,
        "outcome": Outcome.DONE,
    }
    return Reply(**{**fields, **changes})


def test_an_order_comes_back_as_it_was() -> None:
    sent = release()
    got_order, got = messages.unpack_order(messages.pack_order(order(sent), sent))
    assert got_order == order(sent)
    assert (got.number, got.hash, dict(got.schema.shapes)) == (3, sent.hash, dict(SCHEMA.shapes))
    assert got.vector.tobytes() == sent.vector.tobytes()


@given(
    plant=names,
    reason=st.text(st.characters(codec="utf-8"), max_size=200),
    weight=st.integers(0, 10**9),
    scores=st.dictionaries(names, st.dictionaries(names, numbers, max_size=3), max_size=3),
    payload=st.none() | st.binary(max_size=40),
)
def test_a_reply_comes_back_as_it_was(
    plant: str,
    reason: str,
    weight: int,
    scores: dict[str, dict[str, float]],
    payload: bytes | None,
) -> None:
    sent = reply(plant=plant, reason=reason, weight=weight, scores=scores, payload=payload)
    got = messages.unpack_reply(messages.pack_reply(sent))
    assert got == sent


def test_a_vector_is_not_copied_on_arrival() -> None:
    data = np.arange(5, dtype="<f4").tobytes()
    got = messages.bytes_vector(data)
    assert not got.flags.writeable
    assert not got.flags.owndata


def changed(parts: Parts, *path: str, value: Any) -> Parts:
    """Return the parts with one field of the head replaced."""
    head = json.loads(parts.head)
    place = head
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return Parts(head=json.dumps(head), vector=parts.vector)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), 2, "format"),
        (("reply", "weight"), -1, "weight"),
        (("reply", "weight"), 10**12, "weight"),
        (("reply", "weight"), "90", "weight"),
        (("reply", "plant"), "../etc", "plant"),
        (("reply", "plant"), "", "plant"),
        (("reply", "outcome"), "great", "outcome"),
        (("reply", "release"), "xyz", "release"),
        (("reply", "round"), True, "round"),
        (("reply", "scores"), {"trained": {"loss": float("nan")}}, "scores.trained.loss"),
        (("reply", "scores"), {"trained": {str(i): 0.0 for i in range(1001)}}, "scores.trained"),
        (("reply", "seconds"), {"train": -1.0}, "seconds.train"),
        (("reply", "reason"), "x" * 501, "reason"),
        (("reply", "secret"), 1, "secret"),
    ],
)
def test_a_reply_out_of_range_is_refused_in_one_line(
    path: tuple[str, ...], value: Any, said: str
) -> None:
    with pytest.raises(UpdateError, match=said) as caught:
        messages.unpack_reply(changed(messages.pack_reply(reply()), *path, value=value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("head", ["", "{", "[]", "null", '{"format": 1}', "\x00"])
def test_what_is_no_head_is_refused(head: str) -> None:
    for unpack in (messages.unpack_reply, messages.unpack_order, messages.unpack_hello):
        with pytest.raises(UpdateError):
            unpack(Parts(head=head, vector=b""))  # type: ignore[operator]


@given(st.text(max_size=50))
def test_any_text_is_refused_or_read(text: str) -> None:
    for unpack in (messages.unpack_reply, messages.unpack_order, messages.unpack_hello):
        with pytest.raises(UpdateError):
            unpack(Parts(head=text))  # type: ignore[operator]


def test_limits_come_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "HEAD_LIMIT", 10)
    with pytest.raises(UpdateError, match="at most 10 characters, got 11"):
        messages.unpack_reply(Parts(head="x" * 11))
    monkeypatch.setattr(messages, "VECTOR_LIMIT", 8)
    with pytest.raises(UpdateError, match="at most 8 bytes, got 12"):
        messages.bytes_vector(bytes(12))


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (None, "got none"),
        (bytes(24), "28 bytes, got 24"),
        (bytes(27), "got 27"),
        (bytes(28), "damaged on its way"),
    ],
)
def test_a_release_of_another_size_or_hash_is_refused(vector: bytes | None, said: str) -> None:
    head = messages.pack_order(order(release()), release()).head
    with pytest.raises(UpdateError, match=said):
        messages.unpack_order(Parts(head=head, vector=vector))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("order", "kind"), "erase"),
        (("order", "config", "rounds"), -1),
        (("order", "config", "backdoor"), 1),
        (("order", "deadline"), None),
        (("release", "schema"), "[1]"),
        (("release", "number"), -1),
    ],
)
def test_an_order_out_of_range_is_refused(path: tuple[str, ...], value: Any) -> None:
    sent = messages.pack_order(order(release()), release())
    with pytest.raises(UpdateError) as caught:
        messages.unpack_order(changed(sent, *path, value=value))
    assert "\n" not in str(caught.value)


def test_a_long_reason_is_cut_when_sent() -> None:
    got = messages.unpack_reply(messages.pack_reply(reply(reason="x" * 2000)))
    assert len(got.reason) == messages.REASON_LIMIT


def test_a_plant_says_its_name() -> None:
    assert messages.unpack_hello(messages.pack_hello("neu_steel")) == "neu_steel"
    with pytest.raises(UpdateError):
        messages.unpack_hello(messages.pack_hello("a/b"))


def test_messages_of_a_secure_sum_come_back_as_they_were() -> None:
    sid = SessionId(federation="acme", run="r", round=3, attempt=1)
    call = Call(hello=sid, setup=Setup(sid=sid, adverts=("a", "b")), unmask="u", life=5.0)
    assert messages.unpack_call(messages.pack_call(call)) == call
    said = Said(advert="a", reason="why not")
    assert messages.unpack_said(messages.pack_said(said)) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"confirm": 1}',
        '{"nonsense": ""}',
        '{"hello": {"federation": "acme", "run": "r", "round": "1", "attempt": 0}}',
        '{"life": 0}',
    ],
)
def test_what_is_no_call_is_refused(text: str) -> None:
    with pytest.raises(AggregationError, match="message of a secure sum"):
        Call.from_json(text)
