"""Rules in a round: which hold against which lies, and what the round refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.combining import RULES, table
from common.config import FederationConfig, ServerConfig
from common.errors import AggregationError, ConfigError
from common.orders import Reply
from common.toml import validate
from common.update import Schema, Vector
from server.aggregation import Mean, rule_for
from server.aggregation.robust import RULES as ROBUST
from server.releases import Releases
from server.state.store import history

ROOT = Path(__file__).resolve().parents[2]
SIZE, PLANTS = 400, 7
SCHEMA = Schema({"backbone.a": (40, 3), "backbone.b": (11,)})  #: as in conftest
Attack = Callable[[Vector, np.random.Generator], Vector]

ATTACKS: dict[str, Attack] = {
    "sign flip": lambda honest, draws: -honest,
    "sign flip, ten times": lambda honest, draws: -10 * honest,
    "scaling": lambda honest, draws: 100 * honest,
    "noise": lambda honest, draws: draws.normal(0, 30, honest.size).astype(np.float32),
    "silence": lambda honest, draws: np.zeros_like(honest),
}


def honest(seed: int, plants: int = PLANTS) -> list[Vector]:
    """Return updates that agree on a direction, each with as much of its own."""
    draws = np.random.default_rng(seed)
    shared = draws.normal(size=SIZE)
    return [(shared + draws.normal(size=SIZE)).astype(np.float32) for _ in range(plants)]


def combined(config: ServerConfig, vectors: list[Vector]) -> Vector:
    rule = rule_for(config, size=SIZE, plants=len(vectors))
    for number, vector in enumerate(vectors):
        rule.add(vector, plant=f"plant {number}", weight=1)
    return rule.result()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "mean"])
def test_a_rule_stays_with_the_honest_plants(rule: str, attack: str) -> None:
    """One liar in seven, who is anywhere among them; the mean of the six others is the truth."""
    config = ServerConfig.model_validate({"rule": rule, "max_update_norm": 1e6})
    for liar in range(3):
        vectors = honest(liar)
        truth = np.mean([v for n, v in enumerate(vectors) if n != liar], axis=0)
        vectors[liar] = ATTACKS[attack](vectors[liar], np.random.default_rng(liar))
        away = np.linalg.norm(combined(config, vectors) - truth) / np.linalg.norm(truth)
        # Krum takes one update with all that is its own, which is as long as what is shared.
        assert away < (1.1 if rule == "krum" else 0.6)


@pytest.mark.parametrize("attack", ["sign flip, ten times", "scaling", "noise"])
def test_the_mean_does_not(attack: str) -> None:
    vectors = honest(0)
    truth = np.mean(vectors[1:], axis=0)
    vectors[0] = ATTACKS[attack](vectors[0], np.random.default_rng(0))
    config = ServerConfig(max_update_norm=1e6)
    away = np.linalg.norm(combined(config, vectors) - truth) / np.linalg.norm(truth)
    assert away > 1.4


@pytest.mark.parametrize("rule", RULES)
def test_who_comes_first_changes_no_bit(rule: str) -> None:
    config = ServerConfig.model_validate({"rule": rule, "faulty": 0, "max_update_norm": 1e3})
    vectors = dict(zip("abcd", honest(1, plants=4), strict=True))
    found = set()
    for order in list(permutations(vectors))[::5]:
        rule_ = rule_for(config, size=SIZE, plants=4)
        for plant in order:
            rule_.add(vectors[plant], plant=plant, weight=ord(plant))
        found.add(rule_.result().tobytes())
    assert len(found) == 1


def test_a_radius_bounds_what_one_plant_does_and_streams() -> None:
    config = ServerConfig(rule="norm_bound", radius=2.0, max_update_norm=1e6)
    rule = rule_for(config, size=SIZE, plants=2)
    long = np.full(SIZE, 1000, np.float32)
    assert rule.add(long, plant="liar", weight=5) == 5
    assert np.linalg.norm(rule.result()) == pytest.approx(2.0, rel=1e-5)
    assert rule.scale is not None
    short = np.full(SIZE, 0.01, np.float32)
    alone = rule_for(config, size=SIZE, plants=2)
    alone.add(short, plant="a", weight=1)
    assert alone.result() == pytest.approx(short, abs=1e-9)


def test_a_radius_is_used_by_centred_clipping() -> None:
    vectors = honest(3)
    wide, narrow = (
        combined(ServerConfig(rule="centred_clipping", radius=radius), vectors)
        for radius in (1e6, 1e-9)
    )
    assert wide == pytest.approx(np.mean(vectors, axis=0), abs=1e-4)
    assert narrow == pytest.approx(np.median(vectors, axis=0), abs=1e-4)


def test_the_mean_is_the_exact_one() -> None:
    vectors = honest(2)
    mean = Mean(SIZE, plants=7, max_weight=1000, bound=100.0)
    rule = rule_for(ServerConfig(max_weight=1000), size=SIZE, plants=7)
    for number, vector in enumerate(vectors):
        mean.add(vector, weight=number + 1)
        rule.add(vector, plant=str(number), weight=number + 1)
    assert rule.result().tobytes() == mean.result().tobytes()
    assert rule.scale == mean.scale


@pytest.mark.parametrize("rule", [*ROBUST, "mean"])
def test_no_update_gives_no_result(rule: str) -> None:
    made = rule_for(ServerConfig.model_validate({"rule": rule}), size=SIZE, plants=4)
    with pytest.raises(AggregationError, match="must have at least one update"):
        made.result()


@pytest.mark.parametrize(
    ("rule", "faulty", "fewest"),
    [("krum", 1, 5), ("bulyan", 1, 7), ("median", 2, 5), ("norm_bound", 3, 7)],
)
def test_a_federation_too_small_for_its_rule_is_refused(
    rule: str, faulty: int, fewest: int
) -> None:
    values = {"server": {"rule": rule, "faulty": faulty}, "min_plants": fewest - 1}
    with pytest.raises(ConfigError) as caught:
        validate(FederationConfig, values, name="federation.toml")
    said = str(caught.value)
    assert f"min_plants must be at least {fewest} ({RULES[rule].formula})" in said
    assert f"got {fewest - 1}" in said
    validate(FederationConfig, {**values, "min_plants": fewest}, name="federation.toml")


def test_a_round_holds_against_a_liar_and_counts_plants_alike(centre: Any) -> None:
    centre.plants.names = ("ash", "elm", "fir", "oak", "yew")
    centre.configure(rounds=1, min_plants=5, server={"rule": "krum"})

    def lie(reply: Reply) -> list[Reply]:
        if reply.plant != "elm" or reply.payload is None:
            return [reply]
        vector = -5 * np.frombuffer(reply.payload, np.float32)
        return [replace(reply, payload=vector.astype("<f4").tobytes(), weight=10**6)]

    centre.plants.spoil = lie
    last = centre.open().run()
    released = last.schema.subset(frozenset({"backbone.a", "backbone.b"}))
    values = last.schema.unflatten(last.vector)
    before = centre.source.schema.unflatten(centre.source.vector)
    step = released.flatten({name: values[name] - before[name] for name in released.shapes})
    sent = {
        plant: np.frombuffer(reply.payload, np.float32)
        for (plant, _), (_, reply) in centre.plants.outbox.items()
        if reply.payload is not None
    }
    nearest = min(sent, key=lambda plant: float(np.linalg.norm(sent[plant] - step)))
    assert nearest != "elm"
    assert step == pytest.approx(sent[nearest], abs=1e-6)
    manifest = Releases(centre.home).manifest(1)
    assert manifest.replies == dict.fromkeys(centre.plants.names, 1)
    assert manifest.scale is None


def test_a_round_with_too_few_sound_replies_is_skipped(centre: Any) -> None:
    centre.configure(rounds=1, min_plants=3, server={"rule": "median"})
    centre.plants.spoil = lambda reply: [
        replace(reply, schema="0" * 64) if reply.plant == "elm" and reply.payload else reply
    ]
    last = centre.open().run()
    assert last.number == 0
    row = history(centre.home)[0]
    assert (row["outcome"], row["reason"]) == ("skipped", "2 of 3 replies counted")


def test_the_page_shows_the_table() -> None:
    assert table() in (ROOT / "docs" / "robust.md").read_text()


def test_bytes_are_counted_as_they_are_sent(centre: Any) -> None:
    centre.configure(rounds=1, update={"form": "int8"})
    last = centre.open().run()
    assert last.number == 1
    row = history(centre.home)[0]["replies"]["ash"]
    head = len(centre.plants.outbox[("ash", "run-00001-train")][1].head())
    assert row["bytes_up"] == head + 131 + 4 * 2
