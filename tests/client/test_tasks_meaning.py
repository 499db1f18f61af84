"""What a model means is read again as it was written, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.tasks.meaning import Meaning
from client.tasks.series.normalise import Normaliser
from common.backbones.table import Category, Columns, Number
from common.errors import StateError

floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(centre=floats, spread=floats, mean=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_of_a_table_are_the_same_again(centre: float, spread: float, mean: float) -> None:
    number = Number(name="heat", mean=mean, spread=0.1, edges=(1 / 3, 2 / 3, 1.0))
    levels = Category(name="maker", levels=("Ast", "Bör"))
    meaning = Meaning(
        numbers=("strength",),
        columns=Columns(numbers=(number,), categories=(levels,)),
        centre=torch.tensor([centre]),
        spread=torch.tensor([spread]),
    )
    again = Meaning.of(meaning.text, where="model 1")
    assert (again.text, again.numbers, again.columns) == (
        meaning.text,
        meaning.numbers,
        meaning.columns,
    )
    assert meaning.centre is not None
    assert again.centre is not None
    assert torch.equal(again.centre, meaning.centre)
    assert again.centre.dtype == torch.float32


@pytest.mark.parametrize("conditions", [1, 2])
def test_a_normaliser_is_the_same_again(conditions: int) -> None:
    rng = np.random.default_rng(0)
    settings = np.repeat([[0.0], [5.0]], 20, axis=0)[:, : conditions - 1]
    values = rng.normal(size=(40, 3)) * [1, 1, 0]  # the last channel is constant
    fitted = Normaliser.fit(values, settings, conditions=conditions)
    assert math.isinf(fitted.spread[0, 2])
    meaning = Meaning(classes=("bad", "ok"), good="ok", columns=fitted)
    again = Meaning.of(meaning.text, where="model 1")
    assert again.text == meaning.text
    assert (again.classes, again.good) == (("bad", "ok"), "ok")
    np.testing.assert_array_equal(again.columns(values, settings), fitted(values, settings))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"classes": 3}'])
def test_what_says_nothing_is_one_line(text: str) -> None:
    with pytest.raises(StateError, match="model 4 must say what its answers mean") as caught:
        Meaning.of(text, where="model 4")
    assert "\n" not in str(caught.value)
