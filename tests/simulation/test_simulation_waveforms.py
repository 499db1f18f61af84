"""Small pictures of mistaken windows."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.tasks.metrics import Prediction
from simulation.results import Mistake
from simulation.scene import surest_mistakes, svg_uri
from simulation.waveforms import EDGE, SIDE, STRETCHES, outline, waveform, waveforms

LINE = "{http://www.w3.org/2000/svg}polyline"


@given(st.integers(1, 3000), st.integers(0, 5))
def test_no_peak_is_lost_and_time_goes_on(length: int, seed: int) -> None:
    channel = np.random.default_rng(seed).normal(size=length).astype(np.float32)
    found = outline(channel)
    assert found[:, 1].max() == channel.max()
    assert found[:, 1].min() == channel.min()
    assert (np.diff(found[:, 0]) > 0).all()
    assert len(found) <= 2 * STRETCHES


def test_channels_lie_below_each_other_and_stay_inside() -> None:
    window = np.stack([np.sin(np.arange(64) / 3), np.full(64, 7.0)]).astype(np.float32)
    first, second = ET.fromstring(waveform(window)).iter(LINE)
    heights = [
        [float(point.split(",")[1]) for point in line.get("points", "").split()]
        for line in (first, second)
    ]
    assert EDGE <= min(heights[0]) < max(heights[0]) < SIDE / 2
    assert len(set(heights[1])) == 1
    assert SIDE / 2 < heights[1][0] < SIDE - EDGE


def test_the_surest_mistakes_are_drawn_from_their_own_windows() -> None:
    sure = np.array([0.9, 0.6, 0.8, 0.7])
    said = Prediction(
        truth=np.array([0, 0, 1, 1]),
        predicted=np.column_stack([sure, 1 - sure]),
        names=("a @ 8", "b @ 8", "c @ 8", "d @ 8"),
    )
    assert surest_mistakes(said) == [2, 3]
    inputs = torch.arange(5.0)[:, None, None] * torch.linspace(0, 1, 8) ** 2
    inputs[4, 0, 2] = 9
    data = SimpleNamespace(inputs=inputs, test=torch.tensor([1, 2, 3, 4]))
    scene = SimpleNamespace(
        plant=SimpleNamespace(data=lambda _: data), config=None, predictions={"deployed": said}
    )
    drawn = waveforms(cast("Any", scene))
    assert list(drawn) == ["c @ 8", "d @ 8"]
    (line,) = ET.fromstring(base64.b64decode(drawn["d @ 8"].rpartition(",")[2])).iter(LINE)
    tops = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    assert tops.index(min(tops)) == 2


def test_results_take_the_picture_of_a_window() -> None:
    picture = svg_uri(waveform(np.zeros((1, 64), dtype=np.float32)))
    mistake = Mistake(file="a @ 64", truth="x", predicted="y", confidence=0.9, picture=picture)
    assert mistake.picture == picture
