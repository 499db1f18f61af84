"""What an image goes through before the network, on whole batches and on any device.

Industrial parts may lie either way round and the light drifts, so: flips, a small turn, shift
and zoom, brightness and contrast. Flips and the affine map are one resampling of the batch (one
`grid_sample`), with parameters of its own for every image. All randomness comes from a generator
that is passed in, on the CPU, so that a run repeats on any device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

#: Limits at strength 1.
TURN = math.radians(10.0)
ZOOM = math.log(1.1)
SHIFT = 0.06 * 2  # of the side; `affine_grid` spans -1 to 1
LIGHT = 0.3


class Normalise:
    """uint8 (B, 3, S, S) to float32 (B, 3, S, S), ``(x / 255 - mean) / std``, channels_last."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.steps = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        )

    def __call__(self, batch: Tensor) -> Tensor:
        images: Tensor = self.steps(batch)
        return images.contiguous(memory_format=torch.channels_last)


class _Drawn(v2.Transform, ABC):  # type: ignore[misc]  # torchvision ships no types
    """A transform of (images, generator) whose parameters come from the generator."""

    _transformed_types = (Tensor, torch.Generator)

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        images, generator = flat_inputs
        return {"drawn": self.draw(len(images), generator).to(images.device, non_blocking=True)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt if isinstance(inpt, torch.Generator) else self.apply_to(inpt, params["drawn"])

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the parameters of ``count`` images on the CPU."""

    @abstractmethod
    def apply_to(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Transform float images (B, 3, S, S)."""


class Place(_Drawn):
    """Flips, turn, zoom and shift; what comes in over the edge is mirrored."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return affine matrices, float32 (count, 2, 3), from output to input coordinates."""
        turn, zoom, right, down = _uniform((4, count), generator) * self.strength
        across, upright = torch.randint(0, 2, (2, count), generator=generator) * 2.0 - 1.0
        scale = torch.exp(zoom * ZOOM)
        cos, sin = torch.cos(turn * TURN) * scale, torch.sin(turn * TURN) * scale
        rows = [across * cos, -sin * upright, right * SHIFT, across * sin, cos * upright]
        return torch.stack([*rows, down * SHIFT], dim=1).reshape(count, 2, 3)

    def apply_to(self, images: Tensor, drawn: Tensor) -> Tensor:
        grid = functional.affine_grid(drawn, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


class Light(_Drawn):
    """Contrast by up to 30 %, brightness by up to 30 % of the input's deviation."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (factor, offset), float32 (2, count, 1, 1, 1)."""
        contrast, brightness = _uniform((2, count), generator) * self.strength
        factor = torch.exp(contrast * math.log1p(LIGHT))
        return torch.stack([factor, brightness * LIGHT]).reshape(2, count, 1, 1, 1)

    def apply_to(self, images: Tensor, drawn: Tensor) -> Tensor:
        factor, offset = drawn
        return torch.addcmul(offset, images, factor)


class Augment:
    """Normalised and randomly changed batches for training.

    Parameters
    ----------
    strength : 1 for flips, turns of ±10°, zoom of ±10 %, shifts of ±6 % and light of ±30 %;
        0 for none at all.
    mean, std : input normalisation a channel.
    """

    def __init__(self, strength: float, mean: Sequence[float], std: Sequence[float]) -> None:
        self.normalise = Normalise(mean, std)
        self.steps = v2.Compose([Place(strength), Light(strength)]) if strength > 0 else None

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return float32 (B, 3, S, S) in channels_last.

        Parameters
        ----------
        batch : uint8, shape (B, 3, S, S), on any device.
        generator : on the CPU.
        """
        images = self.normalise(batch)
        if self.steps is None:
            return images
        changed: Tensor = self.steps(images, generator)[0]
        return changed.contiguous(memory_format=torch.channels_last)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * 2.0 - 1.0
