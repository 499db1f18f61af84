"""A backbone cut into stages from input to head, for freezing and for smaller steps near the input.

Early layers see edges and textures, which suit every product; late ones see the source's classes
(https://arxiv.org/abs/1411.1792). So fine-tuning freezes the first stages, or lets each learn
more slowly than the next (https://arxiv.org/abs/1801.06146).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from common.errors import ConfigError

#: A module with more than this share of the backbone's parameters says too little: it is split.
_MOST = 0.8
#: A backbone in fewer pieces is split further, the largest piece first.
_FEWEST = 5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the way from input to head.

    Attributes
    ----------
    name : of the torchvision module, for example ``features.14`` or ``layer3``.
    parameters : names within the network, for example ``backbone.layer3.0.conv1.weight``.
    """

    name: str
    parameters: tuple[str, ...]


def stages(network: nn.Module) -> tuple[Stage, ...]:
    """Cut ``network.backbone`` into stages, in the order of the forward pass.

    Every parameter of the backbone is in exactly one stage. What a split module owns itself (a
    class token, a position embedding) is in the stage before it, or in the first.
    """
    backbone = network.get_submodule("backbone")
    pieces = _pieces(backbone)
    found: list[list[str]] = [[] for _ in pieces]
    latest = 0
    for name, _ in backbone.named_parameters():
        latest = next(
            (i for i, (piece, _) in enumerate(pieces) if name.startswith(f"{piece}.")), latest
        )
        found[latest].append(f"backbone.{name}")
    return tuple(
        Stage(name=piece, parameters=tuple(names))
        for (piece, _), names in zip(pieces, found, strict=True)
    )


def stage_index(network: nn.Module, name: str) -> int:
    """Return the place of a stage, counted from the input; 0 for the empty name.

    Raises
    ------
    ConfigError
        If the backbone has no such stage; names those it has.
    """
    names = [stage.name for stage in stages(network)]
    if name and name not in names:
        raise ConfigError(
            f"freeze_until must be a stage of the backbone, got {name!r}; choose one of "
            f"{', '.join(names)}"
        )
    return names.index(name) if name else 0


def _pieces(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    """Split the backbone into modules, from the outside in, until the pieces are small enough."""
    total = _size(backbone)
    pieces = list(_children("", backbone))
    while (place := _to_split(pieces, total=total)) is not None:
        pieces[place : place + 1] = _children(*pieces[place])
    return pieces


def _to_split(pieces: list[tuple[str, nn.Module]], *, total: int) -> int | None:
    """Return the place of the next piece to split, or None when the pieces will do."""
    sizes = {
        place: _size(module)
        for place, (name, module) in enumerate(pieces)
        if any(_children(name, module))
    }
    largest = max(sizes, key=lambda place: sizes[place], default=None)
    if largest is None or (len(pieces) >= _FEWEST and sizes[largest] <= _MOST * total):
        return None
    return largest


def _children(name: str, module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Yield the children with parameters, by their full names."""
    for child, inner in module.named_children():
        if _size(inner):
            yield (f"{name}.{child}" if name else child), inner


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
