"""What the plant refuses, and for how long it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.desk.policy import Situation, allow, objections, pause, seconds_allowed, within
from common.config import FederationConfig, PolicySection
from common.errors import PolicyError
from common.orders import Kind, Order, Release
from common.update import Schema

RELEASE = Release(number=0, schema=Schema({"w": (3,)}), vector=np.zeros(3, np.float32))
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=1)))
FINE = Situation(now=NOON, rounds=0, disk=10**12, needed=10**6)


@pytest.fixture
def order(order_for: Callable[..., Order], small_config: FederationConfig) -> Order:
    return order_for(small_config, RELEASE)


def test_the_default_lets_orders_pass(order: Order) -> None:
    allow(order, PolicySection(), situation=FINE)


@pytest.mark.parametrize(
    ("policy", "situation", "said"),
    [
        ({"minimum_cohort": 4}, {}, "cohort must be at least 4 plants, got 3"),
        ({"methods": ("fedbn",)}, {}, "method must be one of fedbn, got fedper"),
        ({"backbones": ("resnet18",)}, {}, "backbone must be one of resnet18, got shufflenet"),
        ({"protection": ("validate", "secagg")}, {}, "protection must include secagg, got valid"),
        ({"hours": "22:00-06:00"}, {}, "time must be within 22:00-06:00 at the plant, got 12:00"),
        ({"rounds_per_day": 5}, {"rounds": 5}, "rounds in 24 hours must be at most 5, got 5"),
        ({"disk_free": 2.0}, {"disk": 3 * 10**9, "needed": 1_500_000_000}, "got 1.5 GB"),
    ],
)
def test_each_rule_objects(
    order: Order, policy: dict[str, object], situation: dict[str, int], said: str
) -> None:
    now = replace(FINE, **situation)
    (objection,) = objections(order, PolicySection(**policy), situation=now)
    assert said in objection
    with pytest.raises(PolicyError):
        allow(order, PolicySection(**policy), situation=now)


def test_all_objections_are_told_at_once(order: Order) -> None:
    policy = PolicySection(minimum_cohort=9, methods=("fedbn",), hours="01:00-02:00")
    with pytest.raises(PolicyError, match=r"cohort .*; method .*; time "):
        allow(order, policy, situation=FINE)


def test_a_plant_that_is_named_twice_counts_once(order: Order) -> None:
    twice = replace(order, cohort=("ash", "ash"))
    assert objections(twice, PolicySection(), situation=FINE)


def test_what_just_fits_passes(order: Order) -> None:
    policy = PolicySection(
        minimum_cohort=3,
        methods=("fedper",),
        protection=("validate",),
        rounds_per_day=5,
        hours="12:00-12:01",
    )
    allow(order, policy, situation=replace(FINE, rounds=4))


def test_adoption_is_not_a_round(order: Order) -> None:
    adopt = replace(order, kind=Kind.ADOPT)
    allow(adopt, PolicySection(rounds_per_day=1), situation=replace(FINE, rounds=9))


@pytest.mark.parametrize(
    ("hours", "clock", "inside"),
    [
        ("", "03:00", True),
        ("22:00-06:00", "21:59", False),
        ("22:00-06:00", "22:00", True),
        ("22:00-06:00", "00:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("08:00-17:30", "17:29", True),
        ("08:00-17:30", "17:30", False),
        ("06:00-06:00", "05:00", True),
    ],
)
def test_hours_may_pass_midnight(hours: str, clock: str, inside: bool) -> None:
    hour, minute = map(int, clock.split(":"))
    assert within(hours, now=NOON.replace(hour=hour, minute=minute)) is inside


def test_training_ends_with_what_comes_first(order: Order) -> None:
    order = replace(order, deadline=7200.0)
    assert seconds_allowed(order, PolicySection(), now=NOON) == 7200
    assert seconds_allowed(order, PolicySection(longest_round=60.0), now=NOON) == 60
    assert seconds_allowed(order, PolicySection(hours="08:00-12:30"), now=NOON) == 1800
    late = NOON.replace(hour=23, minute=30)
    assert seconds_allowed(order, PolicySection(hours="22:00-00:30"), now=late) == 3600
    assert seconds_allowed(order, PolicySection(hours="12:00-12:00"), now=NOON) == 7200


@given(
    done=st.integers(0, 10**10),
    elapsed=st.floats(0, 1e5),
    bandwidth=st.floats(0.01, 1e4),
)
def test_with_its_pauses_a_transfer_keeps_to_the_bandwidth(
    done: int, elapsed: float, bandwidth: float
) -> None:
    wait = pause(done, elapsed=elapsed, bandwidth=bandwidth)
    assert wait >= 0
    assert done <= (elapsed + wait) * bandwidth * 1e6 * (1 + 1e-9) + 1e-3
    assert pause(done, elapsed=elapsed + wait, bandwidth=bandwidth) < 1e-6
    assert pause(done, elapsed=elapsed, bandwidth=None) == 0
