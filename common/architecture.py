"""Torchvision's classification models without their class layer, whatever they are called.

The class layer is found by what it is, the one module whose shapes follow the number of
classes, so a model that torchvision adds tomorrow needs no line here. Models are compared on
the meta device: nothing is allocated and nothing is computed.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from common.errors import BackboneError

#: What torchvision and torch raise when an architecture cannot take an image of some size.
_SIZE_ERRORS = (RuntimeError, AssertionError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What there is to know of a model before it is built.

    Attributes
    ----------
    class_layer : name of the module that turns features into class scores.
    features : width of its input; for a convolution, channels after pooling.
    optional : tensors that weights may bring and that the backbone does not have: those of the
        class layer and of auxiliary classifiers.
    """

    class_layer: str
    features: int
    optional: frozenset[str]


class _WeightsOnMeta(TorchFunctionMode):
    """Layers get no memory; small tables that constructors compute with (regnet) stay real."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def check_name(name: str) -> None:
    """Refuse a name that is not one of torchvision's classification models.

    Raises
    ------
    BackboneError
        Naming the closest models.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name in known:
        return
    close = difflib.get_close_matches(name.lower(), known, n=3) or ["resnet18", "mobilenet_v2"]
    raise BackboneError(
        f"backbone must be a torchvision classification model, got {name!r}; "
        f"try {' or '.join(close)}"
    )


def model_class(name: str) -> type[nn.Module]:
    """Return the class of a model's objects."""
    builder = torchvision.models.get_model_builder(name)
    found: type[nn.Module] = inspect.signature(builder, eval_str=True).return_annotation
    return found


def accepts(name: str, argument: str) -> bool:
    """Whether the constructor of a model's class has this argument."""
    return argument in inspect.signature(model_class(name)).parameters


@lru_cache(maxsize=32)
def layout(name: str, *, image_size: int) -> Layout:
    """Find the class layer of a model, and prove that it takes images of this size.

    Parameters
    ----------
    image_size : side of the square input, pixels.

    Raises
    ------
    BackboneError
        If the name is unknown, or the model cannot take this size; names one that it can.
    """
    check_name(name)
    try:
        return _layout(name, image_size=image_size)
    except _SIZE_ERRORS as error:
        size = _nearest_size(name, image_size=image_size)
        raise BackboneError(
            f"image_size must be one that {name} takes, got {image_size}; {size} works"
        ) from error


def construct(name: str, *, image_size: int, seed: int) -> nn.Module:
    """Build a model with random weights; its class layer is replaced by identity.

    The weights depend on nothing but the seed, and the random state of the caller is untouched.

    Raises
    ------
    BackboneError
        As `layout`.
    """
    found = layout(name, image_size=image_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _model(name, image_size=image_size)
    _cut(model, found.class_layer)
    return model


def outline(name: str, *, image_size: int) -> nn.Module:
    """Return what `construct` does, without memory for weights, for names and shapes only.

    Raises
    ------
    BackboneError
        As `layout`.
    """
    found = layout(name, image_size=image_size)
    model = _on_meta(name, image_size=image_size)
    _cut(model, found.class_layer)
    return model.to("meta")


def _layout(name: str, *, image_size: int) -> Layout:
    model = _on_meta(name, image_size=image_size)
    class_layer = _class_layer(model, _on_meta(name, image_size=image_size, num_classes=3))
    cut = set(model.state_dict())
    width = _input_width(_cut(model, class_layer))
    optional = cut - set(model.state_dict())
    if accepts(name, "aux_logits"):
        whole = _on_meta(name, image_size=image_size, aux_logits=True)
        optional |= set(whole.state_dict()) - cut
    with torch.no_grad():
        features = model.to("meta").eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    if tuple(features.shape) != (1, width):
        raise BackboneError(
            f"backbone must give {width} features an image, got shape {tuple(features.shape)} "
            f"from {name}; choose another one"
        )
    return Layout(class_layer=class_layer, features=width, optional=frozenset(optional))


def _class_layer(one: nn.Module, other: nn.Module) -> str:
    """Name the only module whose tensors differ between two numbers of classes."""
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    differ = {
        key.rpartition(".")[0]
        for key, value in one.state_dict().items()
        if value.shape != shapes[key]
    }
    if len(differ) != 1:
        raise BackboneError(
            f"backbone must have one class layer, got {sorted(differ)}; choose another one"
        )
    return differ.pop()


def _cut(model: nn.Module, class_layer: str) -> nn.Module:
    """Put identity in the place of the class layer, and return that."""
    parent, _, child = class_layer.rpartition(".")
    layer = model.get_submodule(class_layer)
    setattr(model.get_submodule(parent), child, nn.Identity())
    return layer


def _input_width(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels
    raise BackboneError(
        f"backbone must end in a linear layer or a convolution, got {type(layer).__name__}; "
        "choose another one"
    )


def _model(name: str, *, image_size: int, **overrides: Any) -> nn.Module:
    """Call torchvision, with the arguments that this architecture knows.

    Two classes whatever the plant has, so that the random backbone is the same for every plant.
    """
    arguments = {
        "aux_logits": False,
        "init_weights": True,
        "image_size": image_size,
        "input_size": (image_size, image_size),
    }
    known = {key: value for key, value in arguments.items() if accepts(name, key)}
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, **{"num_classes": 2, **known, **overrides}
    )
    return model


def _on_meta(name: str, *, image_size: int, **overrides: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _WeightsOnMeta():
        return _model(name, image_size=image_size, **overrides)


def _nearest_size(name: str, *, image_size: int) -> int:
    """Find the multiple of 32 nearest to a size that a model takes."""
    for size in sorted(range(32, 1025, 32), key=lambda size: abs(size - image_size)):
        try:
            _layout(name, image_size=size)
        except _SIZE_ERRORS:
            continue
        return size
    raise BackboneError(f"backbone must take square images, got {name}; choose another one")
