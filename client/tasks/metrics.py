"""How good predictions are, and how sure that is.

Scores are torchmetrics'. Intervals are percentile bootstraps (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993), stratified by class and, over several seeds, hierarchical:
first the seeds are drawn again, then the images within each class.

A class's recall over n images drawn again with replacement is a binomial variable divided by n,
so the resamples are drawn from that distribution instead of image by image: the same bootstrap,
a thousand times cheaper. Two systems on the same images are drawn together: the images that only
the one, or only the other, gets right.

A class of one image, or one that is always right, adds no width: an interval from few test
images is too narrow, which is why plants with fewer than ten a class are noted as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from common.errors import DataError, TrainingError

Array = npt.NDArray[Any]
Metric = Literal["balanced_accuracy", "accuracy"]

RESAMPLES = 1000
LEVEL = 0.95
_SMALLEST = 1e-12  # probability, so that the loss stays finite


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a model said about a set of images.

    Attributes
    ----------
    truth : class indices, int64, shape (n,).
    probabilities : shape (n, classes).
    files : names of the images, in the same order.
    """

    truth: Array
    probabilities: Array
    files: tuple[str, ...] = ()

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the most probable class is the true one, shape (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.truth)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def scores(
    probabilities: Array,
    truth: Array,
    *,
    classes: Sequence[str],
    good: str = "",
    false_reject_budget: float = 0.05,
) -> dict[str, Any]:
    """Return all scores of a prediction, ready for JSON.

    Parameters
    ----------
    probabilities : shape (n, classes).
    truth : class indices, shape (n,).
    good : the class of good parts, or "".
    false_reject_budget : share of good parts that may be rejected; see `escape_rate`.

    Returns
    -------
    ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that occur), ``macro_f1``,
    ``recall`` by class (None where a class does not occur), ``confusion`` (counts, rows are the
    truth), ``auroc`` (two classes that both occur, otherwise None), ``escape_rate`` (None without
    ``good``), ``loss`` (mean negative log likelihood).

    Raises
    ------
    DataError
        If there are no images.
    TrainingError
        If a probability is not finite.
    """
    _check(probabilities, truth)
    count = len(classes)
    said = torch.from_numpy(np.ascontiguousarray(probabilities, dtype=np.float32))
    true = torch.from_numpy(np.ascontiguousarray(truth, dtype=np.int64))
    confusion = multiclass_confusion_matrix(said, true, num_classes=count).numpy()
    support = confusion.sum(axis=1)
    recall = confusion.diagonal() / np.maximum(support, 1)
    likelihood = said[torch.arange(len(true)), true].clamp_min(_SMALLEST)
    ranked = count == 2 and bool((support > 0).all())
    escape = None
    if good:
        is_good = np.asarray(truth) == list(classes).index(good)
        p_good = np.asarray(probabilities)[:, list(classes).index(good)]
        escape = escape_rate(p_good, is_good, budget=false_reject_budget)
    return {
        "accuracy": float(multiclass_accuracy(said, true, num_classes=count, average="micro")),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(multiclass_f1_score(said, true, num_classes=count, average="macro")),
        "recall": {
            name: float(recall[label]) if support[label] else None
            for label, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
        "auroc": float(binary_auroc(said[:, 1], true)) if ranked else None,
        "escape_rate": escape,
        "loss": float(-likelihood.double().log().mean()),
    }


def escape_rate(p_good: Array, is_good: Array, *, budget: float) -> float | None:
    """Share of defective parts that get through when few good parts may be rejected.

    A part is accepted if its probability of being good is at least a threshold. The threshold is
    the highest at which at most ``budget`` of the good parts are rejected; parts of equal
    probability are accepted or rejected together.

    Parameters
    ----------
    p_good : probability of being good, shape (n,).
    is_good : truth, bool, shape (n,).

    Returns
    -------
    a share from 0 to 1, or None if there is no good or no defective part.
    """
    good = np.sort(p_good[is_good])
    defective = p_good[~is_good]
    if not good.size or not defective.size:
        return None
    rejected = int(budget * good.size + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return float((defective >= good[rejected]).mean())


def interval(
    runs: Sequence[Prediction], *, metric: Metric = "balanced_accuracy", seed: int = 0
) -> Interval:
    """Return the mean of a metric over runs (one a seed) of one plant, with its interval."""
    return mean_interval([runs], metric=metric, seed=seed)


def paired_interval(
    runs_a: Sequence[Prediction],
    runs_b: Sequence[Prediction],
    *,
    metric: Metric = "balanced_accuracy",
    seed: int = 0,
) -> Interval:
    """Return the mean of a minus b on the same images, with its interval.

    Raises
    ------
    DataError
        If the two are not predictions for the same images, run by run.
    """
    return paired_mean_interval([runs_a], [runs_b], metric=metric, seed=seed)


def mean_interval(
    plants: Sequence[Sequence[Prediction]], *, metric: Metric = "balanced_accuracy", seed: int = 0
) -> Interval:
    """Return the mean of a metric over plants and their runs, with its interval.

    Plants with equally many runs share their seeds, so seeds are drawn for all of them at once.
    """
    tallies = [[_tally(run, None) for run in runs] for runs in plants]
    return _bootstrap(tallies, metric=metric, seed=seed)


def paired_mean_interval(
    plants_a: Sequence[Sequence[Prediction]],
    plants_b: Sequence[Sequence[Prediction]],
    *,
    metric: Metric = "balanced_accuracy",
    seed: int = 0,
) -> Interval:
    """Return the mean over plants and runs of a minus b, with its interval.

    Raises
    ------
    DataError
        If the two are not predictions for the same images, plant by plant and run by run.
    """
    if [len(runs) for runs in plants_a] != [len(runs) for runs in plants_b]:
        raise DataError("paired predictions must be of the same plants and seeds")
    tallies = [
        [_tally(a, b) for a, b in zip(runs_a, runs_b, strict=True)]
        for runs_a, runs_b in zip(plants_a, plants_b, strict=True)
    ]
    return _bootstrap(tallies, metric=metric, seed=seed)


def _tally(a: Prediction, b: Prediction | None) -> npt.NDArray[np.int64]:
    """Count images a class: all, those only a gets right, those only b gets right.

    Without ``b`` the second column is what a gets right. Classes without images are left out.
    Shape (classes that occur, 3).
    """
    _check(a.probabilities, a.truth)
    other = np.zeros(len(a.truth), dtype=bool)
    if b is not None:
        if a.files != b.files or not np.array_equal(a.truth, b.truth):
            raise DataError("paired predictions must be of the same images in the same order")
        other = b.correct
    right = a.correct
    rows = [np.ones_like(right), right & ~other, other & ~right]
    classes = int(a.truth.max()) + 1
    counts = np.column_stack([np.bincount(a.truth[row], minlength=classes) for row in rows])
    return counts[counts[:, 0] > 0]


def _bootstrap(
    plants: Sequence[Sequence[npt.NDArray[np.int64]]], *, metric: Metric, seed: int
) -> Interval:
    if not plants or not all(plants):
        raise DataError("an interval must have at least one run of each plant")
    rng = np.random.default_rng(seed)
    draws: dict[int, npt.NDArray[np.int64]] = {}
    values, resampled = [], []
    for tallies in plants:
        runs = len(tallies)
        if runs not in draws:
            draws[runs] = rng.integers(0, runs, size=(RESAMPLES, runs))
        values.append(np.mean([_value(tally, tally[:, 1:], metric) for tally in tallies]))
        drawn = np.empty((RESAMPLES, runs))
        for run, tally in enumerate(tallies):
            chosen = draws[runs] == run
            drawn[chosen] = _value(tally, _resample(tally, int(chosen.sum()), rng), metric)
        resampled.append(drawn.mean(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.mean(resampled, axis=0), [tail, 1 - tail])
    return Interval(value=float(np.mean(values)), low=float(low), high=float(high))


def _resample(
    tally: npt.NDArray[np.int64], times: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw each class's images again; return the last two columns, shape (times, classes, 2)."""
    count = tally[:, 0]
    chance = np.column_stack([tally[:, 1:], count - tally[:, 1:].sum(axis=1)]) / count[:, None]
    return rng.multinomial(count, chance, size=(times, len(tally)))[..., :2]


def _value(tally: npt.NDArray[np.int64], outcomes: npt.NDArray[np.int64], metric: Metric) -> Any:
    """Return the metric from counts (..., classes, 2) of images only a and only b gets right."""
    difference = outcomes[..., 0] - outcomes[..., 1]
    if metric == "accuracy":
        return difference.sum(axis=-1) / tally[:, 0].sum()
    return (difference / tally[:, 0]).mean(axis=-1)


def _check(probabilities: Array, truth: Array) -> None:
    if not len(truth):
        raise DataError("a prediction must be of at least one image, got none")
    if not np.isfinite(probabilities).all():
        raise TrainingError(
            "probabilities must be finite, got NaN or infinity; lower learning_rate"
        )
