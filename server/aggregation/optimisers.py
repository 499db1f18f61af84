"""Server optimisers: what turns the mean update of a round into the step to the next release.

Each is a pure function ``(state, delta, config) -> (state, step)``; the state is stored beside
the release it led to, so that a resumed run goes on exactly.

FedAdagrad, FedAdam and FedYogi are algorithm 2 of Reddi et al. 2021, "Adaptive Federated
Optimization", https://arxiv.org/abs/2003.00295, which has no bias correction and starts the
second moment at tau**2. FedAvgM is Hsu et al. 2019, https://arxiv.org/abs/1909.06335.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from common.config import ServerConfig
from common.update import Vector

#: Moments by name, each float32 of the update's shape; empty before the first step.
State: TypeAlias = Mapping[str, Vector]
Optimiser: TypeAlias = Callable[[State, Vector, ServerConfig], tuple[State, Vector]]


def plain(state: State, delta: Vector, config: ServerConfig) -> tuple[State, Vector]:
    """Step by the mean itself, times the learning rate (FedAvg where that is 1)."""
    return state, delta * np.float32(config.learning_rate)


def fedavgm(state: State, delta: Vector, config: ServerConfig) -> tuple[State, Vector]:
    """Step by a running sum of means that forgets: ``m = momentum * m + delta``."""
    momentum = delta.copy()
    if state:
        momentum += np.float32(config.momentum) * state["momentum"]
    return {"momentum": momentum}, momentum * np.float32(config.learning_rate)


def fedadagrad(state: State, delta: Vector, config: ServerConfig) -> tuple[State, Vector]:
    """Adapt each coordinate by the sum of its squared means."""
    return _adaptive(state, delta, config, lambda second, square: second + square)


def fedadam(state: State, delta: Vector, config: ServerConfig) -> tuple[State, Vector]:
    """Adapt each coordinate by a running mean of its squared means."""
    keep, move = np.float32(config.second_momentum), np.float32(1 - config.second_momentum)
    return _adaptive(state, delta, config, lambda second, square: keep * second + move * square)


def fedyogi(state: State, delta: Vector, config: ServerConfig) -> tuple[State, Vector]:
    """As FedAdam, but the second moment moves by at most the new square: it forgets slowly."""
    move = np.float32(1 - config.second_momentum)

    def second_moment(second: Vector, square: Vector) -> Vector:
        moved: Vector = second - move * square * np.sign(second - square)
        return moved

    return _adaptive(state, delta, config, second_moment)


def _adaptive(
    state: State,
    delta: Vector,
    config: ServerConfig,
    second_moment: Callable[[Vector, Vector], Vector],
) -> tuple[State, Vector]:
    tau = np.float32(config.tau)
    if not state:
        state = {"first": np.zeros_like(delta), "second": np.full_like(delta, tau * tau)}
    keep, move = np.float32(config.momentum), np.float32(1 - config.momentum)
    first = keep * state["first"] + move * delta
    second = second_moment(state["second"], delta * delta)
    step = np.sqrt(second)
    step += tau
    np.divide(first, step, out=step)
    step *= np.float32(config.learning_rate)
    return {"first": first, "second": second}, step
