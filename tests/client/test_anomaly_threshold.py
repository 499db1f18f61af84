from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.anomaly.threshold import Threshold, calibrate, fewest, rank
from common.errors import DataError


@given(parts=st.integers(1, 500), budget=st.floats(0.005, 0.6))
def test_the_rank_keeps_the_budget_and_no_lower_one_does(parts: int, budget: float) -> None:
    if parts < fewest(budget):
        assert rank(parts, budget=budget) > parts
        return
    k = rank(parts, budget=budget)
    assert 1 <= k <= parts
    assert (parts + 1 - k) / (parts + 1) <= budget + 1e-6
    assert (parts + 2 - k) / (parts + 1) > budget - 1e-6


@pytest.mark.parametrize(("budget", "least"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1)])
def test_fewest(budget: float, least: int) -> None:
    assert fewest(budget) == least
    calibrate(np.arange(least, dtype=float), budget=budget)
    with pytest.raises(DataError, match=f"at least {least} .* got {least - 1}"):
        calibrate(np.arange(least - 1, dtype=float), budget=budget)


def test_good_parts_to_come_are_rejected_as_promised() -> None:
    """Any distribution: exponential scores, 39 parts, 5 %."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(4000):
        line = calibrate(rng.exponential(size=39), budget=0.05)
        rates.append(np.exp(-line.value))  # the true rate of rejection
    assert np.mean(rates) == pytest.approx(line.expected_rate, abs=0.003)
    assert line.expected_rate == 0.05
    assert np.mean(np.array(rates) <= line.highest_rate) == pytest.approx(0.95, abs=0.015)


def test_more_parts_bring_the_two_rates_together() -> None:
    few = Threshold(value=0.0, parts=19, budget=0.05)
    many = Threshold(value=0.0, parts=1999, budget=0.05)
    assert few.highest_rate > 0.13
    assert many.highest_rate < 0.06
