"""The seam of the rules: how the updates of a round become one vector, as they arrive.

`Streamed` counts each update into the exact mean and forgets it. `Held` keeps them, sorted by plant
whoever came first, until a rule that compares them can be applied (`server.aggregation.robust`).
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import numpy as np

from common.combining import RULES as NEEDS
from common.config import ServerConfig
from common.errors import AggregationError
from common.update import Vector
from server.aggregation import robust
from server.aggregation.mean import Mean


class Rule(Protocol):
    """Combines the updates of one round.

    Attributes
    ----------
    scale : fixed-point units in 1.0 of the sum behind the result; None where there is no sum.
    """

    @property
    def scale(self) -> int | None: ...

    def add(self, vector: Vector, *, plant: str, weight: int) -> int:
        """Count an admitted update in; return the weight that it counts for.

        Raises
        ------
        UpdateError
            If it cannot be counted; what was counted before stays as it was.
        """
        ...

    def result(self) -> Vector:
        """Return what the updates come to, float32 of their shape.

        Raises
        ------
        AggregationError
            If there are fewer than the rule needs.
        """
        ...


def rule_for(config: ServerConfig, *, size: int, plants: int) -> Rule:
    """Return the rule that the configuration names.

    Parameters
    ----------
    size : values of an update.
    plants : how many may come, at most.

    Raises
    ------
    AggregationError
        If the numbers leave no sound sum.
    """
    if config.rule == "mean" or (config.rule == "norm_bound" and config.radius is not None):
        mean = Mean(size, plants=plants, max_weight=config.max_weight, bound=config.max_update_norm)
        return Streamed(mean, radius=config.radius if config.rule == "norm_bound" else None)
    rule = robust.RULES[config.rule]
    if config.rule == "centred_clipping":
        rule = partial(robust.centred_clipping, radius=config.radius)
    return Held(rule, faulty=config.faulty)


class Streamed:
    """The exact weighted mean; with a radius, of updates that are shortened to it."""

    def __init__(self, mean: Mean, *, radius: float | None = None) -> None:
        self._mean, self._radius = mean, radius

    @property
    def scale(self) -> int:
        return self._mean.scale

    def add(self, vector: Vector, *, plant: str, weight: int) -> int:
        if self._radius is not None and (norm := robust.norm(vector)) > self._radius:
            vector = vector * np.float32(self._radius / norm)
        return self._mean.add(vector, weight=weight)

    def result(self) -> Vector:
        return self._mean.result()


class Held:
    """A rule over all updates at once; each counts for one, because a liar would say more."""

    scale = None

    def __init__(self, rule: robust.Rule, *, faulty: int) -> None:
        self._rule, self._faulty = rule, faulty
        self._vectors: dict[str, Vector] = {}

    def add(self, vector: Vector, *, plant: str, weight: int) -> int:
        self._vectors[plant] = vector
        return 1

    def result(self) -> Vector:
        if not self._vectors:
            raise AggregationError("a rule must have at least one update, got none")
        return self._rule([self._vectors[plant] for plant in sorted(self._vectors)], self._faulty)


def fewest(config: ServerConfig) -> int:
    """Return how many updates the rule needs."""
    return NEEDS[config.rule].fewest(config.faulty)
