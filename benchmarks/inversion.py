"""The attacks of `benchmarks/leakage.py`: from an update of a few images back to the images.

`match`: deep leakage from gradients (Zhu, Liu and Han 2019, https://arxiv.org/abs/1906.08935):
L-BFGS looks for images whose gradient is the one that was seen. `align`: Geiping et al. 2020,
"Inverting Gradients" (https://arxiv.org/abs/2003.14053): the angle between the two and the images'
total variation, by Adam on signs; made for large networks. The attacker knows the network, its
weights and how many images there are; labels too, which it reads off the head's gradient
(`label_of`, iDLG, Zhao et al. 2020, https://arxiv.org/abs/2001.02610) or, of several images, is
given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

Gradient = Sequence[Tensor]


class LeNet(nn.Module):
    """The network of Zhu et al.: smooth (sigmoid), wide weights, no pooling; leaks readily."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, stride in ((3, 2), (12, 2), (12, 1)):
            layers += [nn.Conv2d(inputs, 12, 5, padding=2, stride=stride), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


def gradient(
    network: nn.Module, images: Tensor, labels: Tensor, *, graph: bool = False
) -> Gradient:
    """Return the gradient of the summed loss over all parameters that move."""
    loss = F.cross_entropy(network(images), labels, reduction="sum")
    moving = [p for p in network.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, moving, create_graph=graph)


def label_of(seen: Gradient) -> int:
    """Read the label of one image off the gradient of the head's bias: it alone is below 0."""
    return int(seen[-1].argmin())


def match(
    network: nn.Module, seen: Gradient, labels: Tensor, *, side: int, steps: int, seed: int
) -> Tensor:
    """Return images whose gradient is, up to a factor, the one that was seen."""
    images = torch.rand(
        (len(labels), 3, side, side), generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()
    target = torch.cat([part.flatten() for part in seen])
    optimiser = torch.optim.LBFGS([images], lr=1, max_iter=20, history_size=100)

    def distance() -> Tensor:
        optimiser.zero_grad()
        flat = torch.cat([p.flatten() for p in gradient(network, images, labels, graph=True)])
        # A clipped gradient is shorter by a factor that the attacker fits.
        factor = (flat.detach() @ target) / flat.detach().square().sum()
        missed = (factor.clamp(1e-6) * flat - target).square().sum() / target.square().sum() * 100
        missed.backward()
        return missed

    best, lowest = images.detach().clone(), float("inf")
    for _ in range(steps):
        reached = float(optimiser.step(distance).detach())
        if not reached < lowest:
            break  # the line search has lost its way, or stands still
        best, lowest = images.detach().clone(), reached
    return best.clamp(0, 1)


def align(
    network: nn.Module,
    seen: Gradient,
    labels: Tensor,
    *,
    side: int,
    steps: int,
    seed: int,
    normalise: Callable[[Tensor], Tensor],
    smooth: float = 1e-2,
) -> Tensor:
    """Return images, in [0, 1], whose gradient has the direction of the one that was seen."""
    images = torch.rand(
        (len(labels), 3, side, side), generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()
    optimiser = torch.optim.Adam([images], lr=0.1)
    falls = [3 * steps // 8, 5 * steps // 8, 7 * steps // 8]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, falls, gamma=0.1)
    length = sum(part.square().sum() for part in seen).sqrt()
    for _ in range(steps):
        optimiser.zero_grad()
        own = gradient(network, normalise(images), labels, graph=True)
        dot = sum((a * b).sum() for a, b in zip(own, seen, strict=True))
        angle = 1 - dot / (sum(part.square().sum() for part in own).sqrt() * length)
        across, down = images.diff(dim=3).abs().mean(), images.diff(dim=2).abs().mean()
        (angle + smooth * (across + down)).backward()
        images.grad.sign_()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


def closest(found: Tensor, truth: Tensor) -> Tensor:
    """Return the images found, in the order that fits the truth best: the sum has no order."""
    count = len(truth)
    error = (found[:, None] - truth[None]).square().mean((2, 3, 4))
    if count > 6:
        return found[error.argmin(0)]
    best = min(
        permutations(range(count)), key=lambda order: sum(error[i, j] for j, i in enumerate(order))
    )
    return found[list(best)]


def quality(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return PSNR (dB) and SSIM of one image of shape (3, side, side)."""
    pair = found[None], truth[None]
    noise = float(peak_signal_noise_ratio(*pair, data_range=1.0))
    return noise, float(structural_similarity_index_measure(*pair, data_range=1.0))
