"""Patch features for finding what is unlike good parts: a torchvision model cut off in the middle.

The backbone is PatchCore's (Roth et al. 2022, "Towards Total Recall in Industrial Anomaly
Detection", https://arxiv.org/abs/2106.08265): the maps of two middle stages, each averaged over
3×3 places so that a patch knows its neighbourhood, the coarser brought to the size of the finer,
and joined. Early stages are too general; the last ones know the classes of the source and little
else, so they are left out of the network altogether: nobody trains or sends them.

Any torchvision classification model will do. Its stages are those of `common.stages`; what each
gives is looked at on the meta device. Maps have channels first; Swin's have them last; a vision
transformer has tokens, of which the class token is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor

from common.errors import BackboneError
from common.stages import stages

#: Pixels of the image to one place of the map: those of ResNet's second and third stage, which
#: the paper found best.
STRIDES = (8, 16)

Form = Literal["channels first", "channels last", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A stage whose map is used.

    Attributes
    ----------
    name : of the module, for example ``features.6`` or ``layer2``.
    form : how its output becomes a map.
    side : places along each side of the map.
    width : features of a place.
    """

    name: str
    form: Form
    side: int
    width: int


class PatchBody(nn.Module):
    """A torchvision model up to its last tap; gives patch features.

    Attributes
    ----------
    trunk : the model, without what lies behind the last tap.
    taps : from input to head.
    side : places along each side of the joined map.
    width : features of a patch.
    """

    def __init__(self, model: nn.Module, *, taps: Sequence[Tap]) -> None:
        super().__init__()
        # What no tap depends on is not part of the graph, nor of its modules.
        self.trunk = create_feature_extractor(model, {tap.name: tap.name for tap in taps})
        self.taps = tuple(taps)
        self.side = max(tap.side for tap in taps)
        self.width = sum(tap.width for tap in taps)

    def forward(self, images: Tensor) -> Tensor:
        """Return patch features, shape (B, side, side, width), of images (B, 3, S, S)."""
        given = self.trunk(images)
        maps = []
        for tap in self.taps:
            # Places beyond the border count as nothing, as in the paper.
            local = functional.avg_pool2d(_as_map(given[tap.name], tap.form), 3, 1, 1)
            if tap.side != self.side:
                local = functional.interpolate(local, size=(self.side, self.side), mode="bilinear")
            maps.append(local)
        return torch.cat(maps, dim=1).permute(0, 2, 3, 1)


def find_taps(model: nn.Module, *, image_size: int) -> tuple[Tap, ...]:
    """Choose the stages of a torchvision model that make good patch features.

    Parameters
    ----------
    model : on the meta device, without its class layer.

    Raises
    ------
    BackboneError
        If no stage gives a square map.
    """
    holder = nn.Module()
    holder.backbone = model
    names = [stage.name for stage in stages(holder)]
    seen: dict[str, object] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return model.get_submodule(name).register_forward_hook(
            lambda module, given, got: seen.__setitem__(name, got)
        )

    handles = [keep(name) for name in names]
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, image_size, image_size, device="meta"))
    for handle in handles:
        handle.remove()
    found = [tap for name in names if (tap := _tap(name, seen.get(name))) is not None]
    if not found:
        raise BackboneError(
            f"backbone must have stages that give maps of features, got none in "
            f"{type(model).__name__} at {image_size} pixels; use another, or larger images"
        )
    return _choose(found, image_size=image_size)


def _tap(name: str, got: object) -> Tap | None:
    """Describe the output of a stage; None if it is no square map of more than one place."""
    if not isinstance(got, Tensor):
        return None
    shape = got.shape
    if len(shape) == 4 and shape[2] == shape[3] > 1:
        return Tap(name=name, form="channels first", side=shape[2], width=shape[1])
    if len(shape) == 4 and shape[1] == shape[2] > 1:
        return Tap(name=name, form="channels last", side=shape[1], width=shape[3])
    if len(shape) == 3 and (side := math.isqrt(shape[1] - 1)) > 1 and side**2 == shape[1] - 1:
        return Tap(name=name, form="tokens", side=side, width=shape[2])
    return None


def _choose(found: Sequence[Tap], *, image_size: int) -> tuple[Tap, ...]:
    """Take the last stage at each of `STRIDES`, or of one size those at half and three quarters.

    A model without one of the strides gives its nearest.
    """
    sides = sorted({tap.side for tap in found})
    if len(sides) == 1:
        places = {len(found) // 2, (3 * len(found)) // 4}
        return tuple(found[place] for place in sorted(places))
    wanted = {
        min(sides, key=lambda side: abs(math.log(image_size / side / stride))) for stride in STRIDES
    }
    last = {tap.side: place for place, tap in enumerate(found) if tap.side in wanted}
    return tuple(found[place] for place in sorted(last.values()))


def _as_map(got: Tensor, form: Form) -> Tensor:
    """Return (B, C, H, H)."""
    if form == "channels first":
        return got
    if form == "channels last":
        return got.permute(0, 3, 1, 2)
    side = math.isqrt(got.shape[1] - 1)
    return got[:, 1:].transpose(1, 2).reshape(len(got), -1, side, side)
