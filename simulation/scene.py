"""What a picture of the report is drawn from, and what it is; `simulation.pictures` has them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from client.plant import Plant
from client.tasks.metrics import Prediction
from common.config import FederationConfig

#: Wrong answers that the report shows of each plant.
MISTAKES = 6


def surest_mistakes(said: Prediction) -> list[int]:
    """Return places of the wrong answers that the model was surest of."""
    sure = said.predicted.max(axis=1)
    wrong = np.flatnonzero(~said.correct)
    found: list[int] = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES].tolist()
    return found


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
