"""The family of patches: torchvision's models up to their middle, with a memory for a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import architecture
from common.backbones.family import Body, Channels
from common.backbones.image import IMAGE
from common.backbones.memory import MemoryHead
from common.backbones.patches import PatchBody, find_taps
from common.config import FederationConfig
from common.errors import BackboneError
from common.weights import read_weights


class PatchFamily:
    """Cut models, with torchvision's weights, a file of the user's, or a release."""

    def construct(self, config: FederationConfig, *, seed: int) -> Body:
        model = IMAGE.construct(config, seed=seed).module
        taps = find_taps(IMAGE.outline(config).module, image_size=config.image_size)
        return _body(PatchBody(model, taps=taps))

    def settle(self, config: FederationConfig, *, base: Path) -> FederationConfig:
        return IMAGE.settle(config, base=base)

    def outline(self, config: FederationConfig) -> Body:
        model = IMAGE.outline(config).module
        taps = find_taps(model, image_size=config.image_size)
        with torch.device("meta"):
            return _body(PatchBody(model, taps=taps))

    def stem(self, config: FederationConfig, columns: Any) -> nn.Module:
        return nn.Identity()

    def head(self, config: FederationConfig, *, features: int, outputs: int) -> nn.Module:
        return MemoryHead(features, size=config.anomaly.memory)

    def fill(
        self, config: FederationConfig, body: nn.Module, *, base: Path
    ) -> tuple[Channels, Channels]:
        """Fill the whole model and take what is needed of it; a release has no more than that."""
        assert isinstance(body, PatchBody), "this family builds patch bodies"
        weights = read_weights(config.weights, backbone=config.backbone, base=base)
        if weights is not None and all(name.startswith("trunk.") for name in weights.tensors):
            _fill_trunk(body, dict(weights.tensors), config=config)
            return weights.mean, weights.std
        whole = architecture.construct(config.backbone, image_size=config.image_size, seed=0)
        normalisation = IMAGE.fill(config, whole, base=base)
        if weights is not None:
            own = body.trunk.state_dict()
            given = whole.state_dict()
            body.trunk.load_state_dict({name: given[name] for name in own})
        return normalisation


PATCHES = PatchFamily()


def _body(module: PatchBody) -> Body:
    return Body(module=module, features=module.width)


def _fill_trunk(
    body: PatchBody, given: dict[str, torch.Tensor], *, config: FederationConfig
) -> None:
    """Copy a release of this family into a body."""
    own = {n: t for n, t in body.state_dict().items() if t.is_floating_point()}
    for name, tensor in own.items():
        if name not in given or given[name].shape != tensor.shape:
            got = tuple(given[name].shape) if name in given else "none"
            raise BackboneError(
                f"weights must be those of {config.backbone}, got {config.weights}: {name} must "
                f"have shape {tuple(tensor.shape)}, it has {got}; use the backbone that they were "
                "trained with"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
