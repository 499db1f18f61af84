"""The two tasks on series, and what is special about a life."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.tasks.data import PlantData
from client.tasks.metrics import Prediction
from client.tasks.series.life import nasa_score
from client.tasks.series.task import SeriesClasses, SeriesNumbers
from common.config import FederationConfig, PlantConfig
from common.errors import ConfigError

PLANT = PlantConfig(name="a", data="a")


def config(task: str, **series: Any) -> FederationConfig:
    return FederationConfig.model_validate({"task": task, "series": series})


def lives() -> PlantData:
    nothing = torch.tensor([], dtype=torch.int64)
    return PlantData(
        inputs=torch.zeros(2, 1, 8),
        targets=torch.tensor([[10.0], [125.0]]),
        names=("a", "b"),
        train=torch.arange(2),
        validation=nothing,
        test=nothing,
        folds=((torch.arange(2), nothing),),
        numbers=("rul",),
        centre=torch.tensor([60.0]),
        spread=torch.tensor([40.0]),
    )


def test_the_score_is_nasas() -> None:
    score = nasa_score(np.array([100.0, 110.0, 87.0]), np.array([100.0, 100.0, 100.0]))

    assert score == pytest.approx(0 + (math.e - 1) + (math.e - 1))


@given(st.floats(0.1, 100))
def test_late_is_worse_than_early(error: float) -> None:
    truth = np.array([100.0])

    assert nasa_score(truth + error, truth) > nasa_score(truth - error, truth) > 0


def test_a_life_is_between_nothing_and_its_cap() -> None:
    task = SeriesNumbers.of(
        config("series-regression", channels=["x"], target="rul", cap=125.0), PLANT
    )

    decoded = task.decode(torch.tensor([[-9.0], [0.0], [9.0]]), data=lives())

    assert decoded.flatten().tolist() == [0, 60, 125]


def test_the_score_is_told_of_lives_only() -> None:
    said = Prediction(truth=np.array([[10.0], [20.0]]), predicted=np.array([[11.0], [20.0]]))
    life = SeriesNumbers.of(
        config("series-regression", channels=["x"], target="rul", cap=125.0), PLANT
    )
    other = SeriesNumbers.of(config("series-regression", channels=["x"], target="heat"), PLANT)

    assert life.scores(said, data=lives())["nasa_score"] == pytest.approx(math.expm1(0.1))
    assert "nasa_score" not in other.scores(said, data=lives())


@pytest.mark.parametrize(
    ("kind", "task", "series", "says"),
    [
        (SeriesClasses, "series-classification", {}, "series.channels must name"),
        (SeriesNumbers, "series-regression", {"channels": ["x"]}, "series.target must name"),
    ],
)
def test_what_is_missing_is_told(kind: Any, task: str, series: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kind.of(config(task, **series), PLANT)


@pytest.mark.parametrize(
    ("series", "says"),
    [
        ({"channels": ["x", "x"]}, "channels must be distinct"),
        ({"conditions": 6}, "settings must name channels"),
        ({"rate": 10.0, "per_revolution": 64}, "rate must be 0 in the order domain"),
        ({"front": "spectrogram", "window": 100}, "window must be at least 256"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(series: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config("series-regression", **series)
