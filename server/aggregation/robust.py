"""Rules that hold when some plants lie: each says how many plants it needs, and refuses fewer.

Weights are not used: a liar would choose a large one. Vectors come sorted by plant, so the result
does not depend on who answered first. Distances are taken once for all rules, in chunks; nothing
but the vectors themselves, and one distance for each pair, is held.

How many plants each needs, its paper, and whether it works on masked vectors: `common.combining`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from common.combining import RULES as NEEDS
from common.errors import AggregationError
from common.update import Vector

Rule = Callable[[Sequence[Vector], int], Vector]
Floats = npt.NDArray[np.float64]

CHUNK = 1 << 16  #: values worked on at a time
STEPS = 50  #: of iterative rules, at most
TOLERANCE = 1e-7  #: relative change at which they stop


def median(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the median of each coordinate."""
    _need("median", vectors, faulty)
    return _by_chunk(vectors, lambda block: np.median(block, axis=0))


def trimmed_mean(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the mean of each coordinate without its ``faulty`` largest and smallest values."""
    _need("trimmed_mean", vectors, faulty)
    stop = len(vectors) - faulty

    def inner(block: Floats) -> Floats:
        return np.asarray(np.sort(block, axis=0)[faulty:stop].mean(axis=0))

    return _by_chunk(vectors, inner)


def krum(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the vector that is nearest to its ``n - f - 2`` nearest others."""
    _need("krum", vectors, faulty)
    return vectors[_nearest(distances(vectors), faulty, count=1)[0]].copy()


def multi_krum(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the mean of the ``n - f`` vectors that Krum ranks first."""
    _need("multi_krum", vectors, faulty)
    chosen = _nearest(distances(vectors), faulty, count=len(vectors) - faulty)
    return _mean([vectors[number] for number in chosen])


def bulyan(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Select ``n - 2f`` vectors by Krum, one after the other, then trim around their median."""
    _need("bulyan", vectors, faulty)
    apart = distances(vectors)
    left = list(range(len(vectors)))
    chosen: list[int] = []
    while len(chosen) < len(vectors) - 2 * faulty:
        best = left[_nearest(apart[np.ix_(left, left)], faulty, count=1)[0]]
        chosen.append(best)
        left.remove(best)
    kept = len(chosen) - 2 * faulty

    def around_median(block: Floats) -> Floats:
        order = np.argsort(np.abs(block - np.median(block, axis=0)), axis=0, kind="stable")
        return np.asarray(np.take_along_axis(block, order[:kept], axis=0).mean(axis=0))

    return _by_chunk([vectors[number] for number in sorted(chosen)], around_median)


def geometric_median(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the point with the least sum of distances, by smoothed Weiszfeld steps."""
    _need("geometric_median", vectors, faulty)
    point = _mean(vectors)
    for _ in range(STEPS):
        away = np.array([_distance(vector, point) for vector in vectors])
        smooth = max(TOLERANCE * float(away.max()), 1e-30)
        shares = 1.0 / np.maximum(away, smooth)
        last, point = point, _mean(vectors, shares / shares.sum())
        if _distance(last, point) <= TOLERANCE * max(float(away.max()), 1e-30):
            break
    return point


def centred_clipping(
    vectors: Sequence[Vector], faulty: int, *, radius: float | None = None
) -> Vector:
    """Move from the median towards the mean of differences, each clipped.

    Parameters
    ----------
    radius : to which length; None for the median of their lengths.
    """
    _need("centred_clipping", vectors, faulty)
    point = median(vectors, faulty)
    for _ in range(3):
        away = np.array([_distance(vector, point) for vector in vectors])
        limit = float(np.median(away)) if radius is None else radius
        shares = np.minimum(1.0, limit / np.maximum(away, 1e-30)) / len(vectors)
        # point + sum(share * (vector - point))
        point = _mean([*vectors, point], np.append(shares, 1.0 - shares.sum()))
    return point


def norm_bound(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the mean of vectors clipped to the median of their norms."""
    _need("norm_bound", vectors, faulty)
    norms = np.array([norm(vector) for vector in vectors])
    bound = float(np.median(norms))
    shares = np.minimum(1.0, bound / np.maximum(norms, 1e-30)) / len(vectors)
    return _mean(vectors, shares)


#: ``server.rule`` of federation.toml, beside ``mean``. `norm_bound` with a radius streams
#: (`server.aggregation.rules`).
RULES: dict[str, Rule] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "geometric_median": geometric_median,
    "centred_clipping": centred_clipping,
    "norm_bound": norm_bound,
}


def distances(vectors: Sequence[Vector]) -> Floats:
    """Return squared distances, float64 of shape (vectors, vectors)."""
    count = len(vectors)
    found = np.zeros((count, count))
    for one in range(count):
        for other in range(one):
            found[one, other] = found[other, one] = _distance(vectors[one], vectors[other]) ** 2
    return found


def norm(vector: Vector) -> float:
    """Return the Euclidean norm, summed in float64."""
    return _distance(vector, None)


def _need(rule: str, vectors: Sequence[Vector], faulty: int) -> None:
    if len(vectors) < (fewest := NEEDS[rule].fewest(faulty)):
        raise AggregationError(
            f"{rule} must have at least {fewest} replies where {faulty} may lie, got "
            f"{len(vectors)}; lower server.faulty or raise min_plants"
        )


def _nearest(apart: Floats, faulty: int, *, count: int) -> list[int]:
    """Return the positions with the smallest Krum score, best first; ties go to the first."""
    others = max(1, len(apart) - faulty - 2)
    scores = np.sort(apart, axis=1)[:, 1 : 1 + others].sum(axis=1)
    return [int(number) for number in np.argsort(scores, kind="stable")[:count]]


def _distance(one: Vector, other: Vector | None) -> float:
    total = 0.0
    for start in range(0, one.size, CHUNK):
        part = one[start : start + CHUNK].astype(np.float64)
        if other is not None:
            part -= other[start : start + CHUNK]
        total += float(np.square(part, out=part).sum())
    return float(np.sqrt(total))


def _mean(vectors: Sequence[Vector], shares: Floats | None = None) -> Vector:
    if shares is None:
        shares = np.full(len(vectors), 1.0 / len(vectors))
    return _by_chunk(vectors, lambda block: np.einsum("n,nv->v", shares, block))


def _by_chunk(vectors: Sequence[Vector], rule: Callable[[Floats], Floats]) -> Vector:
    """Apply a rule to float64 blocks of shape (vectors, values)."""
    result = np.empty_like(vectors[0])
    for start in range(0, result.size, CHUNK):
        place = slice(start, start + CHUNK)
        result[place] = rule(np.stack([vector[place] for vector in vectors]).astype(np.float64))
    return result
