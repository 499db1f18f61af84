"""Numbers: loss and scores in the right units, intervals, and the comparison of two models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from client.tasks.data import PlantData
from client.tasks.errors import Errors, number_scores
from client.tasks.metrics import Prediction, interval, paired_interval
from client.tasks.numbers import Numbers, fit_scale
from common.errors import DataError, TrainingError

EVERY = torch.arange(6)
TARGETS = torch.tensor([[10.0], [20.0], [30.0], [40.0], [50.0], [70.0]])
CENTRE, SPREAD = fit_scale(TARGETS)
DATA = PlantData(
    inputs=torch.zeros(6, 1),
    targets=TARGETS,
    names=tuple("abcdef"),
    train=EVERY,
    validation=EVERY,
    test=EVERY,
    folds=((EVERY, EVERY),),
    numbers=("strength",),
    centre=CENTRE,
    spread=SPREAD,
)
TASK = Numbers()


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Any, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(3, 40)), draw(st.integers(1, 3))
    truth = rng.normal(100, 20, shape)
    return truth + rng.normal(0, 10, shape), truth


@given(predictions())
def test_scores_are_those_of_scikit_learn(drawn: tuple[Any, Any]) -> None:
    predicted, truth = drawn
    found = number_scores(predicted, truth)
    assert found["r2"] == pytest.approx(reference.r2_score(truth, predicted))
    assert found["rmse"] == pytest.approx(reference.mean_squared_error(truth, predicted) ** 0.5)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, predicted))
    for measure in ("r2", "rmse", "mae"):
        one = Errors(measure=measure, truth=truth, one=predicted)
        assert one.value() == pytest.approx(found[measure])


def test_what_the_network_says_is_decoded_into_the_units_of_the_plant() -> None:
    outputs = (TARGETS - CENTRE) / SPREAD
    assert torch.allclose(TASK.decode(outputs, data=DATA), TARGETS)
    assert float(TASK.loss(outputs, TARGETS, weights=None, data=DATA)) == pytest.approx(
        0, abs=1e-12
    )
    zero = torch.zeros_like(TARGETS)
    assert float(TASK.loss(zero, TARGETS, weights=None, data=DATA)) == pytest.approx(1.0)


def test_quick_scores_agree_with_the_scores_of_the_report() -> None:
    predicted = TARGETS + torch.tensor([[1.0], [-2.0], [3.0], [0.0], [5.0], [-1.0]])
    quick = TASK.quick_scores(predicted, TARGETS, data=DATA)
    whole = number_scores(predicted.numpy(), TARGETS.numpy())
    for name in ("r2", "rmse", "mae"):
        assert quick[name] == pytest.approx(whole[name])
    assert quick["loss"] == pytest.approx(1 - whole["r2"])


def test_the_mean_difference_of_worth_is_that_of_the_variance_explained() -> None:
    truth = TARGETS.numpy()
    one, other = truth + 4.0, truth + np.float32(10.0)
    gain = TASK.worth(one, truth, data=DATA) - TASK.worth(other, truth, data=DATA)
    r2 = [number_scores(predicted, truth)["r2"] for predicted in (one, other)]
    assert gain.mean() == pytest.approx(r2[0] - r2[1])
    assert set(TASK.strata(truth).tolist()) == {0}


def test_a_constant_target_has_a_scale() -> None:
    centre, spread = fit_scale(torch.full((5, 1), 3.0))
    assert (centre.tolist(), spread.tolist()) == ([3.0], [1.0])


@pytest.mark.parametrize("metric", ["r2", "rmse"])
def test_intervals_are_those_of_a_plain_bootstrap(metric: str) -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(50, 10, (120, 1))
    predicted = truth + rng.normal(0, 4, (120, 1))
    score = {
        "r2": lambda t, p: reference.r2_score(t, p),
        "rmse": lambda t, p: reference.mean_squared_error(t, p) ** 0.5,
    }[metric]
    draws = []
    for _ in range(3000):
        chosen = rng.integers(0, 120, 120)
        draws.append(score(truth[chosen], predicted[chosen]))
    found = interval([Prediction(truth=truth, predicted=predicted)], metric=metric)
    wide = np.quantile(draws, 0.975) - np.quantile(draws, 0.025)
    assert found.low == pytest.approx(np.quantile(draws, 0.025), abs=0.1 * wide)
    assert found.high == pytest.approx(np.quantile(draws, 0.975), abs=0.1 * wide)


@pytest.mark.parametrize("metric", ["r2", "rmse", "mae"])
def test_a_gain_is_above_zero_where_the_first_is_better(metric: str) -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(50, 10, (80, 1))
    good = Prediction(truth=truth, predicted=truth + rng.normal(0, 2, (80, 1)))
    bad = Prediction(truth=truth, predicted=truth + rng.normal(0, 6, (80, 1)))
    assert paired_interval([good], [bad], metric=metric).low > 0
    assert paired_interval([bad], [good], metric=metric).high < 0


def test_groups_are_drawn_together() -> None:
    """Ten copies of each example tell no more than one."""
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 1, (30, 1))
    predicted = truth + rng.normal(0, 0.5, (30, 1))
    many = Prediction(truth=np.repeat(truth, 10, 0), predicted=np.repeat(predicted, 10, 0))
    alone = interval([Prediction(truth=truth, predicted=predicted)], metric="mae")
    blind = interval([many], metric="mae")
    told = interval([replace(many, groups=np.repeat(np.arange(30), 10))], metric="mae")
    assert blind.high - blind.low < 0.5 * (alone.high - alone.low)
    assert told.high - told.low == pytest.approx(alone.high - alone.low, rel=0.15)


def test_nothing_and_nan_are_refused() -> None:
    with pytest.raises(DataError, match="at least one example"):
        number_scores(np.empty((0, 1)), np.empty((0, 1)))
    with pytest.raises(TrainingError, match="must be finite"):
        number_scores(np.array([[np.nan]]), np.array([[1.0]]))
