from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import ServerConfig
from server.aggregation import OPTIMISERS, State

DELTAS = [[0.3, -0.01, 0.0], [0.1, 0.02, 0.5], [-0.4, 0.0, 0.25]]


def settings(name: str, **changes: float) -> ServerConfig:
    return ServerConfig.model_validate({"optimiser": name, "learning_rate": 0.1} | changes)


def by_hand(name: str, config: ServerConfig) -> list[float]:
    """Algorithm 2 of Reddi et al. 2021, and FedAvgM, one number at a time in float64."""
    last = []
    for place in range(3):
        m = big = 0.0
        v = config.tau**2
        step = math.nan
        for delta in (row[place] for row in DELTAS):
            b1, b2, square = config.momentum, config.second_momentum, delta * delta
            m = b1 * m + (1 - b1) * delta
            big = b1 * big + delta
            if name == "fedadagrad":
                v = v + square
            elif name == "fedyogi":
                v = v - (1 - b2) * square * np.sign(v - square)
            else:
                v = b2 * v + (1 - b2) * square
            step = {"mean": delta, "fedavgm": big}.get(name, m / (math.sqrt(v) + config.tau))
        last.append(config.learning_rate * step)
    return last


@pytest.mark.parametrize("name", OPTIMISERS)
def test_three_steps_are_those_of_the_paper(name: str) -> None:
    config = settings(name)
    state: State = {}
    for row in DELTAS:
        state, step = OPTIMISERS[name](state, np.float32(row), config)
    assert step.dtype == np.float32
    assert step.tolist() == pytest.approx(by_hand(name, config), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_they_change_neither_state_nor_delta(name: str) -> None:
    config = settings(name)
    delta = np.float32([1.0, -2.0])
    state, _ = OPTIMISERS[name]({}, delta, config)
    kept = {key: value.copy() for key, value in state.items()}
    first = OPTIMISERS[name](state, delta, config)
    again = OPTIMISERS[name](state, delta, config)
    assert first[1].tobytes() == again[1].tobytes()
    assert delta.tolist() == [1.0, -2.0]
    assert all(np.array_equal(state[key], kept[key]) for key in kept)
    assert all(value.dtype == np.float32 for value in first[0].values())


def test_the_mean_alone_is_fedavg() -> None:
    delta = np.float32([0.1, 7.0])
    state, step = OPTIMISERS["mean"]({}, delta, ServerConfig())
    assert not state
    assert step.tobytes() == delta.tobytes()


@given(st.sampled_from(["fedadagrad", "fedadam", "fedyogi"]), st.floats(-50, 50, width=32))
def test_a_coordinate_that_nobody_moves_stays(name: str, other: Any) -> None:
    state: State = {}
    for _ in range(3):
        state, step = OPTIMISERS[name](state, np.float32([0.0, other]), settings(name))
        assert step[0] == 0
        assert np.isfinite(step).all()
        assert (state["second"] >= 0).all()
