"""From a batch of windows to the network's input: the front end, and augmentation for training.

Vibration goes on without a beginning, so a window of it may be turned round; and a sensor that is
mounted a little differently measures a little more or less. Both are harmless for classes. A
window before a forecast or an end of life keeps its order; it only gets noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from client.tasks.series.normalise import CONSTANT
from common.config.series import FRAME, HOP

#: At strength 1: deviation of the noise at most, in deviations of the channel, and of the gain.
NOISE, GAIN = 0.2, 0.1
#: Keeps the logarithm of a spectrum above the noise of float32.
_FLOOR = 1e-3


class FrontEnd:
    """Windows of shape (batch, channels, samples) to the network's input."""

    def __init__(self, front: str, normalise: str) -> None:
        self.front = front
        self.each = normalise == "window"
        self.raw = normalise != "plant"

    def __call__(self, batch: Tensor) -> Tensor:
        """Return float32, shape (batch, *SeriesSection.shape)."""
        batch = batch.float()
        if self.each:
            spread = batch.std(dim=2, keepdim=True, unbiased=False)
            rounding = CONSTANT * batch.abs().amax(dim=2, keepdim=True)
            batch = batch - batch.mean(dim=2, keepdim=True)
            batch = batch / spread.where(spread > rounding, torch.inf)
        if self.front == "spectrum":
            magnitude = torch.fft.rfft(batch, norm="ortho").abs()
            return _log(magnitude[..., 1 : batch.shape[2] // 2 + 1])
        if self.front == "spectrogram":
            return _spectrogram(batch)
        return batch


class Vary:
    """The front end on windows that are changed at random.

    Parameters
    ----------
    strength : 1 for noise and gain as above; 0 for none.
    turn : whether windows are turned round.
    """

    def __init__(self, front: FrontEnd, *, strength: float, turn: bool) -> None:
        self.front, self.strength, self.turn = front, strength, turn

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        batch = batch.float()
        if self.strength > 0:
            count, _, length = batch.shape
            if self.turn:
                shift = torch.randint(0, length, (count, 1), generator=generator)
                places = (torch.arange(length) + shift) % length
                places = places[:, None, :].expand(batch.shape).to(batch.device)
                batch = batch.gather(2, places)
                gain = torch.randn((count, 1, 1), generator=generator) * GAIN * self.strength
                batch = batch * torch.exp(gain.to(batch.device))
            noise = torch.randn(batch.shape, generator=generator).to(batch.device)
            batch = batch + self._much(batch, generator) * noise
        return self.front(batch)

    def _much(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return the deviation of each window's noise, shape (batch, 1 or channels, 1).

        Of windows that may be turned it is another for each, from none on: in use they come
        without, and a network that has always heard noise does not know the quiet between lines
        of a spectrum.
        """
        much = torch.full((len(batch), 1, 1), NOISE * self.strength)
        if self.turn:
            much = much * torch.rand((len(batch), 1, 1), generator=generator)
        much = much.to(batch.device)
        return much * batch.std(dim=2, keepdim=True, unbiased=False) if self.front.raw else much


def _log(magnitude: Tensor) -> Tensor:
    return torch.log(magnitude + _FLOOR)


def _spectrogram(batch: Tensor) -> Tensor:
    """Return (batch, channels × frequencies, frames); the mean, frequency 0, is left out."""
    frames = batch.unfold(2, FRAME, HOP)
    shape = torch.hann_window(FRAME, device=batch.device)
    spectrum = _log(torch.fft.rfft(frames * shape, norm="ortho").abs()[..., 1:])
    return spectrum.permute(0, 1, 3, 2).flatten(1, 2)
