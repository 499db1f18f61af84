"""The family of series: windows of shape (batch, channels, length) to features."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from common.backbones.family import Body, Builder, Plain
from common.backbones.series.dcnn import Dcnn
from common.backbones.series.inception import InceptionTime
from common.backbones.series.recurrent import Gru
from common.backbones.series.resnet import ResNet1d
from common.backbones.series.wdcnn import Wdcnn
from common.config import FederationConfig
from common.errors import BackboneError, ConfigError

#: What torch raises where a window is too short for a network.
_TOO_SHORT = (RuntimeError, ValueError, ZeroDivisionError)


def _builder(make: Callable[[int, int], nn.Module], *, features: int) -> Builder:
    def build(config: FederationConfig) -> Body:
        channels, length = config.series.shape
        if not channels:
            raise ConfigError(
                "series.channels must name the channels that every plant has, got none"
            )
        try:
            return Body(module=make(channels, length), features=features)
        except _TOO_SHORT as error:
            raise BackboneError(
                f"series.window must be long enough for {config.backbone}, got "
                f"{config.series.window}; take another backbone or a longer window"
            ) from error

    return build


SERIES = Plain(
    "series",
    {
        "resnet1d": _builder(ResNet1d, features=ResNet1d.features),
        "wdcnn": _builder(Wdcnn, features=Wdcnn.features),
        "inception_time": _builder(InceptionTime, features=InceptionTime.features),
        "gru": _builder(Gru, features=Gru.features),
        "dcnn": _builder(Dcnn, features=Dcnn.features),
    },
)
