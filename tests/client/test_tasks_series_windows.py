"""Windows are dealt out so that the test is honest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.tasks.series.signal import Piece
from client.tasks.series.windows import Window, cut, deal
from common.errors import DataError


def piece(
    length: int, *, file: str = "a.csv", unit: str = "", label: str = "", test: bool = False
) -> Piece:
    return Piece(
        file=file,
        group=unit or file,
        values=np.zeros((length, 1)),
        settings=np.empty((length, 0)),
        label=label,
        test=test,
    )


def samples(windows: list[Window], indices: np.ndarray) -> set[tuple[int, int]]:
    return {
        (windows[i].piece, sample)
        for i in indices
        for sample in range(windows[i].start, windows[i].reach)
    }


@given(
    lengths=st.lists(st.integers(150, 300), min_size=1, max_size=5),
    window=st.integers(4, 12),
    stride=st.integers(1, 12),
    horizon=st.integers(0, 4),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_no_sample_is_in_two_sets(
    lengths: list[int], window: int, stride: int, horizon: int, seed: int
) -> None:
    pieces = [piece(length, file=f"{place}.csv") for place, length in enumerate(lengths)]
    windows = cut(pieces, length=window, stride=stride, horizon=horizon)

    sets = [
        samples(windows, part) for part in deal(pieces, windows, labels=None, seed=seed, where="x")
    ]

    assert all(sets)
    assert not (sets[0] & sets[1])
    assert not (sets[0] & sets[2])
    assert not (sets[1] & sets[2])


def test_the_last_moment_has_a_window() -> None:
    windows = cut([piece(25)], length=10, stride=4)

    assert [window.stop for window in windows] == [13, 17, 21, 25]


def test_whole_files_are_dealt_where_there_are_three_of_each_class() -> None:
    pieces = [piece(50, file=f"{c}/{n}.csv", label=c) for c in "ab" for n in range(4)]
    windows = cut(pieces, length=10, stride=10)

    parts = deal(pieces, windows, labels=None, seed=0, where="x")

    groups = [{pieces[windows[i].piece].file for i in part} for part in parts]
    assert not (groups[0] & groups[1])
    assert not (groups[0] & groups[2])
    assert not (groups[1] & groups[2])
    assert all({name[0] for name in group} == {"a", "b"} for group in groups)


def test_one_recording_is_cut_in_time() -> None:
    pieces = [piece(100, file=f"{c}.csv", label=c) for c in "ab"]
    windows = cut(pieces, length=10, stride=10)

    train, validation, test = deal(pieces, windows, labels=None, seed=0, where="x")

    ends = [max(windows[i].stop for i in part) for part in (train, validation, test)]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("units", "given", "enough"),
    [(2, False, False), (3, False, True), (1, True, False), (2, True, True)],
)
def test_a_unit_is_dealt_whole_or_refused(units: int, given: bool, enough: bool) -> None:
    """One class of few units must not tear those of the other classes either."""
    pieces = [piece(50, unit=f"tool a{n}", label="a") for n in range(5)]
    pieces += [piece(50, unit=f"tool b{n}", label="b") for n in range(units)]
    if given:
        pieces += [piece(50, unit=f"tool {c}9", file="test.csv", label=c, test=True) for c in "ab"]
    windows = cut(pieces, length=10, stride=10)

    if not enough:
        with pytest.raises(
            DataError, match=r"class b of x must have at least . units .* got \d \("
        ):
            deal(pieces, windows, labels=None, seed=0, where="x", unit="tool")
        return
    parts = deal(pieces, windows, labels=None, seed=0, where="x", unit="tool")
    found = [{pieces[windows[i].piece].group for i in part} for part in parts]
    assert sum(map(len, found)) == len(set().union(*found)) == len(pieces)


@pytest.mark.parametrize("files", [2, 3, 12])
def test_a_forecast_is_tested_after_it_was_trained(files: int) -> None:
    """Files are months: 2 comes before 10."""
    pieces = [piece(60, file=f"{n + 1}.csv") for n in range(files)]
    windows = cut(pieces, length=10, stride=5, horizon=2)

    parts = deal(pieces, windows, labels=None, seed=0, where="x")

    moments = [[(windows[i].piece, windows[i].start) for i in part] for part in parts]
    ends = [max((windows[i].piece, windows[i].reach) for i in part) for part in parts]
    assert ends[0] <= min(moments[1])
    assert ends[1] <= min(moments[2])


def test_each_unit_is_forecast_after_it_was_trained() -> None:
    pieces = [piece(100, unit=f"meter {n}") for n in range(4)]
    windows = cut(pieces, length=10, stride=5, horizon=2)

    parts = deal(pieces, windows, labels=None, seed=0, where="x", unit="meter")

    for place in range(4):
        own = [[windows[i] for i in part if windows[i].piece == place] for part in parts]
        assert max(w.reach for w in own[0]) <= min(w.start for w in own[1])
        assert max(w.reach for w in own[1]) <= min(w.start for w in own[2])


def test_files_that_are_for_the_test_are_the_test() -> None:
    pieces = [piece(100, file="a.csv"), piece(40, file="test.csv", test=True)]
    windows = cut(pieces, length=10, stride=10)

    _, _, test = deal(pieces, windows, labels=None, seed=0, where="x")

    assert {windows[i].piece for i in test} == {1}


def test_a_label_that_is_only_in_the_test_is_told() -> None:
    pieces = [
        *(piece(100, file=f"{c}.csv", label=c) for c in "ab"),
        piece(100, file="test-c.csv", label="c", test=True),
    ]
    windows = cut(pieces, length=10, stride=10)

    with pytest.raises(DataError, match="class c of x must be in the training data"):
        deal(pieces, windows, labels=None, seed=0, where="x")


def test_few_labels_are_spread_over_the_recording() -> None:
    pieces = [piece(1000, file=f"{c}.csv", label=c) for c in "ab"]
    windows = cut(pieces, length=10, stride=10)

    train, validation, _ = deal(pieces, windows, labels=8, seed=0, where="x")

    assert len(train) == 12
    assert len(validation) == 4


def test_too_few_windows_are_told() -> None:
    pieces = [piece(12)]
    windows = cut(pieces, length=10, stride=10)

    with pytest.raises(DataError, match="x must leave windows for"):
        deal(pieces, windows, labels=None, seed=0, where="x")
