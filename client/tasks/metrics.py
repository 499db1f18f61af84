"""How good predictions are, and how sure that is.

Scores are torchmetrics'. Intervals are percentile bootstraps (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993), stratified by class and, over several seeds, hierarchical:
first the seeds are drawn again, then the images within each class.

A class's recall over n images drawn again with replacement is a binomial variable divided by n,
so the resamples are drawn from that distribution instead of image by image: the same bootstrap,
a thousand times cheaper. Two systems on the same images are drawn together: the images that only
the one, or only the other, gets right. Where images come in groups that are not independent,
groups are drawn (`client.tasks.groups`).

A class of one image, or one that is always right, adds no width: an interval from few test
images is too narrow, which is why plants with fewer than ten a class are noted as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.tasks.errors import Errors
from client.tasks.groups import GroupedTally
from client.tasks.ranks import Ranks
from common.errors import DataError, TrainingError
from common.tasks import MEASURES

Array = npt.NDArray[Any]

RESAMPLES = 1000
LEVEL = 0.95
_SMALLEST = 1e-12  # probability, so that the loss stays finite


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a model said about a set of examples.

    Attributes
    ----------
    truth : class indices, int64, shape (n,); or numbers, shape (n, outputs).
    predicted : probabilities, shape (n, classes); or numbers, shape (n, outputs).
    names : of the examples, in the same order.
    texts : what they say, where they are texts.
    groups : which examples are not independent of each other, shape (n,); None: all are.
    """

    truth: Array
    predicted: Array
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    groups: Array | None = None

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the most probable class is the true one, shape (n,)."""
        return np.asarray(self.predicted.argmax(axis=1) == self.truth)


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
    # With all that it imports it takes as long to load as torch, and only reports need it.
    from torchmetrics.functional import classification as metrics  # noqa: PLC0415

    _check(probabilities, truth)
    count = len(classes)
    said = torch.from_numpy(np.ascontiguousarray(probabilities, dtype=np.float32))
    true = torch.from_numpy(np.ascontiguousarray(truth, dtype=np.int64))
    confusion = metrics.multiclass_confusion_matrix(said, true, num_classes=count).numpy()
    support = confusion.sum(axis=1)
    recall = confusion.diagonal() / np.maximum(support, 1)
    likelihood = said[torch.arange(len(true)), true].clamp_min(_SMALLEST)
    ranked = count == 2 and bool((support > 0).all())
    accuracy = metrics.multiclass_accuracy(said, true, num_classes=count, average="micro")
    macro_f1 = metrics.multiclass_f1_score(said, true, num_classes=count, average="macro")
    escape = None
    if good:
        label = list(classes).index(good)
        escape = escape_rate(probabilities[:, label], truth == label, budget=false_reject_budget)
    return {
        "accuracy": float(accuracy),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(macro_f1),
        "recall": _by_class(classes, recall, support),
        "confusion": confusion.tolist(),
        "auroc": float(metrics.binary_auroc(said[:, 1], true)) if ranked else None,
        "escape_rate": escape,
        "loss": float(-likelihood.double().log().mean()),
    }


def _by_class(classes: Sequence[str], recall: Array, support: Array) -> dict[str, float | None]:
    """Return recalls by class, None where it does not occur."""
    return {
        name: float(recall[label]) if support[label] else None for label, name in enumerate(classes)
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


class Sample(Protocol):
    """Examples that a score is worked out from, and can be drawn again."""

    def value(self) -> float:
        """Return the score, or the difference of two models' scores."""
        ...

    def draw(self, times: int, rng: np.random.Generator) -> Array:
        """Return the score of examples drawn again, shape (times,)."""
        ...


def interval(
    runs: Sequence[Prediction], *, metric: str = "balanced_accuracy", seed: int = 0
) -> Interval:
    """Return the mean of a metric over runs (one a seed) of one plant, with its interval."""
    return mean_interval([runs], metric=metric, seed=seed)


def paired_interval(
    runs_a: Sequence[Prediction],
    runs_b: Sequence[Prediction],
    *,
    metric: str = "balanced_accuracy",
    seed: int = 0,
) -> Interval:
    """Return by how much a is better than b on the same examples, with its interval.

    Raises
    ------
    DataError
        If the two are not predictions for the same examples, run by run.
    """
    return paired_mean_interval([runs_a], [runs_b], metric=metric, seed=seed)


def mean_interval(
    plants: Sequence[Sequence[Prediction]], *, metric: str = "balanced_accuracy", seed: int = 0
) -> Interval:
    """Return the mean of a metric over plants and their runs, with its interval.

    Plants with equally many runs share their seeds, so seeds are drawn for all of them at once.
    """
    samples = [[_sample(run, None, metric) for run in runs] for runs in plants]
    return _bootstrap(samples, seed=seed)


