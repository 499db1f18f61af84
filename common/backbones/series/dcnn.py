"""`dcnn`: the deep convolutional network for remaining useful life.

Li, Ding and Sun, "Remaining useful life estimation in prognostics using deep convolution neural
networks", Reliability Engineering and System Safety 172, 2018,
https://doi.org/10.1016/j.ress.2017.11.021. Five convolutions along time, the same for every
channel, then one dense layer over all of them. Dropout 0.5 before it.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

FILTERS = 10
KERNEL = 10


class Dcnn(nn.Module):
    """Series of shape (batch, channels, length) to features of shape (batch, 100)."""

    features = 100

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        widths = [1, *[FILTERS] * 4]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, (KERNEL, 1)) for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Conv2d(FILTERS, 1, (3, 1), padding=(1, 0))
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Linear(length * channels, self.features)

    def forward(self, series: Tensor) -> Tensor:
        image = series.transpose(1, 2)[:, None]
        for layer in self.layers:
            # "same", as in the paper: an even kernel has one place more behind than in front.
            image = layer(F.pad(image, (0, 0, (KERNEL - 1) // 2, KERNEL // 2))).tanh()
        flat = self.last(image).tanh().flatten(1)
        features: Tensor = self.dense(self.dropout(flat)).tanh()
        return features
