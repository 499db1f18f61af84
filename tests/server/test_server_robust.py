from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.combining import RULES as NEEDS
from common.errors import AggregationError
from server.aggregation.robust import RULES, distances


def fewest(rule: str, faulty: int) -> int:
    return NEEDS[rule].fewest(faulty)


def honest(count: int, size: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.normal(1.0, 0.1, (count, size)).astype(np.float32))


@pytest.mark.parametrize("rule", RULES)
@given(
    faulty=st.integers(0, 2),
    more=st.integers(0, 3),
    lie=st.sampled_from([-1.0, 100.0, 1e6, -1e6]),
    seed=st.integers(0, 2**32),
)
def test_liars_hardly_move_the_result(
    rule: str, faulty: int, more: int, lie: float, seed: int
) -> None:
    count = fewest(rule, faulty) + more
    good = honest(count - faulty, 50, seed)
    vectors = [*good, *[np.full(50, lie, np.float32)] * faulty]
    found = RULES[rule](vectors, faulty)
    spread = max(float(np.linalg.norm(one - two)) for one in good for two in good)
    away = float(np.linalg.norm(found - np.mean(good, axis=0)))
    # A bounded multiple of how far honest plants lie apart, whatever the lie.
    assert away <= 8 * max(spread, 0.1) + (8 if rule == "norm_bound" else 0)
    assert found.dtype == np.float32


def test_the_mean_is_moved_by_one_liar() -> None:
    vectors = [*honest(5, 50, 0), np.full(50, 1e6, np.float32)]
    assert np.linalg.norm(np.mean(vectors, axis=0)) > 1e5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("faulty", [1, 2])
def test_too_few_plants_are_refused(rule: str, faulty: int) -> None:
    with pytest.raises(AggregationError, match=f"{rule} must have at least"):
        RULES[rule](honest(fewest(rule, faulty) - 1, 5, 0), faulty)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 2**32), value=st.floats(-3, 3, width=32))
def test_equal_vectors_come_out_unchanged(rule: str, seed: int, value: float) -> None:
    vectors = [np.full(7, value, np.float32)] * 7
    assert RULES[rule](vectors, 1) == pytest.approx(vectors[0], abs=1e-5)


@given(seed=st.integers(0, 2**32))
def test_a_chunk_border_changes_nothing(seed: int) -> None:
    import server.aggregation.robust as robust

    vectors = honest(7, 40, seed)
    whole = {name: rule(vectors, 1) for name, rule in RULES.items()}
    before = robust.CHUNK
    robust.CHUNK = 16
    try:
        for name, rule in RULES.items():
            assert rule(vectors, 1) == pytest.approx(whole[name], abs=1e-6), name
    finally:
        robust.CHUNK = before


def test_krum_takes_the_vector_in_the_middle() -> None:
    vectors = [np.array([x], np.float32) for x in (0.0, 1.0, 1.1, 1.2, 9.0)]
    assert RULES["krum"](vectors, 1) == pytest.approx([1.1])
    assert distances(vectors)[0, 4] == pytest.approx(81.0)


def test_the_trimmed_mean_drops_both_ends() -> None:
    vectors = [np.array([x], np.float32) for x in (-50.0, 1.0, 2.0, 3.0, 1000.0)]
    assert RULES["trimmed_mean"](vectors, 1) == pytest.approx([2.0])


def test_the_geometric_median_is_the_middle_of_a_cross() -> None:
    points = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    vectors = [np.array(point, np.float32) for point in points]
    assert RULES["geometric_median"](vectors, 2) == pytest.approx([0, 0], abs=1e-4)
