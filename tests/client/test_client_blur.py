"""Plant-level privacy: an update of bounded length, and noise of the size that is charged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.protection import protect, steps
from client.protection.blur import Blur
from client.protection.clip import Clip
from common.config import FederationConfig
from common.errors import TrainingError
from common.forms import Turn, form_of
from common.noise import Noise
from common.update import Schema, Update

KEY = bytes(range(32))
VALUES = arrays(np.float32, 12, elements=st.floats(-1e4, 1e4, width=32))


def update(vector: np.ndarray, *, moving: frozenset[str] = frozenset({"w"})) -> Update:
    return Update(schema=Schema({"w": vector.shape}), vector=vector, weight=3, moving=moving)


@given(vector=VALUES, length=st.floats(1e-3, 1e3))
def test_no_update_is_longer_than_the_clip(vector: np.ndarray, length: float) -> None:
    sent = Clip(max_norm=length).apply(update(vector)).vector
    assert np.linalg.norm(sent.astype(np.float64)) <= length
    if np.linalg.norm(vector.astype(np.float64)) * (1 + 1e-5) < length:
        np.testing.assert_array_equal(sent, vector)
    # The direction stays.
    np.testing.assert_allclose(
        sent * np.linalg.norm(vector), vector * np.linalg.norm(sent), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("multiplier", "honest"), [(1.0, 1), (0.5, 1), (2.0, 4)])
def test_noise_has_the_size_that_is_charged(multiplier: float, honest: int) -> None:
    size = 100_000
    blur = Blur(multiplier=multiplier, length=0.3, honest=honest, noise=Noise(KEY))
    sent = blur.apply(update(np.zeros(size, np.float32))).vector
    assert sent.std() == pytest.approx(multiplier * 0.3 / math.sqrt(honest), rel=0.01)


def test_the_most_noise_that_settings_may_ask_for_is_drawn_for_a_large_update() -> None:
    blur = Blur(multiplier=10_000.0, length=1.0, noise=Noise(KEY))
    sent = blur.apply(update(np.zeros(200_000, np.float32))).vector
    assert sent.std() == pytest.approx(10_000.0, rel=0.01)


def test_parts_of_the_honest_plants_make_the_whole() -> None:
    size, honest = 50_000, 4
    sent = [
        Blur(multiplier=1.5, length=1.0, honest=honest, noise=Noise(bytes([n]) * 32))
        .apply(update(np.zeros(size, np.float32)))
        .vector
        for n in range(honest)
    ]
    assert np.sum(sent, axis=0).std() == pytest.approx(1.5, rel=0.02)


def test_values_lie_on_the_grid_that_was_asked_for() -> None:
    vector = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    step = 1 / 4096
    sent = Blur(multiplier=1.0, length=1.0, step=step).apply(update(vector)).vector / step
    np.testing.assert_array_equal(sent, np.rint(sent))


class Silence(Noise):
    """Draws nothing, so that what lies under the noise is seen."""

    def discrete(self, size: int, *, scale: float) -> np.ndarray:
        return np.zeros(size, np.int64)


@given(values=VALUES, step=st.sampled_from([0.25, 0.01, 1e-4]))
def test_the_grid_makes_no_update_longer(values: np.ndarray, step: float) -> None:
    """The noise is sized for the length alone."""
    clipped = Clip(max_norm=1.0).apply(update(values))
    blur = Blur(multiplier=1.0, length=1.0, step=step, noise=Silence())
    assert np.linalg.norm(blur.apply(clipped).vector.astype(np.float64)) <= 1.0


def test_what_does_not_move_is_zero_and_has_no_noise() -> None:
    schema = Schema({"still": (3,), "moves": (4,)})
    given_ = Update(
        schema=schema, vector=np.ones(7, np.float32), weight=1, moving=frozenset({"moves"})
    )
    sent = Blur(multiplier=1.0, length=1.0).apply(given_).vector
    assert not sent[:3].any()
    assert sent[3:].all()


def test_noise_is_new_each_time() -> None:
    one, other = (
        Blur(multiplier=1.0, length=1.0).apply(update(np.zeros(9, np.float32))).vector
        for _ in range(2)
    )
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_leaves(bad: float) -> None:
    config = FederationConfig.model_validate({"privacy": {"unit": "plant"}})
    vector = np.array([0.0, bad], np.float32)
    with pytest.raises(TrainingError, match="update must be finite"):
        protect(update(vector), config, turn=Turn(run="r", round=1))


def test_settings_bring_the_steps() -> None:
    assert [type(step).__name__ for step in steps(FederationConfig())] == ["Validate"]
    config = FederationConfig.model_validate({"privacy": {"unit": "plant", "clip": 0.25}})
    clip, blur, _ = steps(config)
    assert clip == Clip(max_norm=0.25)
    assert blur == Blur(multiplier=1.0, length=0.25)


def test_in_a_sum_the_noise_is_sized_for_the_fewest_plants() -> None:
    sums = {"enabled": True, "bits": 20, "bound": 10.0}
    tables = {"privacy": {"unit": "plant"}, "secure_aggregation": sums}
    for fewest, certain in ((3, 1), (10, 4)):
        config = FederationConfig.model_validate({"min_plants": fewest, **tables})
        blur = next(step for step in steps(config) if isinstance(step, Blur))
        assert blur == Blur(multiplier=1.0, length=1.0, honest=certain, step=10.0 / 524287)


def test_a_long_update_is_shortened_and_hidden() -> None:
    config = FederationConfig.model_validate({"privacy": {"unit": "plant", "clip": 1.0}})
    given_ = update(np.full(400, 50.0, np.float32))
    turn = Turn(run="r", round=1)
    sent = protect(given_, config, turn=turn)
    vector = form_of(config.update, schema=given_.schema, turn=turn).decode(sent.payload)
    # The signal is 0.05 a value, the noise 1.
    assert abs(float(vector.mean())) < 0.5
    assert float(vector.std()) == pytest.approx(1.0, rel=0.15)
