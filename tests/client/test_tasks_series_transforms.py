"""What the network sees of a window."""

from __future__ import annotations

import pytest
import torch

from client.tasks.series.transforms import FrontEnd, Vary
from common.config import FederationConfig


@pytest.mark.parametrize("front", ["none", "spectrum", "spectrogram"])
@pytest.mark.parametrize("window", [256, 301, 1024])
def test_the_front_end_gives_the_shape_that_the_backbone_is_built_for(
    front: str, window: int
) -> None:
    config = FederationConfig.model_validate(
        {
            "task": "series-classification",
            "series": {"channels": ["a", "b"], "window": window, "front": front},
        }
    )

    seen = FrontEnd(front, "plant")(torch.randn(3, 2, window))

    assert tuple(seen.shape[1:]) == config.series.shape


def test_a_spectrum_does_not_see_where_a_window_begins() -> None:
    window = torch.sin(torch.arange(256) * 2 * torch.pi * 20 / 256)[None, None]
    front = FrontEnd("spectrum", "none")

    assert torch.allclose(front(window), front(window.roll(37, 2)), atol=0.01)
    assert int(front(window).argmax()) == 19


def test_each_window_by_itself_forgets_the_gain() -> None:
    window = torch.randn(2, 1, 64)

    assert torch.allclose(
        FrontEnd("none", "window")(window), FrontEnd("none", "window")(window * 9 + 4), atol=1e-4
    )


def test_a_windows_units_do_not_matter_and_one_that_stands_still_is_zero() -> None:
    window, front = torch.randn(2, 1, 64), FrontEnd("none", "window")

    torch.testing.assert_close(front(window * 1e-9), front(window), atol=1e-4, rtol=0)
    assert (front(torch.full((1, 1, 64), 1000.1)) == 0).all()
    assert (front(torch.zeros(1, 1, 64)) == 0).all()


def test_variation_is_the_generators_and_turns_only_where_it_may() -> None:
    batch = torch.arange(64.0).repeat(3, 2, 1)
    front = FrontEnd("none", "plant")

    def vary(*, strength: float, turn: bool) -> torch.Tensor:
        return Vary(front, strength=strength, turn=turn)(batch, torch.Generator().manual_seed(1))

    assert torch.equal(vary(strength=1, turn=True), vary(strength=1, turn=True))
    assert torch.equal(vary(strength=0, turn=True), batch)
    assert (vary(strength=0.01, turn=False) - batch).abs().max() < 0.02
    assert (vary(strength=0.01, turn=True) - batch).abs().max() > 1


def test_noise_is_measured_by_the_window_and_spares_some() -> None:
    """A spectrum's quiet bands must be seen as they are in use, and raw windows have any size."""
    tone = torch.sin(torch.arange(256.0)).repeat(200, 1, 1)

    def noise(normalise: str, *, size: float, turn: bool = True) -> torch.Tensor:
        """Return what is in the bands above the tone, as a share of the window."""
        vary = Vary(FrontEnd("none", normalise), strength=1, turn=turn)
        seen = vary(size * tone, torch.Generator().manual_seed(0))
        above = torch.fft.rfft(seen, norm="ortho").abs()[:, 0, 80:]
        return above.square().mean(dim=1).sqrt() / seen.std(dim=2)[:, 0]

    for found in (noise("window", size=1e-3), noise("none", size=1e3), noise("plant", size=1)):
        assert float(found.min()) < 0.03
        assert 0.15 < float(found.max()) < 0.45
    for found in (noise("none", size=1e3, turn=False), noise("plant", size=1, turn=False)):
        assert float(found.min()) > 0.1
