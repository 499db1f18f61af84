"""The network: a shared backbone and a personal head, and what each tensor of it is.

Every plant makes other things, so class layers differ: the backbone is any of a family's models
(`common.backbones`; for images torchvision's, without the class layer), and each plant puts a
head of its own on it (federated learning with personalisation layers,
https://arxiv.org/abs/1912.00818), and a stem of its own before it where plants have different
columns. A tensor's part follows from the module that owns it, never from its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.ops.misc import FrozenBatchNorm2d

from common.backbones import FAMILIES, Body, Channels, Family, Own
from common.config import FederationConfig
from common.errors import BackboneError, UpdateError
from common.stages import Stage, stage_index, stages
from common.tasks import KINDS
from common.update import Tensors

__all__ = [
    "Network", "Part", "Source", "Stage", "build", "build_for", "has_norm", "load_source",
    "norm_layers", "outline", "outline_for", "parts", "read_tensors", "settled", "stage_index",
    "stages", "travelling", "write_tensors",
]  # fmt: skip

#: Modules whose tensors are normalisation: batch, instance, layer, group, RMS.
NORM = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, FrozenBatchNorm2d)


class Part(StrEnum):
    """What a tensor belongs to."""

    HEAD = "head"
    STEM = "stem"  #: of a plant's own columns; never travels
    OWN = "own"  #: of the head, made of a plant's own data; never travels
    NORM = "norm"  #: of the backbone: weights and running statistics
    BODY = "body"  #: the rest of the backbone


class Network(nn.Module):
    """A backbone, a head, and a stem where plants have different columns.

    Attributes
    ----------
    backbone : shared; of images a torchvision model, identity in the place of its class layer.
    head : features to class scores or numbers; linear unless the family says otherwise.
    stem : what a plant's own input goes through first; identity where a family has none.
    features : width of what the backbone gives.
    """

    def __init__(
        self, backbone: nn.Module, *, features: int, classes: int, head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head or nn.Linear(features, classes)
        self.stem: nn.Module = nn.Identity()
        self.features = features

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return features of shape (batch, features) of inputs of shape (batch, ...)."""
        features: torch.Tensor = self.backbone(self.stem(inputs))
        return features

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return class scores (logits) or normalised numbers, of shape (batch, outputs)."""
        outputs: torch.Tensor = self.head(self.embed(inputs))
        return outputs


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a federation starts from.

    Attributes
    ----------
    network : backbone with the source weights, and a random head.
    config : the settings, with all that the source says: mean and deviation, digests of files.
    mean, std : of a channel of images, for input in [0, 1]; None for all else.
    """

    network: Network
    config: FederationConfig
    mean: Channels | None
    std: Channels | None


def build(name: str, *, classes: int, image_size: int = 224, seed: int = 0) -> Network:
    """Build a network for images with random weights, the same for the same arguments.

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
    config = FederationConfig.model_construct(backbone=name, image_size=image_size)
    return build_for(config, outputs=classes, seed=seed)


def build_for(
    config: FederationConfig, *, outputs: int, columns: Any = None, seed: int = 0
) -> Network:
    """Build the network of a federation with random weights, the same for the same arguments.

    The backbone's weights depend neither on the outputs nor on the columns.

    Parameters
    ----------
    outputs : width of the head: classes, or numbers to say.
    columns : what the personal stem is built from; None without a stem.
    seed : of the random weights; the caller's random state is untouched.

    Raises
    ------
    BackboneError
        If there is no such backbone, or the settings do not fit it.
    """
    if outputs < 1:
        raise BackboneError(f"classes must be at least 1, got {outputs}; give the plant's classes")
    family = FAMILIES[KINDS[config.task].family]
    return _together(family, config, family.construct(config, seed=seed), outputs, columns, seed)


def outline(name: str, *, classes: int, image_size: int = 224) -> Network:
    """Build a network for images without weights, for its tensors' names and shapes.

    Raises
    ------
    BackboneError
        As `build`.
    """
    config = FederationConfig.model_construct(backbone=name, image_size=image_size)
    return outline_for(config, outputs=classes)


def outline_for(config: FederationConfig, *, outputs: int, columns: Any = None) -> Network:
    """Build the network of a federation without weights: nothing is allocated.

    Raises
    ------
    BackboneError
        As `build_for`.
    """
    family = FAMILIES[KINDS[config.task].family]
    body = family.outline(config)
    with torch.device("meta"):
        return _together(family, config, body, outputs, columns, 0)


def _together(
    family: Family, config: FederationConfig, body: Body, outputs: int, columns: Any, seed: int
) -> Network:
    """Put a head and a stem to a backbone; each has a random state of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        head = family.head(config, features=body.features, outputs=outputs)
        torch.default_generator.manual_seed(seed)
        stem = family.stem(config, columns)
    network = Network(body.module, features=body.features, classes=outputs, head=head)
    network.stem = stem
    return network


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
    ConfigError
        If another file that the settings name cannot be had.
    """
    config = settled(config, base=base)
    network = build_for(config, outputs=classes, seed=config.seed)
    family = FAMILIES[KINDS[config.task].family]
    mean, std = family.fill(config, network.backbone, base=base) or (None, None)
    mean, std = config.mean or mean, config.std or std
    config = config.model_copy(update={"mean": mean, "std": std})
    return Source(network=network, config=config, mean=mean, std=std)


def settled(config: FederationConfig, *, base: Path) -> FederationConfig:
    """Return settings that say all that every plant must have the same (`Family.settle`)."""
    return FAMILIES[KINDS[config.task].family].settle(config, base=base)


def parts(network: Network) -> dict[str, Part]:
    """Say of every tensor that can travel what it belongs to, in a fixed order.

    These are parameters and floating-point buffers. Counters and index tables, which are
    integers, never travel.
    """
    found = {}
    heads, stems = set(network.head.modules()), set(network.stem.modules())
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            owner = network.get_submodule(name.rpartition(".")[0])
            if owner in heads:
                found[name] = Part.OWN if isinstance(owner, Own) else Part.HEAD
            elif owner in stems:
                found[name] = Part.STEM
            else:
                found[name] = Part.NORM if isinstance(owner, NORM) else Part.BODY
    return found


def travelling(network: Network, *, head: bool, norm: bool) -> frozenset[str]:
    """Name the tensors of an update: the body, and head and normalisation where they travel."""
    kept = {Part.STEM, Part.OWN}
    kept |= ({Part.HEAD} if not head else set()) | ({Part.NORM} if not norm else set())
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
