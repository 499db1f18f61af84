from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.errors import AggregationError, UpdateError
from server.aggregation import Mean, mean

BOUND = 100.0
MAX_WEIGHT = 1000

Replies = list[tuple[npt.NDArray[np.float32], int]]


@st.composite
def replies(draw: st.DrawFn) -> Replies:
    size = draw(st.integers(1, 9))
    values = st.floats(-BOUND, BOUND, width=32)
    vectors = hnp.arrays(np.float32, size, elements=values)
    weights = st.integers(1, 2 * MAX_WEIGHT)
    return draw(st.lists(st.tuples(vectors, weights), min_size=1, max_size=8))


def combine(given: Replies, plants: int | None = None) -> Mean:
    total = Mean(given[0][0].size, plants=plants or len(given), max_weight=MAX_WEIGHT, bound=BOUND)
    for vector, weight in given:
        total.add(vector, weight=weight)
    return total


@given(replies(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_no_bit(given: Replies, random: object) -> None:
    shuffled = list(given)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert combine(given).result().tobytes() == combine(shuffled).result().tobytes()


@given(replies())
def test_it_is_the_weighted_mean_within_the_scale(given: Replies) -> None:
    total = combine(given)
    weights = [min(weight, MAX_WEIGHT) for _, weight in given]
    assert total.weight == sum(weights)
    for place, value in enumerate(total.result()):
        exact = sum(
            (Fraction(float(v[place])) * w for (v, _), w in zip(given, weights, strict=True)),
            start=Fraction(0),
        ) / sum(weights)
        rounding = Fraction(len(given), 2 * total.scale * sum(weights))
        # Then one rounding to float64 and one to float32.
        last_place = Fraction(float(np.spacing(np.float32(abs(value)))))
        assert abs(Fraction(float(value)) - exact) <= rounding + last_place


@pytest.mark.parametrize(("units", "rounded"), [(0.75, 1), (-0.75, -1), (0.25, 0), (1.5, 2)])
def test_it_rounds_to_the_nearest_unit(units: float, rounded: int) -> None:
    total = Mean(1, plants=1000, max_weight=1_000_000, bound=BOUND)
    total.add(np.float32([units / total.scale]), weight=1)
    assert total.result()[0] * total.scale == rounded


def test_floating_point_sums_do_depend_on_the_order() -> None:
    """Shows that the first property is worth something: float32 would fail it."""
    values = np.float32([1e8, 1.0, -1e8])
    assert values[0] + values[1] + values[2] != values[0] + values[2] + values[1]


@given(
    st.integers(1, 1000),
    st.integers(1, 1_000_000),
    st.floats(1e-6, 500, allow_nan=False),
)
def test_the_largest_replies_fill_the_sum_without_overflow(
    plants: int, max_weight: int, bound: float
) -> None:
    bound = float(np.float32(bound))
    scale = mean.scale_for(plants, max_weight=max_weight, bound=bound)
    largest = plants * (max_weight * Fraction(bound) * scale + 1)
    assert largest < 2**63
    assert largest > 2**61 or scale == 1 << 126
    total = Mean(2, plants=3, max_weight=max_weight, bound=bound)
    for _ in range(3):
        total.add(np.float32([bound, -bound]), weight=max_weight)
    assert total.result().tolist() == pytest.approx([bound, -bound])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 100.1, -100.1])
def test_a_value_beyond_the_bound_is_refused_and_changes_nothing(bad: float) -> None:
    sound = np.linspace(-1, 1, 3 * mean.CHUNK, dtype=np.float32)
    total = Mean(sound.size, plants=3, max_weight=MAX_WEIGHT, bound=BOUND)
    total.add(sound, weight=3)
    before = total.result().tobytes()
    poisoned = sound.copy()
    poisoned[-1] = bad  # in the last chunk: the first must not have been added by then
    with pytest.raises(UpdateError, match="values must be within ±100"):
        total.add(poisoned, weight=3)
    assert (total.count, total.weight) == (1, 3)
    assert total.result().tobytes() == before


def test_chunks_join_without_a_seam() -> None:
    vector = np.random.default_rng(0).normal(size=2 * mean.CHUNK + 5).astype(np.float32)
    assert np.array_equal(combine([(vector, 7)]).result(), vector)


@pytest.mark.parametrize(
    ("vector", "weight", "message"),
    [
        (np.zeros(1, np.float32), 1, "shape"),
        (np.zeros((3, 1), np.float32), 1, "shape"),
        (np.zeros(3, np.float64), 1, "float32"),
        (np.zeros(3, ">f4"), 1, "float32"),
        (np.zeros(3, np.float32), 0, "weight must be at least 1, got 0"),
    ],
)
def test_what_would_broadcast_or_cast_is_refused(
    vector: npt.NDArray[np.float32], weight: int, message: str
) -> None:
    total = Mean(3, plants=1, max_weight=MAX_WEIGHT, bound=BOUND)
    with pytest.raises(UpdateError, match=message):
        total.add(vector, weight=weight)


def test_more_updates_than_there_is_room_for_are_refused() -> None:
    total = combine([(np.ones(2, np.float32), 1)])
    with pytest.raises(AggregationError, match="1 plants"):
        total.add(np.ones(2, np.float32), weight=1)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(AggregationError, match="at least one"):
        Mean(2, plants=1, max_weight=1, bound=1.0).result()


def test_numbers_that_leave_no_resolution_are_refused() -> None:
    with pytest.raises(AggregationError, match=r"lower server\.max_weight"):
        Mean(2, plants=1000, max_weight=1_000_000, bound=1e6)
