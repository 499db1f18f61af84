"""Where source weights come from: torchvision's download, or a file of the user's.

A file is safetensors, or a PyTorch state dict that is read with ``weights_only=True``: no code
of its author runs. Each source also says how input must be normalised, because weights without
their normalisation are another network.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError, safe_open

from common import architecture
from common.errors import BackboneError

State = dict[str, torch.Tensor]
Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
HALF: Channels = (0.5, 0.5, 0.5)

FILES = (".safetensors", ".pth", ".pt")

#: Names in files that torchvision still offers (densenet, vision transformer), and today's.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\bmlp\.linear_1\."), "mlp.0."),
    (re.compile(r"\bmlp\.linear_2\."), "mlp.3."),
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors by today's torchvision names, floating point as float32, and their normalisation.

    Attributes
    ----------
    mean, std : of a channel, for input in [0, 1].
    """

    tensors: Mapping[str, torch.Tensor]
    mean: Channels
    std: Channels


def read_weights(name: str, *, backbone: str, base: Path) -> Weights | None:
    """Read source weights.

    Parameters
    ----------
    name : ``none``, a torchvision weight name, ``DEFAULT``, or the path of a file.
    backbone : torchvision model that the weights are for.
    base : folder that a relative path starts from.

    Returns
    -------
    The weights, or None for ``none``.

    Raises
    ------
    BackboneError
        If there are no such weights, or they cannot be downloaded or read.
    """
    if name == "none":
        return None
    if name.endswith(FILES):
        return _from_file(base / Path(name).expanduser(), backbone=backbone)
    return _from_torchvision(name, backbone=backbone)


def _from_torchvision(name: str, *, backbone: str) -> Weights:
    offered = torchvision.models.get_model_weights(backbone)
    chosen = offered.__members__.get(name.removeprefix(f"{offered.__name__}."))
    if chosen is None:
        raise BackboneError(
            f"weights must be none, {', '.join(offered.__members__)} or a file "
            f"({', '.join(FILES)}) for {backbone}, got {name!r}; choose one of these"
        )
    try:
        state = chosen.get_state_dict(
            progress=True, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, EOFError, HTTPException, UnpicklingError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise BackboneError(
            f"weights must be there to download, got {reason or type(error).__name__} from "
            f"{chosen.url}; check the connection, or fetch the file elsewhere and set weights to "
            "its path"
        ) from error
    transforms = chosen.transforms()
    mean, std = _as_seen(backbone, _channels(transforms.mean), _channels(transforms.std))
    return Weights(tensors=_modern(state), mean=mean, std=std)


def _from_file(path: Path, *, backbone: str) -> Weights:
    if not path.is_file():
        raise _unreadable(path, "no such file")
    try:
        state, metadata = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    # Bytes that are no weights go far into a reader, which may raise any of these.
    except (
        SafetensorError, UnpicklingError, RuntimeError, EOFError, LookupError, ValueError,
        TypeError, AttributeError, AssertionError, struct.error,
    ) as error:  # fmt: skip
        raise BackboneError(
            f"weights must be safetensors, or a PyTorch state dict without code, got {path}, "
            "which is neither or damaged; save or download the file again"
        ) from error
    mean, std = _normalisation(metadata, path=path) or _as_seen(
        backbone, IMAGENET_MEAN, IMAGENET_STD
    )
    return Weights(tensors=_modern(state), mean=mean, std=std)


def _safetensors(path: Path) -> tuple[State, dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}


def _pickled(path: Path) -> tuple[State, dict[str, str]]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise BackboneError(
            f"weights must be a state dict of named tensors, got something else in {path}; save "
            "model.state_dict() alone"
        )
    return dict(state), {}


def _unreadable(path: Path, reason: str) -> BackboneError:
    return BackboneError(
        f"weights must be a file that can be read, got {path}: {reason}; a relative path starts "
        "at the folder of federation.toml"
    )


def _modern(state: Mapping[str, torch.Tensor]) -> State:
    """Translate old names, drop the prefix of a release, and make floats float32."""
    prefixes = ("backbone.", "head.")
    if state and all(key.startswith(prefixes) for key in state):
        state = {
            key.removeprefix("backbone."): value
            for key, value in state.items()
            if key.startswith("backbone.")
        }
    modern: State = {}
    for key, value in state.items():
        for old, new in _RENAMED:
            key = old.sub(new, key)
        modern[key] = value.float() if value.is_floating_point() else value
    return modern


def _as_seen(backbone: str, mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """Return what the layers see: ``transform_input`` turns ImageNet's into 0.5 and 0.5.

    Torchvision sets that switch of inception_v3 and googlenet with their weights. Normalising
    input so at once is the same function, and leaves no switch to carry from place to place.
    """
    return (HALF, HALF) if architecture.accepts(backbone, "transform_input") else (mean, std)


def _normalisation(metadata: Mapping[str, str], *, path: Path) -> tuple[Channels, Channels] | None:
    """Read mean and deviation from a file's metadata.

    Either keys ``mean`` and ``std`` with JSON, or a key ``normalize`` in words, as in
    ``mean 0.5, std 0.5``.
    """
    if "mean" in metadata and "std" in metadata:
        pair = metadata["mean"], metadata["std"]
    elif words := re.fullmatch(r"mean (.+?),? std (.+)", metadata.get("normalize", "")):
        pair = f"[{words[1]}]", f"[{words[2]}]"
    else:
        return None
    try:
        mean, std = (_channels(json.loads(text)) for text in pair)
    except (ValueError, TypeError) as error:
        raise BackboneError(
            f"mean and std in the metadata of weights must be one or three numbers, got "
            f"{pair[0]} and {pair[1]} in {path}; correct the file"
        ) from error
    return mean, std


def _channels(value: Any) -> Channels:
    """Return three numbers from one or three.

    Raises
    ------
    ValueError, TypeError
        If it is neither.
    """
    numbers = [float(number) for number in (value if isinstance(value, list | tuple) else [value])]
    if len(numbers) == 1:
        numbers *= 3
    first, second, third = numbers
    return first, second, third
