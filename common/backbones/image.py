"""The family of images: any torchvision classification model without its class layer."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from common import architecture
from common.backbones.family import Body, Channels
from common.config import FederationConfig
from common.errors import BackboneError
from common.weights import HALF, read_weights


class ImageFamily:
    """Torchvision's models, with torchvision's weights or a file of the user's."""

    def settle(self, config: FederationConfig, *, base: Path) -> FederationConfig:
        return config

    def construct(self, config: FederationConfig, *, seed: int) -> Body:
        found = architecture.layout(config.backbone, image_size=config.image_size)
        module = architecture.construct(config.backbone, image_size=config.image_size, seed=seed)
        return Body(module=module, features=found.features)

    def outline(self, config: FederationConfig) -> Body:
        found = architecture.layout(config.backbone, image_size=config.image_size)
        module = architecture.outline(config.backbone, image_size=config.image_size)
        return Body(module=module, features=found.features)

    def stem(self, config: FederationConfig, columns: Any) -> nn.Module:
        return nn.Identity()

    def head(self, config: FederationConfig, *, features: int, outputs: int) -> nn.Module:
        return nn.Linear(features, outputs)

    def fill(
        self, config: FederationConfig, body: nn.Module, *, base: Path
    ) -> tuple[Channels, Channels]:
        weights = read_weights(config.weights, backbone=config.backbone, base=base)
        if weights is None:
            return HALF, HALF
        found = architecture.layout(config.backbone, image_size=config.image_size)
        problem = _fill(body, weights.tensors, optional=found.optional)
        if problem:
            raise BackboneError(
                f"weights must be those of {config.backbone}, got {config.weights}: {problem}; set "
                "backbone to the architecture of these weights"
            )
        return weights.mean, weights.std


IMAGE = ImageFamily()


def _fill(
    backbone: nn.Module, tensors: Mapping[str, torch.Tensor], *, optional: frozenset[str]
) -> str:
    """Copy weights into a backbone, or say what does not fit and copy nothing."""
    own = backbone.state_dict()
    given: Mapping[str, torch.Tensor] = {
        name: value for name, value in tensors.items() if name in own or name not in optional
    }
    if isinstance(backbone, VisionTransformer):
        given = _resized(backbone, given)
    both = [name for name in own if name in given]
    problems = {
        "missing": [name for name in own if own[name].is_floating_point() and name not in given],
        "unexpected": [name for name in given if name not in own],
        "misfit": [
            f"{name} {difference}"
            for name in both
            if (difference := _difference(given[name], own[name]))
        ],
        "not finite": [name for name in both if not given[name].isfinite().all()],
    }
    if not any(problems.values()):
        with torch.no_grad():
            for name in both:
                own[name].copy_(given[name])
    return "; ".join(f"{what} {_listed(names)}" for what, names in problems.items() if names)


def _difference(got: torch.Tensor, want: torch.Tensor) -> str:
    if got.shape != want.shape:
        return f"({tuple(got.shape)} for {tuple(want.shape)})"
    return "" if got.dtype == want.dtype else f"({got.dtype} for {want.dtype})"


def _listed(names: list[str]) -> str:
    """Name at most five."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _resized(
    backbone: VisionTransformer, tensors: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """Interpolate a position embedding that was learned for images of another size."""
    name = "encoder.pos_embedding"
    own = backbone.encoder.pos_embedding
    found = tensors.get(name)
    if (
        found is None
        or found.shape == own.shape
        or found.shape != (1, found.shape[1], own.shape[2])
        or math.isqrt(found.shape[1] - 1) ** 2 != found.shape[1] - 1
    ):
        return tensors
    resized: Mapping[str, torch.Tensor] = interpolate_embeddings(
        backbone.image_size, backbone.patch_size, OrderedDict(tensors)
    )
    return resized
