"""The head that knows only good parts: a memory of their patches, and a threshold.

A part's score is that of its strangest patch: the distance to its nearest neighbour in the memory,
times a weight that is smaller where the memory has other patches about as near (PatchCore, equation
7: what lies far from a lone memory is stranger than what lies as far from a crowd). The heat map
is the distances of all patches, at the size of the image, smoothed.

While the backbone learns, the head is another one: a linear layer that tells good parts from ones
with a piece moved (`client.anomaly.cutpaste`). It takes the place of the memory until that is
filled, which is done once the backbone stands still. The memory is made of a plant's own parts, so
it never travels, whatever the method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from common.backbones.family import Own

#: Patches of the memory around the nearest one that the weight looks at; the paper's b.
NEIGHBOURS = 9

#: Deviation of the smoothing, as a share of the image's side: the paper's 4 of 224 pixels.
SMOOTHING = 4 / 224

#: Patches compared with the memory at once.
_CHUNK = 4096

#: What the linear layer tells apart: as it is, a patch moved, a scar.
KINDS = 3

#: Steps of fitting the linear layer, on all parts at once.
STEPS = 100

#: A score of 1.1 times the threshold is called a defect with a probability of 0.72. The steepness
#: is for display: it changes neither the ranking nor the verdict.
STEEPNESS = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the memory says about parts.

    Attributes
    ----------
    scores : of the parts, float32, shape (B,); 0 is like a good part, there is no upper end.
    distances : of their patches to the nearest in the memory, shape (B, H, W).
    """

    scores: Tensor
    distances: Tensor


class Memory(Own):
    """Patches of good parts, and the score above which a part is rejected.

    Attributes
    ----------
    patches : float32, shape (size, width); the first ``count`` are in use.
    count, threshold : float32, shape (1,).
    """

    patches: Tensor
    count: Tensor
    threshold: Tensor

    def __init__(self, width: int, *, size: int) -> None:
        super().__init__()
        self.register_buffer("patches", torch.zeros(size, width))
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("threshold", torch.ones(1))

    @property
    def used(self) -> Tensor:
        """Return the patches in use, shape (count, width)."""
        return self.patches[: int(self.count)]

    def fill(self, patches: Tensor) -> None:
        """Remember these patches and no others; at most as many as there is room for."""
        self.patches.zero_()
        self.patches[: len(patches)] = patches
        self.count.fill_(len(patches))

    def forward(self, features: Tensor) -> Tensor:
        """Return log-odds (0 for good, and for defective), shape (B, 2)."""
        scores = self.look(features).scores
        odds = STEEPNESS * (scores.clamp_min(1e-12) / self.threshold.clamp_min(1e-12)).log()
        return torch.stack([torch.zeros_like(odds), odds], dim=1)

    def look(self, features: Tensor) -> Seen:
        """Compare parts with the memory.

        Parameters
        ----------
        features : of a `common.backbones.patches.PatchBody`, shape (B, H, W, width).
        """
        parts, high, wide, width = features.shape
        known = self.used
        flat = features.reshape(-1, width)
        norms = (known * known).sum(dim=1)
        nearest = torch.cat(
            [(norms - 2 * (chunk @ known.T)).argmin(dim=1) for chunk in torch.split(flat, _CHUNK)]
        )
        # The search multiplies matrices, which is fast and coarse; the distance itself is exact.
        distances = (flat - known[nearest]).norm(dim=1).reshape(parts, -1)
        worst = distances.argmax(dim=1)
        rows = torch.arange(parts, device=flat.device)
        strangest = flat.reshape(parts, -1, width)[rows, worst]
        weights = _weights(strangest, nearest.reshape(parts, -1)[rows, worst], known)
        return Seen(
            scores=distances[rows, worst] * weights,
            distances=distances.reshape(parts, high, wide),
        )


class Scale(Own):
    """Mean and deviation of each feature over the patches of good parts, shape (width,)."""

    centre: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        scaled: Tensor = (features - self.centre) / self.spread
        return scaled


class MemoryHead(nn.Module):
    """The head of a plant that has good parts alone (`common.backbones.FittedHead`).

    Attributes
    ----------
    scale : of the features.
    pretext : linear, on the mean of a part's scaled patches.
    memory : takes over once it is filled.
    """

    def __init__(self, width: int, *, size: int) -> None:
        super().__init__()
        self.scale = Scale(width)
        self.pretext = nn.Linear(width, KINDS)
        nn.init.zeros_(self.pretext.weight)
        nn.init.zeros_(self.pretext.bias)
        self.memory = Memory(width, size=size)

    def fit(self, features: Tensor, targets: Tensor, *, seed: int) -> None:
        """Learn the scale of good parts' features, and fit the linear layer.

        Parameters
        ----------
        features : shape (B, H, W, width); B / 3 good parts, then the same with a piece moved, then
            with a scar, as `client.tasks.anomaly.Moved` makes them.
        targets, seed : not needed.
        """
        good = len(features) // KINDS
        flat = features[:good].reshape(-1, features.shape[-1])
        self.scale.centre.copy_(flat.mean(dim=0))
        self.scale.spread.copy_(flat.std(dim=0).clamp_min(1e-6))
        means = self.scale(features).mean(dim=(1, 2))
        kinds = torch.arange(KINDS, device=means.device).repeat_interleave(good)
        layer = self.pretext.requires_grad_(True)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
        for _ in range(STEPS):
            optimiser.zero_grad()
            functional.cross_entropy(layer(means), kinds).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def forward(self, features: Tensor) -> Tensor:
        """Return scores of `KINDS`, shape (B, 3), or what the memory says, shape (B, 2)."""
        if int(self.memory.count):
            said: Tensor = self.memory(features)
            return said
        scores: Tensor = self.pretext(self.scale(features).mean(dim=(1, 2)))
        return scores


def _weights(patches: Tensor, nearest: Tensor, known: Tensor) -> Tensor:
    """Return one minus the softmax of the distance to the nearest among its neighbours."""
    count = min(NEIGHBOURS, len(known))
    if count < 2:
        return torch.ones(len(patches), device=patches.device)
    around = torch.cdist(known[nearest], known).topk(count, largest=False).indices
    # What is nearest to a patch may be its double; the patch itself must be among them.
    there = (around == nearest[:, None]).any(dim=1)
    around[:, 0] = torch.where(there, around[:, 0], nearest)
    far = (patches[:, None] - known[around]).norm(dim=2)
    itself = (patches - known[nearest]).norm(dim=1)
    weights: Tensor = 1 - (itself - far.logsumexp(dim=1)).exp()
    return weights


def heat(distances: Tensor, *, size: int) -> Tensor:
    """Turn patch distances into heat maps.

    Parameters
    ----------
    distances : shape (B, H, W).
    size : side of the image, pixels.

    Returns
    -------
    float32, shape (B, size, size), in the unit of the distances.
    """
    large = functional.interpolate(
        distances[:, None], size=(size, size), mode="bilinear", align_corners=False
    )
    sigma = max(SMOOTHING * size, 0.5)
    reach = min(2 * int(4 * sigma + 0.5) + 1, 2 * ((size - 1) // 2) - 1)
    smooth: Tensor = vision.gaussian_blur(large, [reach, reach], [sigma, sigma])
    return smooth[:, 0]
