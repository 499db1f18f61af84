"""A plant's privacy budget: charged before training, kept over restarts, refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest

from client.desk.ledger import Ledger
from client.desk.spending import Spending
from common.config import FederationConfig, PolicySection
from common.errors import PolicyError
from common.orders import Kind, Order, Release
from common.privacy import Cost, cost_of, epsilon

FREE = PolicySection()


@pytest.fixture
def order_of(
    small_config: FederationConfig,
    release_of: Callable[..., Release],
    order_for: Callable[..., Order],
    changed: Callable[..., FederationConfig],
) -> Callable[..., Order]:
    """Return ``order_of(round, unit="record", **order)``."""
    release = release_of(small_config)

    def make(number: int, *, unit: str = "record", noise: float = 1.0, **fields: Any) -> Order:
        privacy = {"unit": unit, "noise_multiplier": noise, "steps": 10, "sample_rate": 0.2}
        config = changed(small_config, privacy=privacy)
        return order_for(config, release, round=number, **fields)

    return make


def one_round(order: Order) -> float:
    cost = cost_of(order.config)
    assert cost is not None
    return epsilon([cost], delta=1e-5).value


def test_rounds_add_up_and_survive_a_restart(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    assert Spending(tmp_path).spent("record", delta=1e-5).value == 0.0
    seen = [0.0]
    for number in (1, 2, 3):
        Spending(tmp_path).charge(order_of(number), FREE)
        seen.append(Spending(tmp_path).spent("record", delta=1e-5).value)
    assert seen == sorted(set(seen))
    cost = Cost(noise_multiplier=1.0, sample_rate=0.2, steps=30)
    assert seen[-1] == epsilon([cost], delta=1e-5).value
    assert [charge.round for charge in Spending(tmp_path).charges()] == [1, 2, 3]


def test_an_order_asked_again_after_a_crash_is_charged_once(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    spending, order = Spending(tmp_path), order_of(1)
    spending.charge(order, FREE)
    spending.charge(order, FREE)
    assert len(spending.charges()) == 1


def test_once_it_may_have_been_seen_it_costs_again(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    """The outbox was lost: the same order is trained again, with other noise."""
    spending, order = Spending(tmp_path), order_of(1)
    spending.charge(order, FREE)
    spending.sending(order)
    spending.charge(order, FREE)
    assert [charge.sent for charge in spending.charges()] == [True, False]


def test_the_round_that_would_exceed_the_budget_is_refused(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    spending = Spending(tmp_path)
    policy = PolicySection(privacy_budget=1.5 * one_round(order_of(1)))
    spending.charge(order_of(1), policy)
    assert "unit record), got 4.98 before and" in spending.objection(order_of(2, noise=0.3), policy)
    assert len(spending.charges()) == 1
    rounds = 1
    while not spending.objection(order_of(rounds + 1), policy):
        rounds += 1
        spending.charge(order_of(rounds), policy)
    assert rounds >= 2
    with pytest.raises(PolicyError, match=r"privacy spent must be at most epsilon .* \(unit rec"):
        spending.charge(order_of(rounds + 1), policy)
    assert len(spending.charges()) == rounds
    assert spending.spent("record", delta=1e-5).value <= policy.privacy_budget  # type: ignore[operator]
    # A quieter question may still fit.
    spending.charge(order_of(50, noise=50.0), policy)


def test_a_budget_refuses_rounds_without_noise(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    with pytest.raises(PolicyError, match=r"privacy\.unit must be record or plant"):
        Spending(tmp_path).charge(order_of(1, unit="none"), PolicySection(privacy_budget=8.0))
    Spending(tmp_path).charge(order_of(1, unit="none"), FREE)
    assert Spending(tmp_path).charges() == []


def test_noise_for_the_plant_counts_by_half_for_its_images(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    """One image may turn a contribution into its opposite: twice the clip apart."""
    spending = Spending(tmp_path)
    spending.charge(order_of(1, unit="plant", noise=3.0), FREE)
    plant = spending.spent("plant", delta=1e-5)
    assert plant == epsilon([Cost(noise_multiplier=3.0)], delta=1e-5)
    record = spending.spent("record", delta=1e-5).value
    assert record == epsilon([Cost(noise_multiplier=1.5)], delta=1e-5).value
    # In closed form (Balle and Wang 2018) of two contributions of the clip's length, and opposite.
    apart = 2 / 3.0
    normal = NormalDist().cdf
    exact = normal(apart / 2 - record / apart) - math.exp(record) * normal(
        -apart / 2 - record / apart
    )
    assert exact == pytest.approx(1e-5, rel=0.02)
    spending.charge(order_of(2), FREE)
    assert spending.spent("plant", delta=1e-5) == plant
    assert spending.spent("record", delta=1e-5).value > record


def test_rounds_for_the_plant_are_counted_against_what_its_images_may_pay(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    spending = Spending(tmp_path)
    policy = PolicySection(privacy_budget=1.01 * one_round(order_of(1)))
    whole = order_of(2, unit="plant", noise=2.0)
    assert spending.objection(whole, policy) == ""
    spending.charge(order_of(1), policy)
    assert "(unit record)" in spending.objection(whole, policy)


def test_a_ledger_of_before_is_read_as_charged_for_one_sum(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    spending, order = Spending(tmp_path), order_of(1, unit="plant")
    spending.charge(order, PolicySection(contributions_per_release=3))
    assert spending.contributions(order) == 3
    assert spending.contributions(order_of(2, unit="plant")) is None
    with Ledger(tmp_path).writing() as database:
        database.execute("ALTER TABLE charges DROP COLUMN contributions")
    assert spending.contributions(order) == 1
    assert len(spending.charges()) == 1


def test_adoption_sends_nothing_and_costs_nothing(
    tmp_path: Path, order_of: Callable[..., Order]
) -> None:
    policy = PolicySection(privacy_budget=1e-3)
    assert Spending(tmp_path).objection(order_of(9, kind=Kind.ADOPT), policy) == ""
    assert Spending(tmp_path).objection(order_of(9), policy) != ""
