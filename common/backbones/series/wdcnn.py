"""`wdcnn`: a wide first kernel that learns band filters, small ones after it.

Zhang, Peng, Li, Chen and Zhang, "A new deep learning model for fault diagnosis with good
anti-noise and domain adaptation ability on raw vibration signals", Sensors 17(2):425, 2017,
https://doi.org/10.3390/s17020425. Five convolutions as in its Table 1; where a window is too short
for all five poolings the last ones are left out.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Channels, kernel, stride of each convolution; each is followed by pooling over two.
LAYERS = ((16, 64, 16), (32, 3, 1), (64, 3, 1), (64, 3, 1), (64, 3, 1))


class Wdcnn(nn.Module):
    """Series of shape (batch, channels, length) to features of shape (batch, 100)."""

    features = 100

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for number, (after, kernel, stride) in enumerate(LAYERS):
            padding = kernel // 2 - (kernel % 2 == 0) * stride // 2
            length = (length + 2 * padding - kernel) // stride + 1
            layer = [
                nn.Conv1d(before, after, kernel, stride, padding=padding),
                nn.BatchNorm1d(after),
                nn.ReLU(),
            ]
            if length >= 2 and (number < 4 or length >= 4):
                layer.append(nn.MaxPool1d(2))
                length //= 2
            layers.append(nn.Sequential(*layer))
            before = after
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Linear(before * length, self.features), nn.BatchNorm1d(100), nn.ReLU()
        )

    def forward(self, series: Tensor) -> Tensor:
        found: Tensor = self.dense(self.layers(series))
        return found
