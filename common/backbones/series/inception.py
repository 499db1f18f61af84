"""`inception_time`: several kernel lengths side by side, so that no length need be chosen.

Fawaz et al., "InceptionTime: finding AlexNet for time series classification", Data Mining and
Knowledge Discovery 34, 2020, https://arxiv.org/abs/1909.04939. One network of its ensemble, six
modules with a shortcut over every third. Long windows are shortened by averages first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILTERS = 32
KERNELS = (39, 19, 9)
DEPTH = 6
_LONGEST = 256


class Module(nn.Module):
    """A bottleneck, three kernels and a pooling, side by side."""

    def __init__(self, before: int) -> None:
        super().__init__()
        inner = FILTERS if before > 1 else before
        self.bottleneck = nn.Conv1d(before, inner, 1, bias=False) if before > 1 else nn.Identity()
        self.kernels = nn.ModuleList(
            nn.Conv1d(inner, FILTERS, kernel, padding=kernel // 2, bias=False) for kernel in KERNELS
        )
        self.pooled = nn.Conv1d(before, FILTERS, 1, bias=False)
        self.norm = nn.BatchNorm1d(FILTERS * 4)

    def forward(self, series: Tensor) -> Tensor:
        inner = self.bottleneck(series)
        found = [kernel(inner) for kernel in self.kernels]
        found.append(self.pooled(F.max_pool1d(series, 3, 1, padding=1)))
        return F.relu(self.norm(torch.cat(found, dim=1)))


class InceptionTime(nn.Module):
    """Series of shape (batch, channels, length) to features of shape (batch, 128)."""

    features = FILTERS * 4

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.shorten = max(1, -(-length // _LONGEST))
        widths = [channels] + [self.features] * (DEPTH - 1)
        self.layers = nn.ModuleList(Module(width) for width in widths)
        self.shortcuts = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, self.features, 1, bias=False), nn.BatchNorm1d(128))
            for width in widths[::3]
        )

    def forward(self, series: Tensor) -> Tensor:
        if self.shorten > 1:
            series = F.avg_pool1d(series, self.shorten, ceil_mode=True)
        around = series
        for depth, layer in enumerate(self.layers):
            series = layer(series)
            if depth % 3 == 2:
                series = F.relu(series + self.shortcuts[depth // 3](around))
                around = series
        return torch.mean(series, dim=2)
