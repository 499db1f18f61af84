from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.config import FederationConfig, UpdateConfig
from common.forms import Turn, form_of
from common.orders import Kind, Order, Outcome, Reply
from common.update import Schema
from server.admission import Rejected, admit, norm_of

Good = tuple[Order, Reply, Schema, FederationConfig]


def check(good: Good, reply: Reply, **changes: Any) -> None:
    order, _, schema, config = good
    admit(reply, order=order, schema=schema, config=config, **changes)


def with_value(reply: Reply, value: float) -> bytes:
    assert reply.payload is not None
    vector = np.frombuffer(reply.payload, np.float32).copy()
    vector[3] = value
    return vector.tobytes()


def test_a_sound_reply_is_admitted(good: Good) -> None:
    check(good, good[1])


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("stale", {"round": 2}),
        ("stale", {"run": "other"}),
        ("stale", {"release": "0" * 64}),
        ("stranger", {"plant": "yew"}),
        ("stranger", {"plant": ["ash"]}),
        ("update", {"payload": None}),
        ("schema", {"schema": "0" * 64}),
        ("schema", {"schema": ""}),
        ("schema", {"schema": 7}),
        ("form", {"payload": bytes(4)}),
        ("form", {"payload": b""}),
        ("form", {"payload": bytes(4 * 131 + 1)}),
        ("update", {"payload": np.zeros(131, np.float32)}),
        ("update", {"payload": [0.0] * 131}),
        ("weight", {"weight": 0}),
        ("weight", {"weight": -3}),
        ("weight", {"weight": 1.5}),
        ("weight", {"weight": float("nan")}),
        ("weight", {"weight": True}),
        ("scores", {"scores": {"incoming": {"loss": float("nan")}}}),
        ("scores", {"scores": {"incoming": {"loss": float("inf")}}}),
        ("scores", {"scores": {"incoming": {"loss": 10**400}}}),
        ("scores", {"scores": {"incoming": {"loss": "low"}}}),
        ("scores", {"scores": {"incoming": 0.5}}),
        ("scores", {"scores": ["incoming"]}),
        ("scores", {"seconds": {"train": -1.0}}),
        ("scores", {"seconds": None}),
        ("head", {"notes": {"loss": float("nan")}}),
        ("head", {"notes": {"what": b"bytes"}}),
        ("head", {"notes": ["a"]}),
        ("head", {"notes": {"long": "x" * 100_000}}),
        ("head", {"reason": 3}),
        ("update", {"outcome": Outcome.FAILED}),
    ],
)
def test_what_is_refused_and_why(good: Good, code: str, change: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as caught:
        check(good, replace(good[1], **change))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(good: Good, value: float) -> None:
    with pytest.raises(Rejected) as caught:
        check(good, replace(good[1], payload=with_value(good[1], value)))
    assert caught.value.code == "finite"


def test_the_norm_has_a_limit_that_is_reached(good: Good) -> None:
    limit = good[3].server.max_update_norm
    vector = np.zeros(good[2].size, np.float32)
    vector[0] = limit
    check(good, replace(good[1], payload=vector.tobytes()))
    vector[0] = np.nextafter(np.float32(limit), np.float32(np.inf))
    with pytest.raises(Rejected, match="norm must be at most 100"):
        check(good, replace(good[1], payload=vector.tobytes()))


def test_a_plant_answers_once(good: Good) -> None:
    with pytest.raises(Rejected) as caught:
        check(good, good[1], answered={"ash"})
    assert caught.value.code == "twice"


def test_a_plant_may_decline_or_fail_without_an_update(good: Good) -> None:
    for outcome in (Outcome.DECLINED, Outcome.FAILED):
        check(good, replace(good[1], outcome=outcome, reason="hours", payload=None, weight=0))


def test_a_reply_to_adopt_brings_no_update(good: Good) -> None:
    order, reply, schema, config = good
    order = replace(order, kind=Kind.ADOPT)
    admit(replace(reply, payload=None), order=order, schema=schema, config=config)
    with pytest.raises(Rejected, match="must bring no update"):
        admit(reply, order=order, schema=schema, config=config)


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_the_norm_bounds_every_value(vector: Any) -> None:
    """What the mean relies on: a vector within the norm has no value beyond it."""
    norm = norm_of(vector)
    if np.isfinite(vector).all():
        assert norm >= np.abs(vector, dtype=np.float64).max(initial=0)
        assert norm == pytest.approx(float(np.linalg.norm(vector.astype(np.float64))))
    else:
        assert not np.isfinite(norm)


FORMS = ("fp16", "int8", "top_k", "low_rank", "coordinates")


@pytest.mark.parametrize("form", FORMS)
def test_an_update_is_read_in_the_form_of_the_order(good: Good, form: str) -> None:
    order, reply, schema, config = good
    config = config.model_copy(update={"update": UpdateConfig.model_validate({"form": form})})
    made = form_of(config.update, schema=schema, turn=Turn(run=order.run, round=order.round))
    whole = np.frombuffer(reply.payload or b"", np.float32)
    payload = made.encode(whole)
    assert len(payload) < whole.nbytes
    told = replace(reply, payload=payload)
    vector = admit(told, order=order, schema=schema, config=config)
    assert vector is not None
    assert np.array_equal(vector, made.decode(payload))
    with pytest.raises(Rejected) as caught:
        admit(reply, order=order, schema=schema, config=config)
    assert caught.value.code == "form"
    assert f"must have {made.size} bytes in its form, got {whole.nbytes}" in str(caught.value)


def test_what_no_plant_could_have_written_is_refused(good: Good) -> None:
    order, reply, schema, config = good
    update = UpdateConfig(form="top_k", share=0.5)
    config = config.model_copy(update={"update": update})
    size = form_of(update, schema=schema, turn=Turn(run=order.run, round=order.round)).size
    with pytest.raises(Rejected, match="each once and in order") as caught:
        admit(replace(reply, payload=bytes(size)), order=order, schema=schema, config=config)
    assert caught.value.code == "form"


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_infinity_hides_in_no_form(good: Good, form: str) -> None:
    order, reply, schema, config = good
    config = config.model_copy(update={"update": UpdateConfig.model_validate({"form": form})})
    payload = np.full(schema.size, np.inf, np.float16).tobytes()
    if form == "int8":
        payload = np.full(len(schema.shapes), np.nan, np.float32).tobytes() + bytes(schema.size)
    with pytest.raises(Rejected) as caught:
        admit(replace(reply, payload=payload), order=order, schema=schema, config=config)
    assert caught.value.code == "finite"
