"""`resnet1d`: residual blocks along time.

Wang, Yan and Oates, "Time series classification from scratch with deep neural networks: a strong
baseline", IJCNN 2017, https://arxiv.org/abs/1611.06455, with strides instead of full length, as a
plant may train on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128)
#: A window is shortened to at most so many places before the first block.
_LONGEST = 256


class Block(nn.Module):
    """Two convolutions and a way round them."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(before, after, 7, stride, padding=3, bias=False)
        self.first_norm = nn.BatchNorm1d(after)
        self.second = nn.Conv1d(after, after, 5, padding=2, bias=False)
        self.second_norm = nn.BatchNorm1d(after)
        self.round = (
            nn.Sequential(nn.Conv1d(before, after, 1, stride, bias=False), nn.BatchNorm1d(after))
            if stride > 1 or before != after
            else nn.Identity()
        )

    def forward(self, series: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(series)))
        return F.relu(self.second_norm(self.second(inner)) + self.round(series))


class ResNet1d(nn.Module):
    """Series of shape (batch, channels, length) to features of shape (batch, 128)."""

    features = WIDTHS[-1]

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        stride = max(1, -(-length // _LONGEST))
        self.stem = nn.Sequential(
            nn.Conv1d(channels, WIDTHS[0], 2 * stride + 5, stride, padding=stride + 2, bias=False),
            nn.BatchNorm1d(WIDTHS[0]),
            nn.ReLU(),
        )
        self.block1 = Block(WIDTHS[0], WIDTHS[0], stride=1)
        self.block2 = Block(WIDTHS[0], WIDTHS[1], stride=2)
        self.block3 = Block(WIDTHS[1], WIDTHS[2], stride=2)

    def forward(self, series: Tensor) -> Tensor:
        found: Tensor = self.block3(self.block2(self.block1(self.stem(series))))
        return torch.mean(found, dim=2)
