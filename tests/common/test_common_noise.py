"""Noise has the distribution that the ledger counts on, and nobody can repeat it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.noise import Noise

KEY = bytes(range(32))
MANY = 200_000


def test_nobody_can_repeat_it() -> None:
    assert not np.array_equal(Noise().uniform(4), Noise().uniform(4))
    assert "key" not in repr(Noise(KEY))
    np.testing.assert_array_equal(Noise(KEY).normal(5, scale=1), Noise(KEY).normal(5, scale=1))


def test_a_stream_does_not_repeat_itself() -> None:
    noise = Noise(KEY)
    assert not np.array_equal(noise.normal(100, scale=1), noise.normal(100, scale=1))


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_normal(scale: float) -> None:
    drawn = Noise(KEY).normal(MANY + 1, scale=scale)
    assert drawn.shape == (MANY + 1,)
    assert stats.kstest(drawn / scale, "norm").pvalue > 1e-3
    neighbours = np.corrcoef(drawn[:-1], drawn[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(MANY)


@pytest.mark.parametrize("scale", [1.0, 3.5, 2000.0])
def test_discrete(scale: float) -> None:
    drawn = Noise(KEY).discrete(MANY, scale=scale)
    assert drawn.dtype == np.int64
    values = np.arange(-int(6 * scale), int(6 * scale) + 1)
    chances = np.exp(-(values**2) / (2 * scale**2))
    chances /= chances.sum()
    # In up to 40 groups of values, each with enough draws for a chi-squared test.
    groups = np.clip((values / scale * 6).round().astype(int), -15, 15) + 15
    expected = np.bincount(groups, weights=chances)
    inside = np.clip(drawn, values[0], values[-1])
    seen = np.bincount(groups[inside - values[0]], minlength=len(expected))
    assert stats.chisquare(seen[expected > 0], MANY * expected[expected > 0]).pvalue > 1e-3
    assert abs(drawn.std() / scale - 1) < 0.02


@pytest.mark.parametrize("scale", [0.5, 2.0**21])
def test_discrete_refuses_what_it_cannot_do_well(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be"):
        Noise().discrete(3, scale=scale)


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_each_is_chosen_by_a_chance_of_its_own(rate: float) -> None:
    noise = Noise(KEY)
    drawn = np.array([noise.chosen(50, rate=rate) for _ in range(4000)])
    assert abs(drawn.mean() - rate) < 0.005
    # The number chosen is binomial: not a fixed size, which would be another mechanism.
    assert drawn.sum(1).var() == pytest.approx(50 * rate * (1 - rate), rel=0.1, abs=1e-9)