def paired_mean_interval(
    plants_a: Sequence[Sequence[Prediction]],
    plants_b: Sequence[Sequence[Prediction]],
    *,
    metric: str = "balanced_accuracy",
    seed: int = 0,
) -> Interval:
    """Return by how much a is better than b, mean over plants and runs, with its interval.

    That is a minus b, or b minus a where a lower score is the better one.

    Raises
    ------
    DataError
        If the two are not predictions for the same examples, plant by plant and run by run.
    """
    if [len(runs) for runs in plants_a] != [len(runs) for runs in plants_b]:
        raise DataError("paired predictions must be of the same plants and seeds")
    if MEASURES[metric].lower:
        plants_a, plants_b = plants_b, plants_a
    samples = [
        [_sample(a, b, metric) for a, b in zip(runs_a, runs_b, strict=True)]
        for runs_a, runs_b in zip(plants_a, plants_b, strict=True)
    ]
    return _bootstrap(samples, seed=seed)


def _sample(a: Prediction, b: Prediction | None, metric: str) -> Sample:
    """Put one model's predictions, or two models' on the same examples, together."""
    if b is not None and (a.names != b.names or not np.array_equal(a.truth, b.truth)):
        raise DataError("paired predictions must be of the same examples in the same order")
    if metric in ("balanced_accuracy", "accuracy"):
        if a.groups is not None:
            _check(a.predicted, a.truth)
            right = a.correct.astype(np.int64) - (0 if b is None else b.correct)
            return GroupedTally(
                truth=a.truth, right=right, groups=a.groups, plain=metric == "accuracy"
            )
        return _Tally(counts=_count(a, b), plain=metric == "accuracy")
    if metric == "auroc":
        known = None if b is None else b.predicted[:, 1]
        return Ranks(truth=a.truth, one=a.predicted[:, 1], other=known, groups=a.groups)
    other = None if b is None else b.predicted
    return Errors(measure=metric, truth=a.truth, one=a.predicted, other=other, groups=a.groups)


def _count(a: Prediction, b: Prediction | None) -> npt.NDArray[np.int64]:
    """Count examples a class: all, those only a gets right, those only b gets right.

    Without ``b`` the second column is what a gets right. Classes without examples are left out.
    Shape (classes that occur, 3).
    """
    _check(a.predicted, a.truth)
    other = np.zeros(len(a.truth), dtype=bool) if b is None else b.correct
    right = a.correct
    rows = [np.ones_like(right), right & ~other, other & ~right]
    classes = int(a.truth.max()) + 1
    counts = np.column_stack([np.bincount(a.truth[row], minlength=classes) for row in rows])
    return counts[counts[:, 0] > 0]


def _bootstrap(plants: Sequence[Sequence[Sample]], *, seed: int) -> Interval:
    if not plants or not all(plants):
        raise DataError("an interval must have at least one run of each plant")
    rng = np.random.default_rng(seed)
    draws: dict[int, npt.NDArray[np.int64]] = {}
    values, resampled = [], []
    for samples in plants:
        runs = len(samples)
        if runs not in draws:
            draws[runs] = rng.integers(0, runs, size=(RESAMPLES, runs))
        values.append(np.mean([sample.value() for sample in samples]))
        drawn = np.empty((RESAMPLES, runs))
        for run, sample in enumerate(samples):
            chosen = draws[runs] == run
            drawn[chosen] = sample.draw(int(chosen.sum()), rng)
        resampled.append(drawn.mean(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.mean(resampled, axis=0), [tail, 1 - tail])
    return Interval(value=float(np.mean(values)), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tally:
    """Counts of `_count`; ``plain`` accuracy weighs examples alike, otherwise classes."""

    counts: npt.NDArray[np.int64]
    plain: bool

    def value(self) -> float:
        return float(self._of(self.counts[:, 1:]))

    def draw(self, times: int, rng: np.random.Generator) -> Array:
        """Draw each class's examples again."""
        count = self.counts[:, 0]
        rest = count - self.counts[:, 1:].sum(axis=1)
        chance = np.column_stack([self.counts[:, 1:], rest]) / count[:, None]
        drawn = rng.multinomial(count, chance, size=(times, len(self.counts)))
        return np.asarray(self._of(drawn[..., :2]))

    def _of(self, outcomes: npt.NDArray[np.int64]) -> Any:
        """Return the score from counts (..., classes, 2) of what only a and only b gets right."""
        difference = outcomes[..., 0] - outcomes[..., 1]
        if self.plain:
            return difference.sum(axis=-1) / self.counts[:, 0].sum()
        return (difference / self.counts[:, 0]).mean(axis=-1)


def _check(probabilities: Array, truth: Array) -> None:
    if not len(truth):
        raise DataError("a prediction must be of at least one example, got none")
    if not np.isfinite(probabilities).all():
        raise TrainingError(
            "probabilities must be finite, got NaN or infinity; lower learning_rate"
        )
