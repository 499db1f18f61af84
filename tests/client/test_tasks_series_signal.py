"""Gaps, sampling rates and the order domain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.tasks.series.signal import Piece, mend, resample, to_orders
from common.errors import DataError


def piece(values: np.ndarray) -> Piece:
    values = values.reshape(len(values), -1).astype(float)
    return Piece(file="a.csv", group="a.csv", values=values, settings=np.empty((len(values), 0)))


@given(
    holes=st.lists(st.booleans(), min_size=3, max_size=60),
    longest=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_gap_is_left_and_nothing_measured_is_changed(holes: list[bool], longest: int) -> None:
    line = np.arange(len(holes), dtype=float)
    broken = np.where(holes, np.nan, line)

    found = mend(piece(broken), longest=longest)

    for part in found.pieces:
        # A straight line is filled to itself.
        np.testing.assert_allclose(part.values[:, 0], line[part.start : part.start + len(part)])
    assert sum(len(part) for part in found.pieces) == len(holes) - found.lost
    assert found.filled + found.lost == sum(holes)


def test_a_long_gap_cuts() -> None:
    values = np.arange(30.0)
    values[10:20] = np.nan

    found = mend(piece(values), longest=9)

    assert [(part.start, len(part)) for part in found.pieces] == [(0, 10), (20, 10)]
    assert mend(piece(values), longest=10).filled == 10


def test_resampling_keeps_a_tone_and_drops_what_the_rate_cannot_carry() -> None:
    rate, wanted = 1000.0, 400.0
    time = np.arange(2000) / rate
    tone, alias = np.sin(2 * np.pi * 50 * time), np.sin(2 * np.pi * 350 * time)

    found = resample(piece(tone + alias), rate=rate, wanted=wanted, where="a.npz").values[50:-50, 0]

    expected = np.sin(2 * np.pi * 50 * np.arange(800) / wanted)[50:-50]
    assert np.abs(found - expected).max() < 0.05


def test_a_slower_recording_is_refused() -> None:
    with pytest.raises(DataError, match=r"rate of a.npz must be at least 400 .* got 100"):
        resample(piece(np.arange(50.0)), rate=100, wanted=400, where="a.npz")


def test_the_order_domain_does_not_see_the_speed() -> None:
    """A fault at 3.5 times the shaft's speed is at one place, whatever the speed."""
    peaks = []
    for rpm in (1200.0, 1800.0, np.linspace(1200, 1800, 8000)):
        speed = np.broadcast_to(rpm, 8000) / 60
        angle = np.cumsum(speed) / 4000
        found = to_orders(
            piece(np.sin(2 * np.pi * 3.5 * angle)),
            rate=4000,
            rpm=rpm,
            per_revolution=64,
            where="a.npz",
        )
        spectrum = np.abs(np.fft.rfft(found.values[:1024, 0] * np.hanning(1024)))
        peaks.append(np.argmax(spectrum) * 64 / 1024)

    np.testing.assert_allclose(peaks, 3.5, atol=0.07)


def test_orders_are_filtered_by_the_speed_of_their_moment() -> None:
    """A run-up from 300 to 3000 rpm: 64 samples a turn carry 160 Hz at first, 1600 Hz at last."""
    rate, count = 12800, 51200
    rpm = np.linspace(300, 3000, count)
    angle = np.cumsum(rpm) / 60 / rate

    def loudness(wave: np.ndarray) -> np.ndarray:
        found = to_orders(piece(wave), rate=rate, rpm=rpm, per_revolution=64, where="a.npz")
        tenths = np.array_split(found.values[20:-20, 0], 10)
        return np.array([np.sqrt(2 * (tenth**2).mean()) for tenth in tenths])

    tone = loudness(np.sin(2 * np.pi * 1000 * np.arange(count) / rate))
    assert tone[:3].max() < 0.02
    assert tone[-2:].min() > 0.9
    assert loudness(np.sin(2 * np.pi * 10 * angle)) == pytest.approx(1, abs=0.03)


def test_a_shaft_that_hardly_turns_takes_no_more_memory_than_there_is() -> None:
    rpm = np.concatenate([np.full(40_000, 1e-6), np.linspace(1e-6, 600, 10_000)])
    found = to_orders(piece(np.ones(50_000)), rate=1000, rpm=rpm, per_revolution=16, where="a.npz")
    assert len(found) > 500
    np.testing.assert_allclose(found.values, 1)


def test_a_shaft_that_stands_still_is_refused() -> None:
    with pytest.raises(DataError, match=r"speed of a.npz must be above 0"):
        to_orders(
            piece(np.arange(50.0)), rate=100, rpm=np.zeros(50), per_revolution=16, where="a.npz"
        )
