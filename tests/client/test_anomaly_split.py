from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.anomaly.split import Sets, Wanted, split_good
from client.tasks.split import keys
from common.errors import ConfigError, DataError

GOOD, BAD = 0, 1


def cut(
    labels: list[int], groups: list[str | None] | None = None, *, seed: int = 0, **wanted: int
) -> Sets:
    names = groups or [None] * len(labels)
    ranks = keys(names, [f"content {i}" for i in range(len(labels))], seed=seed)
    return split_good(
        labels, ranks, good=GOOD, wanted=Wanted(budget=0.05, **wanted), where="plant/good"
    )


def everything(sets: Sets) -> list[int]:
    return [i for field in dataclasses.fields(sets) for i in getattr(sets, field.name)]


@settings(max_examples=40, deadline=None)
@given(
    good=st.integers(60, 300),
    bad=st.integers(0, 60),
    size=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_sets_do_not_share_a_part_or_a_group(good: int, bad: int, size: int, seed: int) -> None:
    labels = [GOOD] * good + [BAD] * bad
    groups: list[str | None] = [f"group {i // size}" for i in range(len(labels))]
    sets = cut(labels, groups, seed=seed)
    found = everything(sets)
    assert len(found) == len(set(found))
    learned = {groups[i] for i in (*sets.train, *sets.compared, *sets.calibration)}
    tested = {groups[i] for i in (*sets.test, *sets.defective)}
    assert not learned & tested
    assert not {groups[i] for i in sets.calibration} & {groups[i] for i in sets.train}
    assert all(labels[i] == GOOD for i in (*sets.train, *sets.compared, *sets.calibration))
    assert len(sets.calibration) >= 19
    assert min(len(sets.train), len(sets.compared), len(sets.test)) >= 10


def test_all_good_parts_are_used_about_as_planned() -> None:
    sets = cut([GOOD] * 500)
    assert (len(sets.train), len(sets.compared), len(sets.calibration), len(sets.test)) == (
        240,
        80,
        80,
        100,
    )
    assert sets.defective == ()


def test_quotas() -> None:
    sets = cut([GOOD] * 500 + [BAD] * 50, good=100, test=12, defects=5)
    assert len(sets.train) + len(sets.compared) + len(sets.calibration) == 100
    assert (len(sets.test), len(sets.defective), len(sets.judging)) == (12, 12, 5)


def test_the_test_does_not_change_with_the_number_of_good_parts_to_learn_from() -> None:
    assert cut([GOOD] * 400, good=60).test == cut([GOOD] * 400, good=200).test


def test_defects_in_a_group_that_is_learned_from_are_left_out() -> None:
    labels = [GOOD, BAD] * 100
    groups: list[str | None] = [f"board {i // 2}" for i in range(200)]
    sets = cut(labels, groups)
    assert len(sets.left_out) == 80
    assert {groups[i] for i in sets.defective} == {groups[i] for i in sets.test}


def test_judges_are_of_all_classes() -> None:
    labels = [GOOD] * 80 + [1] * 40 + [2] * 5
    judging = cut(labels, defects=6).judging
    assert [labels[i] for i in judging].count(2) == 3


def test_too_few_good_parts() -> None:
    with pytest.raises(
        DataError, match=r"plant/good must be at least 49 .*19 for the threshold.* got 48"
    ):
        cut([GOOD] * 48)
    cut([GOOD] * 49)


def test_too_few_groups() -> None:
    with pytest.raises(DataError, match="in enough groups"):
        cut([GOOD] * 100, [f"group {i // 50}" for i in range(100)])


def test_too_few_labels() -> None:
    with pytest.raises(DataError, match="labels_per_class be enough"):
        cut([GOOD] * 100, good=30)


@pytest.mark.parametrize("count", [3, 20, 21])
def test_as_many_judges_as_can_be_spared(count: int) -> None:
    with pytest.raises(ConfigError, match=f"anomaly.validation_defects must be .* got {count}"):
        cut([GOOD] * 80 + [BAD] * 20, defects=count)
