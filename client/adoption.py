"""The no-harm rule: a plant runs a new model only if its own validation images say so.

Both models judge the same images, so the test is paired: for each image the difference of the
probabilities that the two give to the truth, averaged so that every class counts the same. That
is balanced accuracy with the steps smoothed out, which tells more from twenty images than counting
hits. The candidate is adopted if the one-sided lower confidence bound of the mean difference is
above minus the margin (a non-inferiority test); otherwise the plant keeps what it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

#: One-sided confidence of the lower bound.
CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the test said.

    Attributes
    ----------
    adopt : whether the candidate takes over.
    gain : mean difference, candidate minus current, in -1 to 1.
    low : its lower confidence bound.
    why : one sentence for the report.
    """

    adopt: bool
    gain: float
    low: float
    why: str


def judge(
    current: npt.NDArray[np.floating],
    candidate: npt.NDArray[np.floating],
    truth: npt.NDArray[np.integer],
    *,
    margin: float,
) -> Verdict:
    """Compare two models on the same validation images.

    Parameters
    ----------
    current, candidate : class probabilities, shape (images, classes).
    truth : class indices, shape (images,).
    margin : how much worse the candidate may be, in points of probability.
    """
    rows = np.arange(len(truth))
    difference = candidate[rows, truth].astype(np.float64) - current[rows, truth]
    classes, place, counts = np.unique(truth, return_inverse=True, return_counts=True)
    weights = 1.0 / (len(classes) * counts[place])
    gain = float(weights @ difference)
    low = gain - _half_width(difference, place, counts)
    adopt = low >= -margin
    verb = "adopted" if adopt else "kept what it had"
    why = (
        f"{verb}: on {len(truth)} validation images the federated model gives the truth "
        f"{gain:+.3f} more probability (lower bound {low:+.3f}, needed {-margin:+.3f})"
    )
    return Verdict(adopt=adopt, gain=gain, low=low, why=why)


def _half_width(
    difference: npt.NDArray[np.float64],
    place: npt.NDArray[np.intp],
    counts: npt.NDArray[np.intp],
) -> float:
    """Stratified standard error times Student's quantile, with the variance pooled over classes."""
    freedom = len(difference) - len(counts)
    if freedom < 1:
        return math.inf
    means = np.bincount(place, weights=difference) / counts
    variance = float(((difference - means[place]) ** 2).sum()) / freedom
    error = math.sqrt(variance * float((1.0 / counts).sum())) / len(counts)
    return float(stats.t.ppf(CONFIDENCE, freedom)) * error
