"""Pictures that fit a task, for the report: predicted against true, life curves, heat maps.

Drawn at the plant right after its test examples were judged, where data and models are at hand. A
task with pictures of its own is a line in `PICTURES`; others get those of what they learn.
Confusion matrices and the most confident mistakes are in every report of classes already.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from client.plant import Plant
from client.tasks.metrics import Prediction
from common.config import FederationConfig
from common.tasks import TaskName, learns


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture may be drawn from.

    Attributes
    ----------
    plant : open in this process, with its data.
    version : of the model that the plant deployed.
    predictions : for the test examples, by variant (``local``, ``deployed``, ...).
    """

    plant: Plant
    config: FederationConfig
    version: int
    predictions: Mapping[str, Prediction]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a plant's section in the report.

    Attributes
    ----------
    title : over the picture.
    note : under it: how to read it.
    picture : data URI of a JPEG, PNG or SVG.
    """

    title: str
    note: str
    picture: str


def svg_uri(svg: str) -> str:
    """Return an SVG file as a data URI; as an image it can run no script."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


Draw = Callable[[Scene], list[Picture]]

#: By task, or by what is learned: "classes" or "numbers".
PICTURES: dict[TaskName | str, Draw] = {}


def pictures_of(scene: Scene) -> tuple[Picture, ...]:
    """Draw the pictures of a plant's deployed model."""
    config = scene.config
    draw = PICTURES.get(config.task) or PICTURES.get(learns(config))
    return tuple(draw(scene)) if draw else ()
