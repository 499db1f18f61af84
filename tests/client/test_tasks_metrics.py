import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from client.tasks.metrics import (
    Interval,
    Prediction,
    escape_rate,
    interval,
    mean_interval,
    paired_interval,
    paired_mean_interval,
    scores,
)
from common.errors import DataError, TrainingError


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values)
    return powers / powers.sum(axis=1, keepdims=True)


def predicted(*accuracies: float, count: int = 100, seed: int = 0) -> Prediction:
    """One class for each accuracy, ``count`` images of each."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(accuracies)), count)
    right = rng.permuted(
        np.concatenate([np.arange(count) < round(a * count) for a in accuracies]).reshape(
            -1, count
        ),
        axis=1,
    ).ravel()
    said = np.where(right, truth, (truth + 1) % len(accuracies))
    return Prediction(truth=truth, predicted=np.eye(len(accuracies))[said])


def in_groups(seed: int) -> Prediction:
    """Two classes of twelve machines each, thirty windows a machine; 0.8 are right."""
    rng = np.random.default_rng(seed)
    truth, groups = np.repeat([0, 1], 360), np.repeat(np.arange(24), 30)
    right = rng.random(720) < rng.beta(2, 0.5, 24)[groups]
    said = np.eye(2)[np.where(right, truth, 1 - truth)]
    return Prediction(truth=truth, predicted=said, groups=groups)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "accuracy"])
def test_intervals_over_groups_hold(metric: str) -> None:
    """By window they held 49 of 100."""
    found = [interval([in_groups(seed)], metric=metric) for seed in range(60)]
    assert np.mean([one.low <= 0.8 <= one.high for one in found]) > 0.85
    same = paired_interval([in_groups(0)], [in_groups(0)], metric=metric)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "accuracy", "auroc"])
def test_groups_of_one_are_none(metric: str) -> None:
    one = predicted(0.7, 0.9)
    alone = interval([replace(one, groups=np.arange(200))], metric=metric)
    known = interval([one], metric=metric)
    assert alone.value == pytest.approx(known.value)
    assert (alone.low, alone.high) == (
        pytest.approx(known.low, abs=0.02),
        pytest.approx(known.high, abs=0.02),
    )
    wider = interval([replace(one, groups=np.arange(200) // 10)], metric=metric)
    assert wider.value == pytest.approx(known.value)
    single = interval([replace(one, groups=np.arange(200) // 100)], metric=metric)
    assert single.low < single.value < single.high


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 5), count=st.integers(2, 40), seed=st.integers(0, 1000),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_agree_with_scikit_learn(classes: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    probabilities = softmax(rng.normal(size=(count, classes))).astype(np.float32)
    names = [f"c{label}" for label in range(classes)]
    result = scores(probabilities, truth, classes=names)
    said = probabilities.argmax(axis=1)
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert result["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(truth, said)
    )
    assert result["macro_f1"] == pytest.approx(
        reference.f1_score(truth, said, average="macro"), abs=1e-6
    )
    assert (
        result["confusion"]
        == reference.confusion_matrix(truth, said, labels=range(classes)).tolist()
    )
    assert result["loss"] == pytest.approx(
        reference.log_loss(truth, probabilities, labels=range(classes)), rel=1e-4
    )
    for label, name in enumerate(names):
        if label in truth:
            expected = (said == label)[truth == label].mean()
            assert result["recall"][name] == pytest.approx(expected)
        else:
            assert result["recall"][name] is None
    if classes == 2 and len(set(truth)) == 2:
        assert result["auroc"] == pytest.approx(reference.roc_auc_score(truth, probabilities[:, 1]))
    else:
        assert result["auroc"] is None
    assert result["escape_rate"] is None
    json.dumps(result, allow_nan=False)


def test_a_certain_mistake_has_a_finite_loss() -> None:
    result = scores(np.array([[1.0, 0.0]]), np.array([1]), classes=["a", "b"])
    assert np.isfinite(result["loss"])
    assert result["auroc"] is None


def test_nothing_and_nan_are_refused() -> None:
    with pytest.raises(DataError, match="at least one example"):
        scores(np.zeros((0, 2)), np.zeros(0, int), classes=["a", "b"])
    with pytest.raises(TrainingError, match="finite"):
        scores(np.array([[np.nan, 1.0]]), np.array([1]), classes=["a", "b"])
    with pytest.raises(DataError, match="at least one run"):
        interval([])


def test_escape_rate_by_hand() -> None:
    is_good = np.array([True] * 20 + [False] * 4)
    p_good = np.array([0.1, *[0.5] * 19, 0.05, 0.3, 0.5, 0.9])
    # One of twenty may be rejected: accepted from 0.5 on; two of four defective get through.
    assert escape_rate(p_good, is_good, budget=0.05) == 0.5
    # None may be rejected: accepted from 0.1 on.
    assert escape_rate(p_good, is_good, budget=0.04) == 0.75
    # Equal ones go together: rejecting two would reject all.
    assert escape_rate(p_good, is_good, budget=0.5) == 0.5
    assert escape_rate(p_good, np.ones(24, bool), budget=0.05) is None
    assert escape_rate(p_good, np.zeros(24, bool), budget=0.05) is None


@settings(max_examples=100, deadline=None)
@given(
    good=st.lists(st.integers(0, 10), min_size=1, max_size=60),
    bad=st.lists(st.integers(0, 10), min_size=1, max_size=60),
    budget=st.floats(0.01, 0.99),
)
def test_escape_rate_is_the_best_that_the_budget_allows(
    good: list[int], bad: list[int], budget: float
) -> None:
    p_good = np.array([*good, *bad]) / 10
    is_good = np.arange(len(p_good)) < len(good)
    goods, bads = p_good[is_good], p_good[~is_good]
    allowed = [
        (bads >= threshold).mean()
        for threshold in np.unique(goods)
        if (goods < threshold).sum() <= budget * len(good) + 1e-9
    ]
    assert escape_rate(p_good, is_good, budget=budget) == min(allowed)


def test_scores_use_the_good_class() -> None:
    truth = np.array([1, 1, 0, 2])
    probabilities = np.array([[0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.3, 0.7, 0.0], [0.9, 0.1, 0.0]])
    result = scores(
        probabilities, truth, classes=["a", "ok", "b"], good="ok", false_reject_budget=0.5
    )
    assert result["escape_rate"] == 0.0
    result = scores(
        probabilities, truth, classes=["a", "ok", "b"], good="ok", false_reject_budget=0.4
    )
    assert result["escape_rate"] == 0.5


def plain_bootstrap(prediction: Prediction, *, metric: str, times: int = 4000) -> np.ndarray:
    """The textbook way: draw images again within each class, one resample after the other."""
    rng = np.random.default_rng(99)
    places = [np.flatnonzero(prediction.truth == c) for c in np.unique(prediction.truth)]
    right = prediction.correct
    values = []
    for _ in range(times):
        drawn = [right[rng.choice(place, len(place))] for place in places]
        recalls = [part.mean() for part in drawn]
        values.append(np.mean(recalls if metric == "balanced_accuracy" else np.concatenate(drawn)))
    return np.array(values)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "accuracy"])
def test_the_interval_is_that_of_the_plain_bootstrap(metric: str) -> None:
    unequal = predicted(0.9, 0.5)
    keep = np.r_[0:100, 100:120]
    unequal = Prediction(truth=unequal.truth[keep], predicted=unequal.predicted[keep])
    expected = plain_bootstrap(unequal, metric=metric)
    result = interval([unequal], metric=metric)
    assert result.low == pytest.approx(np.quantile(expected, 0.025), abs=0.02)
    assert result.high == pytest.approx(np.quantile(expected, 0.975), abs=0.02)
    said = unequal.predicted.argmax(axis=1)
    score = reference.balanced_accuracy_score if metric[0] == "b" else reference.accuracy_score
    assert result.value == pytest.approx(score(unequal.truth, said))


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 60)
    covered = 0
    for _ in range(300):
        right = rng.random(180) < np.array([0.9, 0.7, 0.6])[truth]
        said = np.where(right, truth, (truth + 1) % 3)
        result = interval([Prediction(truth=truth, predicted=np.eye(3)[said])])
        covered += result.low <= (0.9 + 0.7 + 0.6) / 3 <= result.high
    assert 0.90 <= covered / 300 <= 0.98


def test_intervals_repeat_and_narrow_with_more_images() -> None:
    few, many = predicted(0.8, 0.6, count=20), predicted(0.8, 0.6, count=500)
    assert interval([few]) == interval([few])
    assert interval([many], seed=1) != interval([many])
    width = interval([few]).high - interval([few]).low
    assert interval([many]).high - interval([many]).low < width / 3


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike = interval([predicted(0.7, 0.7, seed=s) for s in range(5)])
    apart = interval([predicted(a, a, seed=s) for s, a in enumerate([0.5, 0.6, 0.7, 0.8, 0.9])])
    assert alike.value == pytest.approx(0.7)
    assert apart.value == pytest.approx(0.7)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_a_class_without_test_images_is_left_out_and_one_image_is_enough() -> None:
    eye = np.eye(3)
    result = interval([Prediction(truth=np.array([0, 2, 2]), predicted=eye[[0, 2, 1]])])
    assert result.value == 0.75
    assert (result.low, result.high) == (0.5, 1.0)
    assert interval([Prediction(truth=np.array([1]), predicted=eye[[1]])]) == Interval(
        value=1.0, low=1.0, high=1.0
    )


def test_pairing_cancels_what_both_get_wrong() -> None:
    a = predicted(0.7, 0.7)
    assert paired_interval([a], [a]) == Interval(value=0.0, low=0.0, high=0.0)
    better = a.predicted.copy()
    wrong = np.flatnonzero(~a.correct)[:10]
    better[wrong] = np.eye(2)[a.truth[wrong]]
    b = Prediction(truth=a.truth, predicted=better)
    gain = paired_interval([b], [a])
    assert gain.value == pytest.approx(0.05)
    assert gain.low > 0
    loss = paired_interval([a], [b])
    assert (loss.value, loss.high) == pytest.approx((-gain.value, -gain.low), abs=0.01)
    independent = interval([b])
    assert gain.high - gain.low < independent.high - independent.low


def test_the_paired_interval_is_that_of_the_plain_bootstrap() -> None:
    a, b = predicted(0.8, 0.7, seed=1), predicted(0.7, 0.65, seed=2)
    rng = np.random.default_rng(5)
    difference = a.correct.astype(float) - b.correct
    draws = [
        np.mean(
            [
                difference[place][rng.integers(0, 100, 100)].mean()
                for place in ([*range(100)], [*range(100, 200)])
            ]
        )
        for _ in range(4000)
    ]
    result = paired_interval([a], [b])
    assert result.low == pytest.approx(np.quantile(draws, 0.025), abs=0.015)
    assert result.high == pytest.approx(np.quantile(draws, 0.975), abs=0.015)


def test_different_images_cannot_be_paired() -> None:
    a = predicted(0.7, 0.7)
    with pytest.raises(DataError, match="same examples"):
        paired_interval([a], [Prediction(truth=1 - a.truth, predicted=a.predicted)])
    named = Prediction(truth=a.truth, predicted=a.predicted, names=("x",) * 200)
    with pytest.raises(DataError, match="same examples"):
        paired_interval([a], [named])
    with pytest.raises(DataError, match="same plants and seeds"):
        paired_interval([a, a], [a])


def test_the_mean_over_plants_is_surer_than_one_plant() -> None:
    plants = [[predicted(0.6, 0.8, seed=p)] for p in range(6)]
    one, mean = interval(plants[0]), mean_interval(plants)
    assert mean.value == pytest.approx(0.7)
    assert mean.high - mean.low < (one.high - one.low) / 2
    worse = [[predicted(0.5, 0.7, seed=p)] for p in range(6)]
    gain = paired_mean_interval(plants, worse)
    assert gain.value == pytest.approx(0.1)
    assert gain.low > 0


def test_seeds_are_drawn_for_all_plants_at_once() -> None:
    """A seed that is good for every plant must widen the mean as much as it widens a plant."""
    runs = [predicted(a, a, count=2000, seed=s) for s, a in enumerate([0.5, 0.6, 0.7, 0.8, 0.9])]
    one, mean = interval(runs), mean_interval([runs] * 6)
    assert mean.high - mean.low == pytest.approx(one.high - one.low, rel=0.1)
