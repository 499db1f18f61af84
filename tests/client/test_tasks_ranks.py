from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from client.tasks.metrics import Prediction, interval, paired_interval
from client.tasks.ranks import Ranks, placements
from common.errors import DataError, TrainingError


def made(bad: int, good: int, *, seed: int = 0, apart: float = 1.0) -> Prediction:
    rng = np.random.default_rng(seed)
    truth = np.r_[np.zeros(good, int), np.ones(bad, int)]
    high = 1 / (1 + np.exp(-(rng.normal(size=good + bad) + apart * truth)))
    return Prediction(truth=truth, predicted=np.column_stack([1 - high, high]))


@given(scores=st.lists(st.integers(0, 5), min_size=2, max_size=40), first=st.integers(1, 39))
def test_placements_average_to_the_area(scores: list[int], first: int) -> None:
    truth = np.array([int(i < first) for i in range(len(scores))])
    if truth.min() == truth.max():
        return
    high = np.array(scores, dtype=float)
    found = placements(high, truth)
    area = roc_auc_score(truth, high)
    assert found[truth == 1].mean() == pytest.approx(area)
    assert found[truth == 0].mean() == pytest.approx(area)


def test_the_interval_holds_the_true_area() -> None:
    """Scores a deviation apart have an AUROC of Phi(1 / sqrt 2) = 0.760."""
    held = [interval([made(60, 80, seed=seed)], metric="auroc") for seed in range(120)]
    assert np.mean([one.low <= 0.760 <= one.high for one in held]) > 0.88
    assert np.mean([one.value for one in held]) == pytest.approx(0.760, abs=0.01)


def test_pairs_are_drawn_together() -> None:
    one = made(40, 40)
    same = paired_interval([one], [one], metric="auroc")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = Prediction(truth=one.truth, predicted=np.column_stack([1 - one.truth, one.truth]))
    gain = paired_interval([better], [one], metric="auroc")
    assert gain.low > 0


def test_one_kind_alone_has_no_area() -> None:
    with pytest.raises(DataError, match="one kind alone"):
        Ranks(truth=np.zeros(3, int), one=np.arange(3.0))
    with pytest.raises(TrainingError, match="finite"):
        Ranks(truth=np.array([0, 1]), one=np.array([0.0, np.nan]))
