from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from simulation.shares import Part, assign, parse_labels, quotas

totals_of = st.lists(st.integers(1, 400), min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("text", "alpha"),
    [("iid", None), ("dirichlet:0.3", 0.3), ("dirichlet:10", 10.0), ("dirichlet:.5", 0.5)],
)
def test_labels_text(text: str, alpha: float | None) -> None:
    assert parse_labels(text) == alpha


@pytest.mark.parametrize(
    "text", ["", "IID", "dirichlet", "dirichlet:", "dirichlet:0", "dirichlet:-1", "dirichlet:nan"]
)
def test_bad_labels_text(text: str) -> None:
    with pytest.raises(ConfigError, match="labels must be iid or dirichlet:ALPHA with a number"):
        parse_labels(text)


@given(
    totals=totals_of,
    plants=st.integers(1, 6),
    alpha=st.sampled_from([None, 0.1, 0.3, 1.0, 100.0]),
    minimum=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_quotas_keep_their_promises(
    totals: list[int], plants: int, alpha: float | None, minimum: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    try:
        found = quotas(totals, plants=plants, alpha=alpha, minimum=minimum, rng=rng)
    except DataError as error:
        assert "use " in str(error)  # noqa: PT017  # one of two right answers
        return
    assert found.sum(axis=1).tolist() == totals
    assert (np.count_nonzero(found, axis=0) >= 2).all()
    for total, row in zip(totals, found, strict=True):
        assert all(count == 0 or count >= min(minimum, total) for count in row)


def test_iid_is_even() -> None:
    rng = np.random.default_rng(0)
    found = quotas([300, 301], plants=4, alpha=None, minimum=12, rng=rng)
    assert found.tolist()[0] == [75] * 4
    assert sorted(found.tolist()[1]) == [75, 75, 75, 76]


def test_a_small_alpha_is_one_sided() -> None:
    even, skewed = (
        quotas([300] * 6, plants=4, alpha=alpha, minimum=12, rng=np.random.default_rng(1))
        for alpha in (100.0, 0.3)
    )
    assert even.std() < 30 < skewed.std()
    assert (skewed == 0).any()


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="images must be enough for 4 plants with two classes"):
        quotas([20, 20], plants=4, alpha=None, minimum=12, rng=np.random.default_rng(0))


def parts_of(groups: list[list[int]]) -> list[Part]:
    return [
        Part(file=f"{number}-{index}.png", label=label, group=f"g{number:03d}")
        for number, labels in enumerate(groups)
        for index, label in enumerate(labels)
    ]


@given(
    groups=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=30, max_size=60),
    plants=st.integers(1, 4),
)
def test_a_group_goes_to_one_plant_whole_and_no_class_is_lost(
    groups: list[list[int]], plants: int
) -> None:
    groups = [*groups, [0], [1], [2]]
    parts = parts_of(groups)
    totals = [sum(part.label == label for part in parts) for label in range(3)]
    wanted = np.array([[total // plants] * plants for total in totals])
    shares = assign(parts, wanted, minimum=3)
    owner: dict[str, set[int]] = {}
    for plant, share in enumerate(shares):
        for part in share:
            owner.setdefault(part.group, set()).add(plant)
    assert all(len(plants) == 1 for plants in owner.values())
    files = [part.file for share in shares for part in share]
    assert len(files) == len(set(files))
    assert {part.label for share in shares for part in share} == {0, 1, 2}


def test_quotas_are_met_exactly_where_groups_are_single_images() -> None:
    parts = parts_of([[0]] * 50 + [[1]] * 30)
    wanted = np.array([[35, 15, 0], [0, 14, 16]])
    shares = assign(parts, wanted, minimum=12)
    counts = [[sum(part.label == label for part in share) for share in shares] for label in (0, 1)]
    assert counts == wanted.tolist()


def test_too_few_images_of_a_class_at_a_plant_are_left_out() -> None:
    groups = [[0] * 10 + [1]] + [[0]] * 10 + [[1]] * 20
    shares = assign(parts_of(groups), np.array([[20, 0], [0, 21]]), minimum=5)
    assert {part.label for part in shares[0]} == {0}
    assert sum(part.label == 1 for part in shares[1]) == 20
