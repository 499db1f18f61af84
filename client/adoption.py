"""The no-harm rule: a plant runs a new model only if its own validation examples say so.

Both models judge the same examples, so the test is paired: for each example the difference of what
the two predictions are worth (`client.tasks.Task.worth`: for classes the probability that is given
to the truth), averaged so that every stratum counts the same, that is every class. For classes
that is balanced accuracy with the steps smoothed out, which tells more from twenty images than
counting hits. The candidate is adopted if the one-sided lower confidence bound of the mean
difference is above minus the margin (a non-inferiority test); otherwise the plant keeps what it
has.

**When the labelled examples change**, what was said of the old ones compares with nothing. The
plant trains alone anew on the new ones, from the backbone of its own model (`client.earlier`);
where such a model is deployed, the new one takes its place. A release that is deployed stays. A
candidate must then be no worse than what the plant trained alone on these examples, and no worse
than the deployed release, where that can be asked about them again: some of them it may have
learned from, which favours what the plant has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from client.personal import Deployment, PersonalStore, Version

Array = npt.NDArray[Any]

#: One-sided confidence of the lower bound.
CONFIDENCE = 0.8

#: The same where twins are judged (`client.selection`, below ten labels a class). A plant's own
#: twin lacks the labels that the model itself has; the release's lacks them too, but its backbone
#: was in the rounds. So the comparison favours the release, and must be clearer.
TWINS = 0.9


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How two models' evidence about the validation examples is compared.

    Attributes
    ----------
    worth : from predictions, shape (examples, outputs), to float64, shape (examples,).
    strata : int64, shape (examples,).
    said : puts a gain into words, after "the federated model".
    groups : examples of one group (windows of one engine) are one piece of evidence, int64, shape
        (examples,); None: each is one.
    doubt : why these examples cannot vouch for a release, and what to do; "" if they can.
    """

    worth: Callable[[Array], Array]
    strata: Array
    said: Callable[[str], str]
    groups: Array | None = None
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the test said.

    Attributes
    ----------
    adopt : whether the candidate takes over.
    gain : mean difference, candidate minus current, in units of worth.
    low : its lower confidence bound.
    why : one sentence for the report.
    """

    adopt: bool
    gain: float
    low: float
    why: str


def begin(store: PersonalStore, local: Version) -> None:
    """Deploy what a plant trained alone where nothing is, or one like it from other examples."""
    with store.exclusive():
        if (deployed := store.deployed()) is not None:
            current = store.version(deployed.version)
            if current.kind != local.kind or current.judged == local.judged:
                return
        store.deploy(local, why="trained at this plant alone")


def decide(
    store: PersonalStore,
    candidate: Version,
    *,
    paired: Paired,
    margin: float,
    again: Callable[[Version], Array | None] = lambda version: None,
) -> Deployment:
    """Apply the rule to a stored candidate and deploy what it says.

    Parameters
    ----------
    paired : how evidence about the validation examples is compared. Evidence begins with these;
        no round trained on them, and evidence about others would favour the release.
    margin : as in `judge`.
    again : asks a model that was judged on other examples about these validation examples; None
        if it cannot be.

    Returns
    -------
    What inspects parts from now on.
    """
    with store.exclusive():
        deployed = store.deployed()
        if deployed is not None and deployed.version == candidate.number:
            return deployed
        if deployed is None:
            return store.deploy(candidate, why="the plant had no model before")
        current = store.version(deployed.version)
        if paired.doubt:
            return store.deploy(current, why=f"kept what it had: {paired.doubt}")
        if not (rivals := _rivals(store, current, candidate, again)):
            why = (
                "kept what it had: the labelled examples are others than it was judged on; before "
                "its next round the plant trains alone on these, which a release is then compared "
                "with"
            )
            return store.deploy(current, why=why)
        clean = slice(len(paired.strata))
        worth = paired.worth(store.evidence(candidate)[clean])
        verdicts = [
            judge(
                worth - paired.worth(evidence[clean]),
                paired.strata,
                margin=margin,
                confidence=TWINS if len(evidence) > len(paired.strata) else CONFIDENCE,
                said=paired.said,
                groups=paired.groups,
            )
            for evidence in rivals
        ]
        verdict = min(verdicts, key=lambda one: one.low)
        return store.deploy(candidate if verdict.adopt else current, why=verdict.why)


def _rivals(
    store: PersonalStore,
    current: Version,
    candidate: Version,
    again: Callable[[Version], Array | None],
) -> list[Array]:
    """Return the evidence that a candidate must not be worse than, about the same examples.

    That of what the plant runs. Where it was judged on others: what the plant trained alone on
    these, and what it runs itself, if it can be asked again.
    """
    if current.judged == candidate.judged:
        return [store.evidence(current)]
    alone = [v for v in store.versions() if v.kind == "local" and v.judged == candidate.judged]
    said = again(current)
    return [*map(store.evidence, alone[-1:]), *([] if said is None else [said])]


def judge(
    difference: Array,
    strata: Array,
    *,
    margin: float,
    confidence: float = CONFIDENCE,
    said: Callable[[str], str] = "is worth {} more".format,
    groups: Array | None = None,
) -> Verdict:
    """Compare two models on the same validation examples.

    Parameters
    ----------
    difference : what the candidate's predictions are worth more than those of the current model,
        float64, shape (examples,).
    strata : which examples belong together, int64, shape (examples,); every stratum counts alike.
    margin : how much worse the candidate may be, in units of worth.
    confidence : of the lower bound, one-sided.
    said : puts a gain into words.
    groups : examples that are one piece of evidence: their mean difference counts.
    """
    evidence = f"{len(strata)} validation examples"
    if groups is not None:
        difference, strata = _by_group(difference, strata, groups)
        evidence += f" in {len(strata)} groups"
    known, place, counts = np.unique(strata, return_inverse=True, return_counts=True)
    weights = 1.0 / (len(known) * counts[place])
    gain = float(weights @ difference)
    low = gain - _half_width(difference, place, counts, confidence=confidence)
    adopt = low >= -margin
    verb = "adopted" if adopt else "kept what it had"
    why = (
        f"{verb}: on {evidence} the federated model {said(f'{gain:+.3f}')} "
        f"(lower bound {low:+.3f}, needed {0.0 - margin:+.3f})"
    )
    return Verdict(adopt=adopt, gain=gain, low=low, why=why)


def _by_group(difference: Array, strata: Array, groups: Array) -> tuple[Array, Array]:
    """Return the mean difference of each group within a stratum, and its stratum."""
    pairs, place = np.unique(np.column_stack([strata, groups]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    return np.bincount(place, weights=difference) / np.bincount(place), pairs[:, 0]


def _half_width(
    difference: npt.NDArray[np.float64],
    place: npt.NDArray[np.intp],
    counts: npt.NDArray[np.intp],
    *,
    confidence: float,
) -> float:
    """Return the stratified standard error times `quantile`, the larger of two.

    One with the variance pooled over strata, one with each stratum's own, its degrees of freedom
    by Satterthwaite (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28): a rare class that is
    the noisy one is not lost among many calm examples. A stratum of one example has the pooled
    variance; with one example in each there is none to estimate, and the width has no bound.
    """
    freedom = len(difference) - len(counts)
    if freedom < 1:
        return math.inf
    means = np.bincount(place, weights=difference) / counts
    squares = np.bincount(place, weights=(difference - means[place]) ** 2)
    pooled = float(squares.sum()) / freedom
    each = np.where(counts > 1, counts - 1, freedom)
    own = np.where(counts > 1, squares / each, pooled) / counts
    widths = [quantile(confidence, freedom=freedom) * math.sqrt(pooled * float((1 / counts).sum()))]
    if total := float(own.sum()):
        fewer = max(1, int(1 / float(((own / total) ** 2 / each).sum()) + 1e-9))
        widths.append(quantile(confidence, freedom=fewer) * math.sqrt(total))
    return max(widths) / len(counts)


def quantile(probability: float, *, freedom: int) -> float:
    """Return a quantile of Student's distribution.

    Exact for one and two degrees of freedom, then the expansion 26.7.5 of Abramowitz and Stegun,
    "Handbook of Mathematical Functions": at `CONFIDENCE` and `TWINS` within 0.0004, from five on
    0.00003.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
