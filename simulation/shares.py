"""Who gets how many images of which class, and which groups: pure functions.

Classes are spread evenly (``iid``) or skewed by a Dirichlet distribution (Hsu et al. 2019,
https://arxiv.org/abs/1909.06335: the smaller alpha, the more one-sided each plant).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError, DataError

Counts = npt.NDArray[np.int64]  # shape (classes, plants)

#: Draws of a skewed distribution before it is taken for impossible.
TRIES = 200


@dataclass(frozen=True, kw_only=True)
class Part:
    """One image and where it goes.

    Attributes
    ----------
    file : path relative to the product's folder.
    label : index of its class.
    group : images of one group go to one plant.
    """

    file: str
    label: int
    group: str


def parse_labels(text: str) -> float | None:
    """Return None for ``iid`` and alpha for ``dirichlet:ALPHA``.

    Raises
    ------
    ConfigError
        If the text is neither.
    """
    if text == "iid":
        return None
    match = re.fullmatch(r"dirichlet:(\d+(?:\.\d*)?|\.\d+)", text)
    if match and float(match[1]) > 0:
        return float(match[1])
    raise ConfigError(
        f"labels must be iid or dirichlet:ALPHA with a number above 0, got {text!r}; for example "
        "dirichlet:0.3"
    )


def quotas(
    totals: Sequence[int],
    *,
    plants: int,
    alpha: float | None,
    minimum: int,
    rng: np.random.Generator,
) -> Counts:
    """Say how many images of each class each plant should get.

    Parameters
    ----------
    totals : images of each class, each above 0.
    alpha : of the Dirichlet distribution over plants; None for equal shares.

    Returns
    -------
    int64, shape (classes, plants). Rows sum to ``totals``; an entry is 0 or at least ``minimum``
    (or all there are, of a class with fewer); each plant has at least two classes.

    Raises
    ------
    DataError
        If there is no such distribution, or none was found.
    """
    places = sum(min(plants, max(1, total // minimum)) for total in totals)
    if places < 2 * plants:
        raise DataError(
            f"images must be enough for {plants} plants with two classes of at least {minimum} "
            f"images each, got {sum(totals)} images in {len(totals)} classes; use fewer plants"
        )
    for _ in range(TRIES):
        rows = [_spread(n, plants=plants, alpha=alpha, minimum=minimum, rng=rng) for n in totals]
        found = np.stack(rows)
        if np.all(np.count_nonzero(found, axis=0) >= 2):
            return found
    raise DataError(
        f"labels dirichlet:{alpha} must leave each of {plants} plants two classes, got none in "
        f"{TRIES} draws; use a larger alpha or fewer plants"
    )


def _spread(
    total: int, *, plants: int, alpha: float | None, minimum: int, rng: np.random.Generator
) -> Counts:
    """Spread one class: largest shares first, as many plants as reach the minimum."""
    shares = np.full(plants, 1 / plants) if alpha is None else rng.dirichlet([alpha] * plants)
    order = np.lexsort((rng.random(plants), -shares))
    for holders in range(min(plants, max(1, total // minimum)), 0, -1):
        chosen = order[:holders]
        exact = total * shares[chosen] / shares[chosen].sum()
        if holders == 1 or exact.min() >= minimum:
            break
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = np.argsort(whole - exact, kind="stable")[: total - whole.sum()]
    whole[rest] += 1
    spread = np.zeros(plants, dtype=np.int64)
    spread[chosen] = whole
    return spread


def assign(parts: Sequence[Part], wanted: Counts, *, minimum: int) -> list[list[Part]]:
    """Give each group to the plant that lacks most of what is in it.

    Where groups hold several classes, quotas are met only roughly; a class that ends with fewer
    than ``minimum`` images at a plant is left out there, unless the plant has most of it.

    Returns
    -------
    the parts of each plant.
    """
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.group, []).append(part)
    missing = wanted.astype(np.float64)
    shares: list[list[Part]] = [[] for _ in range(wanted.shape[1])]
    for group in sorted(groups.values(), key=lambda group: (-len(group), group[0].group)):
        content = np.bincount([part.label for part in group], minlength=len(wanted))
        plant = int(np.argmax(content @ missing))
        missing[:, plant] -= content
        shares[plant] += group
    counts = [Counter(part.label for part in share) for share in shares]
    most = [max(count[label] for count in counts) for label in range(len(wanted))]
    return [
        [part for part in share if count[part.label] >= min(minimum, most[part.label])]
        for share, count in zip(shares, counts, strict=True)
    ]
