"""What the backbone learns from good parts alone: to tell them from ones with a piece moved.

CutPaste (Li et al. 2021, https://arxiv.org/abs/2104.04015), its three-way form: a part as it is,
one with a rectangle of it pasted elsewhere, one with a thin turned strip of it pasted elsewhere (a
scar), each pasted piece a little changed in light. Nothing of this looks like a real defect; what
it asks for is an eye for structure that does not continue.

All images of a batch are changed at once, each with parameters of its own from the generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

#: The classes that a plant's head tells apart, in the order of their numbers.
KINDS = ("good", "patch", "scar")

#: Of the image: area of a rectangle, and its aspect ratio either way.
_AREA = (0.02, 0.15)
_ASPECT = (0.3, 1.0)
#: Of the image's side: length and width of a scar (the paper's 10 to 25 and 2 to 16 of 256 pixels).
_LENGTH = (10 / 256, 25 / 256)
_WIDTH = (2 / 256, 16 / 256)
_TURN = math.radians(45.0)
#: Of the pasted piece's brightness and contrast; the paper's strength of colour jitter.
_JITTER = 0.1


def cut_paste(images: Tensor, kinds: Tensor, *, generator: torch.Generator) -> Tensor:
    """Cut a piece of each image and paste it elsewhere on the same image.

    Parameters
    ----------
    images : float or uint8, shape (B, 3, S, S).
    kinds : indices into `KINDS`, shape (B,); 0 leaves the image as it is.
    generator : on the CPU.

    Returns
    -------
    as ``images``.
    """
    side = images.shape[-1]
    drawn = _draw(kinds.cpu(), generator).to(images.device)
    high, wide, turn, down, right, from_down, from_right, factor, offset = drawn[:, :, None, None]
    place = (torch.arange(side, device=images.device) + 0.5) / side
    y, x = place[None, :, None] - down, place[None, None, :] - right
    along = x * turn.cos() + y * turn.sin()
    across = y * turn.cos() - x * turn.sin()
    # A piece is never thinner than a pixel.
    half_high, half_wide = high.clamp_min(1 / side) / 2, wide.clamp_min(1 / side) / 2
    inside = (along.abs() <= half_wide) & (across.abs() <= half_high)
    grid = torch.stack([from_right + along, from_down + across], dim=3) * 2 - 1
    values = images.float()
    piece = functional.grid_sample(values, grid, padding_mode="reflection", align_corners=False)
    mean = piece.mean(dim=(1, 2, 3), keepdim=True)
    spread = values.std(dim=(1, 2, 3), keepdim=True)
    piece = (piece - mean) * factor[:, None] + mean + offset[:, None] * spread
    chosen = inside & (kinds.to(images.device) > 0)[:, None, None]
    changed = torch.where(chosen[:, None], piece, values)
    if images.dtype == torch.uint8:
        changed = changed.round().clamp(0, 255)
    return changed.to(images.dtype)


def _draw(kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Draw sizes, turns and places as shares of the side; float32, shape (9, B)."""
    count = len(kinds)
    chance = torch.rand(10, count, generator=generator)
    area = _between(chance[0], *_AREA)
    aspect = _between(chance[1], *map(math.log, _ASPECT)).exp()
    aspect = torch.where(chance[2] < 0.5, aspect, 1 / aspect)
    scar = kinds == 2
    high = torch.where(scar, _between(chance[0], *_LENGTH), (area * aspect).sqrt())
    wide = torch.where(scar, _between(chance[1], *_WIDTH), (area / aspect).sqrt())
    turn = torch.where(scar, _between(chance[3], -_TURN, _TURN), torch.zeros(count))
    places = [
        half + share * (1 - 2 * half)
        for half, share in zip([high / 2, wide / 2] * 2, chance[4:8], strict=True)
    ]
    factor = (_between(chance[8], -1, 1) * math.log1p(_JITTER)).exp()
    offset = _between(chance[9], -1, 1) * 2 * _JITTER
    return torch.stack([high, wide, turn, *places, factor, offset])


def _between(chance: Tensor, low: float, high: float) -> Tensor:
    return low + chance * (high - low)
