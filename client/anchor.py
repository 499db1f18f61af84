"""A pull of parameters to a point: what L2-SP, FedProx and Ditto add to the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from common.backbone import Network


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A quadratic pull of named parameters to a point: strength / 2 · ‖θ − point‖²."""

    point: Mapping[str, Tensor]
    strength: float


#: A parameter, the point that it is pulled to, and how strongly.
Pull = tuple[nn.Parameter, Tensor, float]


def pulls(network: Network, anchor: Anchor | None) -> list[Pull]:
    """Return which parameters an anchor pulls, and to where."""
    if anchor is None or anchor.strength == 0:
        return []
    named = dict(network.named_parameters())
    return [
        (named[name], point.to(named[name].device), anchor.strength)
        for name, point in anchor.point.items()
        if name in named
    ]
