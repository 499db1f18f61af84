"""Pictures of numbers at the end of series."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import numpy as np

from client.tasks.metrics import Prediction
from simulation.plots import lines
from simulation.scene import Picture, Scene
from simulation.series_pictures import curves, forecast, life_curves, series_pictures

SVG = "{http://www.w3.org/2000/svg}"


def root(picture: Picture | str) -> ET.Element:
    if isinstance(picture, str):
        return ET.fromstring(picture)
    return ET.fromstring(
        base64.b64decode(picture.picture.removeprefix("data:image/svg+xml;base64,"))
    )


def lives(*, units: int, windows: int) -> Prediction:
    names = [f"a.csv, unit {u} @ {30 + 5 * w}" for u in range(units) for w in range(windows)]
    truth = np.array([[100.0 - 5 * w] for _ in range(units) for w in range(windows)])
    return Prediction(truth=truth, predicted=truth + 1, names=tuple(names))


def test_names_are_escaped() -> None:
    assert "a &lt; b" in lines([[(0, 0), (1, 1)]], [[(0, 0), (1, 1)]], x="a < b", y="y")


def test_a_life_needs_several_windows_of_a_unit() -> None:
    assert curves(lives(units=3, windows=1)) == []

    found = curves(lives(units=9, windows=8))
    assert len(found) == 9
    picture = life_curves(found, what="rul", whose="test")
    assert len(list(root(picture).iter(f"{SVG}polyline"))) == 8
    assert "4 of 9 test units" in picture.note


def test_forecasts_do_not_overlap() -> None:
    names = tuple(f"a.npz @ {end}" for end in range(100, 200, 4))
    truth = np.arange(25)[:, None] + np.arange(8)[None, :] * 1.0
    picture = forecast(Prediction(truth=truth, predicted=truth, names=names), what="energy")

    said = [
        line for line in root(picture).iter(f"{SVG}polyline") if "said" in line.get("class", "")
    ]
    assert len(said) == 13


def scene(said: Prediction, *, horizon: int = 0, validated: Prediction | None = None) -> Scene:
    plant = SimpleNamespace(
        data=lambda _: SimpleNamespace(validation=None),
        test=lambda version, *, config, indices: validated,
    )
    config = SimpleNamespace(series=SimpleNamespace(target="rul", horizon=horizon))
    return cast(
        "Any",
        SimpleNamespace(plant=plant, config=config, version=1, predictions={"deployed": said}),
    )


def test_lives_are_of_validation_where_the_test_asks_only_once() -> None:
    once, often = lives(units=5, windows=1), lives(units=2, windows=6)

    dots, curve = series_pictures(scene(once, validated=often))
    assert "predicted against true" in dots.title
    assert "2 of 2 validation units" in curve.note
    assert len(series_pictures(scene(once, validated=once))) == 1
    assert "2 of 2 test units" in series_pictures(scene(often))[1].note


def test_of_a_forecast_the_last_value_and_the_lines_are_drawn() -> None:
    truth = np.arange(25)[:, None] + np.arange(8)[None, :] * 1.0
    said = Prediction(truth=truth, predicted=truth, names=tuple(f"a.npz @ {n}" for n in range(25)))

    dots, line = series_pictures(scene(said, horizon=8))
    assert "8 values ahead" in dots.note
    assert line.title == "The last forecasts"
