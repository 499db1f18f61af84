"""`gru`: a gated recurrent layer; what the last moment remembers of the window.

Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014,
https://arxiv.org/abs/1406.1078. A window longer than 256 samples is cut into patches that enter
together, or the way through time would be too long to learn.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_LONGEST = 256


class Gru(nn.Module):
    """Series of shape (batch, channels, length) to features of shape (batch, 64)."""

    features = 64

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.patch = max(1, -(-length // _LONGEST))
        self.layer = nn.GRU(channels * self.patch, self.features, batch_first=True)

    def forward(self, series: Tensor) -> Tensor:
        batch, channels, length = series.shape
        if missing := -length % self.patch:
            series = F.pad(series, (missing, 0), mode="replicate")
        moments = series.reshape(batch, channels, -1, self.patch).permute(0, 2, 1, 3).flatten(2)
        states, _ = self.layer(moments)
        last: Tensor = states[:, -1]
        return last
