"""Answers that were given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.desk.outbox import KEPT, Outbox
from common.config import FederationConfig
from common.errors import StateError, UpdateError
from common.orders import Kind, Order, Outcome, Release, Reply
from common.update import Schema

RELEASE = Release(number=0, schema=Schema({"w": (3,)}), vector=np.zeros(3, np.float32))


@pytest.fixture
def order(order_for: Callable[..., Order], small_config: FederationConfig) -> Order:
    return order_for(small_config, RELEASE)


def reply_to(order: Order, value: float | None = 1.0) -> Reply:
    return Reply(
        plant="ash",
        run=order.run,
        round=order.round,
        release=order.release,
        outcome=Outcome.DONE,
        payload=None if value is None else np.full(3, value, np.float32).tobytes(),
        scores={"trained": {"loss": 0.25}},
        seconds={"train": 1.5},
        notes={"adopted": True},
    )


@pytest.mark.parametrize("value", [None, 2.0])
def test_the_same_order_gets_the_same_answer(tmp_path: Path, order: Order, value: float) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.find(order) is None
    outbox.put(order, reply_to(order, value))
    found = Outbox(tmp_path).find(replace(order, deadline=1.0))
    assert found is not None
    assert found.head() == reply_to(order, value).head()
    assert found == reply_to(order, value)


def test_another_order_for_the_round_is_refused(
    tmp_path: Path, order: Order, changed: Callable[..., FederationConfig]
) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(order, reply_to(order))
    for other in (
        replace(order, release="0" * 64),
        replace(order, cohort=("ash", "elm")),
        replace(order, config=changed(order.config, method="fedbn")),
        replace(order, config=changed(order.config, training={"learning_rate": 0.5})),
    ):
        with pytest.raises(UpdateError, match="was answered for another order"):
            outbox.find(other)
    assert outbox.find(replace(order, config=changed(order.config, rounds=99))) is not None
    assert outbox.find(replace(order, round=2)) is None
    assert outbox.find(replace(order, kind=Kind.ADOPT)) is None


def test_an_update_whose_noise_was_sized_for_other_settings_is_not_sent(
    tmp_path: Path, order: Order, changed: Callable[..., FederationConfig]
) -> None:
    outbox = Outbox(tmp_path)
    order = replace(order, config=changed(order.config, min_plants=9, privacy={"unit": "plant"}))
    outbox.put(order, reply_to(order))
    assert outbox.find(replace(order, config=changed(order.config, rounds=99))) is not None
    for other in ({"min_plants": 3}, {"server": {"max_weight": 7}}):
        with pytest.raises(UpdateError, match="was answered for another order"):
            outbox.find(replace(order, config=changed(order.config, **other)))


def test_the_last_answers_are_kept(tmp_path: Path, order: Order) -> None:
    outbox = Outbox(tmp_path)
    orders = [replace(order, round=number) for number in range(1, 6)]
    for one in orders:
        outbox.put(one, reply_to(one))
    kept = [one.round for one in orders if outbox.find(one) is not None]
    assert kept == [1, 2, 3, 4, 5][-KEPT:]


def test_a_name_from_outside_stays_in_the_folder(tmp_path: Path, order: Order) -> None:
    outbox = Outbox(tmp_path / "plant" / "outbox")
    hostile = replace(order, run="../../escaped")
    outbox.put(hostile, reply_to(hostile))
    assert outbox.find(hostile) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["plant"]
    assert len(list((tmp_path / "plant" / "outbox").iterdir())) == 1


def test_damage_is_one_clear_line(tmp_path: Path, order: Order) -> None:
    from safetensors.numpy import save_file

    outbox = Outbox(tmp_path)
    outbox.put(order, reply_to(order))
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"torn")
    with pytest.raises(StateError, match="is damaged"):
        outbox.find(order)
    save_file({"update": np.zeros(1, np.float32)}, path)
    with pytest.raises(StateError, match="is damaged"):
        outbox.find(order)
