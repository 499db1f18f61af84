"""Every backbone of series takes what a federation says, and gives features of its width."""

from __future__ import annotations

import pytest
import torch

from common.backbone import build_for
from common.backbones.series import SERIES
from common.config import FederationConfig
from common.errors import BackboneError, ConfigError


def config(backbone: str, **series: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "task": "series-classification",
            "backbone": backbone,
            "series": {"channels": ["a", "b"], **series},
        }
    )


@pytest.mark.parametrize("backbone", SERIES.builders)
@pytest.mark.parametrize(
    "series",
    [
        {"window": 1024},
        {"window": 30},
        {"window": 400, "front": "spectrum"},
        {"window": 1024, "front": "spectrogram"},
    ],
    ids=["long", "short", "spectrum", "spectrogram"],
)
def test_backbone_takes_a_window(backbone: str, series: dict[str, object]) -> None:
    settings = config(backbone, **series)
    network = build_for(settings, outputs=3)
    channels, length = settings.series.shape

    assert network(torch.randn(4, channels, length)).shape == (4, 3)


@pytest.mark.parametrize("backbone", SERIES.builders)
def test_same_seed_same_weights_and_the_outline_agrees(backbone: str) -> None:
    settings = config(backbone, window=64)
    one = SERIES.construct(settings, seed=3).module.state_dict()
    two = SERIES.construct(settings, seed=3).module.state_dict()
    outline = SERIES.outline(settings).module.state_dict()

    assert all(torch.equal(one[name], two[name]) for name in one)
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in outline.items()}


def test_a_forecast_can_be_learned_from_order() -> None:
    """The recurrent network looks at the end: a window and its mirror image differ."""
    network = SERIES.construct(config("gru", window=32), seed=0).module.eval()
    window = torch.randn(1, 2, 32)

    assert not torch.allclose(network(window), network(window.flip(2)))


def test_an_unknown_backbone_is_told() -> None:
    with pytest.raises(BackboneError, match="backbone for series must be one of resnet1d"):
        SERIES.construct(config("resnet18"), seed=0)


def test_channels_must_be_named() -> None:
    settings = FederationConfig(task="series-classification", backbone="gru")
    with pytest.raises(ConfigError, match=r"series.channels must name the channels"):
        SERIES.construct(settings, seed=0)
