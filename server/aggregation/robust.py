"""Rules that hold when some plants lie: each says how many plants it needs, and refuses fewer.

Weights are not used: a liar would choose a large one. Vectors come sorted by plant, so the result
does not depend on who answered first. Distances are taken once for all rules, in chunks; nothing
but the vectors themselves, and one distance for each pair, is held.

======================  ==============  ==========================================================
rule                    plants for f    source
======================  ==============  ==========================================================
`median`                2f + 1          Yin et al. 2018, https://arxiv.org/abs/1803.01498
`trimmed_mean`          2f + 1          the same
`krum`, `multi_krum`    2f + 3          Blanchard et al. 2017, https://arxiv.org/abs/1703.02757
`bulyan`                4f + 3          El Mhamdi et al. 2018, https://arxiv.org/abs/1802.07927
`geometric_median`      2f + 1          Pillutla et al. 2022 (RFA), https://arxiv.org/abs/1912.13445
`centred_clipping`      2f + 1          Karimireddy et al. 2021, https://arxiv.org/abs/2012.10333
`norm_bound`            2f + 1          Sun et al. 2019, https://arxiv.org/abs/1911.07963
======================  ==============  ==========================================================

None of them can work on masked vectors: under secure aggregation the norm is bounded at the plant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from common.errors import AggregationError
from common.update import Vector

Rule = Callable[[Sequence[Vector], int], Vector]
Floats = npt.NDArray[np.float64]

CHUNK = 1 << 16  #: values worked on at a time
STEPS = 50  #: of iterative rules, at most
TOLERANCE = 1e-7  #: relative change at which they stop


def median(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the median of each coordinate."""
    _need("median", vectors, 2 * faulty + 1)
    return _by_chunk(vectors, lambda block: np.median(block, axis=0))


def trimmed_mean(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the mean of each coordinate without its ``faulty`` largest and smallest values."""
    _need("trimmed_mean", vectors, 2 * faulty + 1)
    stop = len(vectors) - faulty

    def inner(block: Floats) -> Floats:
        return np.asarray(np.sort(block, axis=0)[faulty:stop].mean(axis=0))

    return _by_chunk(vectors, inner)


def krum(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the vector that is nearest to its ``n - f - 2`` nearest others."""
    _need("krum", vectors, 2 * faulty + 3)
    return vectors[_nearest(distances(vectors), faulty, count=1)[0]].copy()


def multi_krum(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the mean of the ``n - f`` vectors that Krum ranks first."""
    _need("multi_krum", vectors, 2 * faulty + 3)
    chosen = _nearest(distances(vectors), faulty, count=len(vectors) - faulty)
    return _mean([vectors[number] for number in chosen])


def bulyan(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Select ``n - 2f`` vectors by Krum, one after the other, then trim around their median."""
    _need("bulyan", vectors, 4 * faulty + 3)
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
    _need("geometric_median", vectors, 2 * faulty + 1)
    point = _mean(vectors)
    for _ in range(STEPS):
        away = np.array([_distance(vector, point) for vector in vectors])
        smooth = max(TOLERANCE * float(away.max()), 1e-30)
        shares = 1.0 / np.maximum(away, smooth)
        last, point = point, _mean(vectors, shares / shares.sum())
        if _distance(last, point) <= TOLERANCE * max(float(away.max()), 1e-30):
            break
    return point


def centred_clipping(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Move from the median towards the mean of differences, each clipped to their median length."""
    _need("centred_clipping", vectors, 2 * faulty + 1)
    point = median(vectors, faulty)
    for _ in range(3):
        away = np.array([_distance(vector, point) for vector in vectors])
        radius = float(np.median(away))
        shares = np.minimum(1.0, radius / np.maximum(away, 1e-30)) / len(vectors)
        # point + sum(share * (vector - point))
        point = _mean([*vectors, point], np.append(shares, 1.0 - shares.sum()))
    return point


def norm_bound(vectors: Sequence[Vector], faulty: int) -> Vector:
    """Return the mean of vectors clipped to the median of their norms."""
    _need("norm_bound", vectors, 2 * faulty + 1)
    norms = np.array([_distance(vector, None) for vector in vectors])
    bound = float(np.median(norms))
    shares = np.minimum(1.0, bound / np.maximum(norms, 1e-30)) / len(vectors)
    return _mean(vectors, shares)


#: ``server.rule`` of federation.toml, beside ``mean``.
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


def _need(rule: str, vectors: Sequence[Vector], fewest: int) -> None:
    if len(vectors) < fewest:
        raise AggregationError(
            f"{rule} must have at least {fewest} replies for this many faulty plants, got "
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
