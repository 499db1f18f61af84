"""Made-up defects on held-out good parts: what there is to compare models by where no part is bad.

They are on purpose of another kind than what the rounds train on (`client.anomaly.cutpaste`): a
model that learned to see pasted rectangles would win every comparison on pasted rectangles. Here a
blotch of changed brightness (a ragged mask from smooth noise, as in DRAEM, Zavrtanik et al. 2021,
https://arxiv.org/abs/2108.07610), a thin wandering line, a place where the structure is blurred
away, and a ragged place that shows another good part. Their strength varies down to what can hardly
be seen, so that models differ on them.

They are not real defects. Where they and the real ones disagree, the real ones are right: a plant
that has some should let them take part (``anomaly.validation_defects``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

#: Change of brightness, of 255: from hardly visible to plain.
_STRENGTH = (12.0, 70.0)


def damage(images: Tensor, *, seed: int) -> Tensor:
    """Put one made-up defect on each image; the kinds take turns.

    Parameters
    ----------
    images : uint8, shape (B, 3, S, S).
    seed : the same seed puts the same defects on the same images.

    Returns
    -------
    as ``images``.
    """
    if not len(images):
        return images
    values = images.cpu().float()
    changed = [
        _KINDS[place % len(_KINDS)](
            values[place], values[place - 1], torch.Generator().manual_seed(seed + place)
        )
        for place in range(len(values))
    ]
    return torch.stack(changed).round().clamp(0, 255).to(images)


def _blotch(image: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    mask = _ragged(image.shape[-1], generator, radius=(0.06, 0.16))
    return image + mask * _strength(generator) * 0.7


def _line(image: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    side = image.shape[-1]
    length, heading, bend = _uniform(generator, (0.15, 0.55), (0.0, 2 * math.pi), (0.0, 0.1))
    count = max(4, round(length * side))
    headings = heading + bend * torch.randn(count, generator=generator).cumsum(0)
    step = length * side / count
    moves = step * torch.stack([headings.sin(), headings.cos()], dim=1)
    path = _start(side, generator) + moves.cumsum(0) - moves.sum(0) / 2
    y, x = _grid(side)
    far = (y[..., None] - path[:, 0]).square() + (x[..., None] - path[:, 1]).square()
    width = max(0.7, side * 0.009)
    mask = (-far.min(dim=2).values / width**2).exp()
    return image + mask * _strength(generator)


def _blur(image: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    side = image.shape[-1]
    mask = _ragged(side, generator, radius=(0.07, 0.15))
    sigma = 0.04 * side
    reach = min(2 * int(3 * sigma) + 1, 2 * ((side - 1) // 2) - 1)
    smooth: Tensor = vision.gaussian_blur(image[None], [reach, reach], [sigma, sigma])[0]
    return image + mask * (smooth - image)


def _foreign(image: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Show another part, brought to the brightness around, at a ragged place."""
    mask = _ragged(image.shape[-1], generator, radius=(0.05, 0.13))
    inside = mask / mask.sum().clamp_min(1e-6)
    shift = (inside * (image - other)).sum(dim=(1, 2), keepdim=True)
    return image + mask * (other + shift - image)


_KINDS = (_blotch, _line, _blur, _foreign)


def _ragged(side: int, generator: torch.Generator, *, radius: tuple[float, float]) -> Tensor:
    """Return a mask from 0 to 1 with a soft ragged edge, shape (side, side)."""
    (share,) = _uniform(generator, radius)
    centre = _start(side, generator)
    coarse = torch.randn(1, 1, 9, 9, generator=generator)
    noise = functional.interpolate(coarse, size=(side, side), mode="bicubic")[0, 0]
    y, x = _grid(side)
    far = ((y - centre[0]).square() + (x - centre[1]).square()).sqrt()
    edge = side * share * (1 + 0.3 * noise)
    return torch.sigmoid((edge - far) / (0.012 * side))


def _strength(generator: torch.Generator) -> float:
    value, sign = _uniform(generator, _STRENGTH, (-1.0, 1.0))
    return math.copysign(value, sign)


def _start(side: int, generator: torch.Generator) -> Tensor:
    """Return a place (y, x) away from the border."""
    return (0.2 + 0.6 * torch.rand(2, generator=generator)) * side


def _grid(side: int) -> tuple[Tensor, Tensor]:
    place = torch.arange(side) + 0.5
    return place[:, None].expand(side, side), place[None, :].expand(side, side)


def _uniform(generator: torch.Generator, *ranges: tuple[float, float]) -> list[float]:
    chance = torch.rand(len(ranges), generator=generator).tolist()
    return [low + c * (high - low) for c, (low, high) in zip(chance, ranges, strict=True)]
