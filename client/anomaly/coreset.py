"""A few patches that stand for many: greedy k-centre, as PatchCore picks its memory.

Always the patch that is furthest from all those picked so far (Sener and Savarese 2018,
https://arxiv.org/abs/1708.00489; in PatchCore section 3.2): no good patch is further from the
memory than need be, so rare good texture stays in it where a random draw would lose it. Distances
are taken in a random projection that keeps them about (Johnson and Lindenstrauss), where that is
smaller.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: How far a projected distance may be off; the paper's.
_ERROR = 0.9

#: Among at most so many patches is searched, drawn at random: time grows with their number.
MOST = 60_000


def coreset(patches: Tensor, *, size: int, seed: int) -> Tensor:
    """Pick patches.

    Parameters
    ----------
    patches : shape (N, D).
    size : how many to pick; all of them if there are fewer.
    seed : of the first one, the projection and the draw.

    Returns
    -------
    int64 indices, shape (min(size, N),), in the order in which they were picked.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(patches), generator=generator)[:MOST].to(patches.device)
    if len(patches) <= size:
        return order.sort().values
    points = _project(patches[order], generator)
    norms = (points * points).sum(dim=1)
    far = torch.full_like(norms, torch.inf)
    picked = torch.zeros(min(size, len(order)), dtype=torch.int64, device=points.device)
    for turn in range(len(picked)):
        # The first is the first of the random order.
        place = far.argmax() if turn else picked[0]
        picked[turn] = place
        centre = points[place]
        # Squared distances: the furthest is the same one. What was picked is never picked again.
        far = torch.minimum(far, norms - 2 * (points @ centre) + norms[place])
        far[place] = -torch.inf
    return order[picked]


def _project(points: Tensor, generator: torch.Generator) -> Tensor:
    """Project to as few dimensions as keep distances within `_ERROR`, if that is fewer."""
    width = math.ceil(4 * math.log(len(points)) / (_ERROR**2 / 2 - _ERROR**3 / 3))
    if width >= points.shape[1]:
        return points
    axes = torch.randn(points.shape[1], width, generator=generator) / math.sqrt(width)
    return points @ axes.to(points.device)
