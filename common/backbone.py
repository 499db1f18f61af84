"""The network: a shared backbone from torchvision and a head, and what each tensor of it is.

Every plant makes other things, so class layers differ: the backbone is any torchvision
classification model without its class layer, and each plant puts a linear head of its own on
it (federated learning with personalisation layers, https://arxiv.org/abs/1912.00818). A
tensor's part follows from the type of the module that owns it, never from its name.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.ops.misc import FrozenBatchNorm2d

from common import architecture
from common.config import FederationConfig
from common.errors import BackboneError, UpdateError
from common.stages import Stage, stage_index, stages
from common.update import Tensors
from common.weights import HALF, Channels, read_weights

__all__ = [
    "Network", "Part", "Source", "Stage", "build", "has_norm", "load_source", "norm_layers",
    "outline", "parts", "read_tensors", "stage_index", "stages", "travelling", "write_tensors",
]  # fmt: skip

#: Modules whose tensors are normalisation: batch, instance, layer, group, RMS.
NORM = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, FrozenBatchNorm2d)


class Part(StrEnum):
    """What a tensor belongs to."""

    HEAD = "head"
    NORM = "norm"  #: of the backbone: weights and running statistics
    BODY = "body"  #: the rest of the backbone


class Network(nn.Module):
    """A backbone and a linear head.

    Attributes
    ----------
    backbone : torchvision model, identity in the place of its class layer.
    head : features to class scores.
    features : width of what the backbone gives.
    """

    def __init__(self, backbone: nn.Module, *, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, classes)
        self.features = features

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of shape (batch, features) of images of shape (batch, 3, side, side)."""
        features: torch.Tensor = self.backbone(images)
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return class scores (logits) of shape (batch, classes)."""
        scores: torch.Tensor = self.head(self.embed(images))
        return scores


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a federation starts from.

    Attributes
    ----------
    network : backbone with the source weights, and a random head.
    mean, std : of a channel, for input in [0, 1].
    """

    network: Network
    mean: Channels
    std: Channels


def build(name: str, *, classes: int, image_size: int = 224, seed: int = 0) -> Network:
    """Build a network with random weights, the same for the same arguments.

    The backbone's weights do not depend on the number of classes.

    Parameters
    ----------
    name : torchvision classification model.
    classes : outputs of the head.
    image_size : side of the square input, pixels. Vision transformers are built for it.
    seed : of the random weights; the caller's random state is untouched.

    Raises
    ------
    BackboneError
        If there is no such model, or it cannot take images of this size.
    """
    if classes < 1:
        raise BackboneError(f"classes must be at least 1, got {classes}; give the plant's classes")
    found = architecture.layout(name, image_size=image_size)
    backbone = architecture.construct(name, image_size=image_size, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Network(backbone, features=found.features, classes=classes)


def outline(name: str, *, classes: int, image_size: int = 224) -> Network:
    """Build a network without weights, for its tensors' names and shapes: nothing is allocated.

    Raises
    ------
    BackboneError
        As `build`.
    """
    found = architecture.layout(name, image_size=image_size)
    backbone = architecture.outline(name, image_size=image_size)
    with torch.device("meta"):
        return Network(backbone, features=found.features, classes=classes)


def load_source(config: FederationConfig, *, base: Path, classes: int = 2) -> Source:
    """Build a network and give it the weights that the configuration names.

    Parameters
    ----------
    base : folder that a relative path of weights starts from.
    classes : outputs of the head, which stays random.

    Raises
    ------
    BackboneError
        If the backbone is unknown, or weights cannot be had or do not fit; names the tensors.
    """
    network = build(
        config.backbone, classes=classes, image_size=config.image_size, seed=config.seed
    )
    weights = read_weights(config.weights, backbone=config.backbone, base=base)
    if weights is None:
        return Source(network=network, mean=config.mean or HALF, std=config.std or HALF)
    found = architecture.layout(config.backbone, image_size=config.image_size)
    problem = _fill(network.backbone, weights.tensors, optional=found.optional)
    if problem:
        raise BackboneError(
            f"weights must be those of {config.backbone}, got {config.weights}: {problem}; set "
            "backbone to the architecture of these weights"
        )
    return Source(network=network, mean=config.mean or weights.mean, std=config.std or weights.std)


def parts(network: Network) -> dict[str, Part]:
    """Say of every tensor that can travel what it belongs to, in a fixed order.

    These are parameters and floating-point buffers. Counters and index tables, which are
    integers, never travel.
    """
    found = {}
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            owner = network.get_submodule(name.rpartition(".")[0])
            if owner is network.head:
                found[name] = Part.HEAD
            else:
                found[name] = Part.NORM if isinstance(owner, NORM) else Part.BODY
    return found


def travelling(network: Network, *, head: bool, norm: bool) -> frozenset[str]:
    """Name the tensors of an update: the body, and head and normalisation where they travel."""
    kept = ({Part.HEAD} if not head else set()) | ({Part.NORM} if not norm else set())
    return frozenset(name for name, part in parts(network).items() if part not in kept)


def norm_layers(network: Network) -> tuple[nn.Module, ...]:
    """Return the backbone's normalisation modules, from input to head."""
    return tuple(module for module in network.backbone.modules() if isinstance(module, NORM))


def has_norm(network: Network) -> bool:
    """Whether the backbone has normalisation with tensors (squeezenet and vgg11 have none)."""
    return Part.NORM in parts(network).values()


def read_tensors(network: Network) -> dict[str, npt.NDArray[np.float32]]:
    """Copy every tensor that can travel, as float32 on the CPU, in the order of `parts`."""
    state = network.state_dict()
    return {name: np.array(state[name].cpu().float().numpy(), order="C") for name in parts(network)}


def write_tensors(network: Network, tensors: Tensors) -> None:
    """Overwrite some or all of the tensors that can travel; nothing if one does not fit.

    Raises
    ------
    UpdateError
        If a name is not one of `parts`, or a shape differs.
    """
    state = network.state_dict()
    known = parts(network)
    for name, value in tensors.items():
        if name not in known:
            raise UpdateError(
                f"tensor name must be one of the network's, got {name!r}; use the same backbone"
            )
        if value.shape != tuple(state[name].shape):
            raise UpdateError(
                f"tensor {name} must have shape {tuple(state[name].shape)}, got {value.shape}; "
                "use the same backbone, image size and classes"
            )
    with torch.no_grad():
        for name, value in tensors.items():
            # A view where numpy allows it: torch warns of arrays that are read-only.
            state[name].copy_(torch.from_numpy(np.require(value, requirements=["C", "W"])))


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
