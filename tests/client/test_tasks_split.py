import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client.tasks.split import FOLDS, Quota, Split, keys, split
from common.errors import DataError

Image = tuple[int, str | None, str]  # label, group, content


def cut(images: list[Image], **quota: int | None) -> Split:
    labels = [label for label, _, _ in images]
    ranks = keys(
        [group for _, group, _ in images],
        [content for _, _, content in images],
        seed=quota.get("seed") or 0,
    )
    names = [f"class{label}" for label in range(max(labels) + 1)]
    return split(labels, ranks, classes=names, quota=Quota(**quota), where="plants/steel")


def singles(*counts: int) -> list[Image]:
    return [(c, None, f"{c}-{i}") for c, count in enumerate(counts) for i in range(count)]


def per_class(images: list[Image], indices: np.ndarray) -> list[int]:
    counts = Counter(images[index][0] for index in indices)
    return [counts[label] for label in range(max(label for label, _, _ in images) + 1)]


@st.composite
def plants(draw: st.DrawFn) -> list[Image]:
    """Two to four classes in groups that may span classes, with some copies of images."""
    classes = draw(st.integers(2, 4))
    rng = random.Random(draw(st.integers(0, 10**6)))
    groups = draw(st.integers(5, 60))
    images: list[Image] = []
    for group in range(groups):
        for _ in range(rng.randint(1, 4)):
            name = f"g{group}" if rng.random() < 0.8 else None
            content = rng.choice(images)[2] if images and rng.random() < 0.05 else f"c{len(images)}"
            images.append((rng.randrange(classes), name, content))
    assume(len({label for label, _, _ in images}) == classes)
    return images


@settings(max_examples=200, deadline=None)
@given(
    images=plants(),
    seed=st.integers(0, 99),
    labels=st.none() | st.integers(2, 12),
    test=st.none() | st.integers(1, 5),
)
def test_sets_are_disjoint_by_group_complete_and_within_their_quotas(
    images: list[Image], seed: int, labels: int | None, test: int | None
) -> None:
    try:
        parts = cut(images, seed=seed, labels=labels, test=test)
    except DataError as error:
        assert "of plants/steel must have" in str(error)  # noqa: PT017
        return
    for field in (1, 2):  # neither groups nor contents straddle
        for one, other in [(parts.train, parts.validation), (parts.train, parts.test),
                           (parts.validation, parts.test)]:  # fmt: skip
            assert not set(one) & set(other)
            named = {images[i][field] for i in one} - {None}
            assert not named & {images[i][field] for i in other}
    assert min(per_class(images, parts.train)) >= 1
    assert min(per_class(images, parts.validation)) >= 1
    assert min(per_class(images, parts.test)) >= 1
    if labels is not None:
        assert max(parts.labelled) <= labels
    if test is not None:
        assert max(per_class(images, parts.test)) <= test
    labelled = sorted({*parts.train, *parts.validation})
    assert per_class(images, np.array(labelled)) == list(parts.labelled)
    np.testing.assert_array_equal(parts.folds[0][0], parts.train)
    np.testing.assert_array_equal(parts.folds[0][1], parts.validation)
    for train, held in parts.folds:
        assert sorted([*train, *held]) == labelled
        assert min(per_class(images, train)) >= 1


@settings(max_examples=60, deadline=None)
@given(images=plants(), order=st.randoms(use_true_random=False), labels=st.none() | st.just(4))
def test_the_order_of_files_does_not_matter(
    images: list[Image], order: random.Random, labels: int | None
) -> None:
    # Copies in one class are interchangeable, so give each image a content of its own.
    images = [(label, group, f"c{i}") for i, (label, group, _) in enumerate(images)]
    shuffled = images[:]
    order.shuffle(shuffled)
    try:
        parts = cut(images, labels=labels)
    except DataError:
        with pytest.raises(DataError):
            cut(shuffled, labels=labels)
        return
    again = cut(shuffled, labels=labels)
    for name in ("train", "validation", "test"):
        one = {images[index] for index in getattr(parts, name)}
        assert one == {shuffled[index] for index in getattr(again, name)}


@pytest.mark.parametrize("labels", [None, 20])
def test_one_more_file_moves_at_most_one_other_of_each_set(labels: int | None) -> None:
    images = singles(100, 60)
    before = cut(images, labels=labels)
    where = {i: n for n in ("train", "validation", "test") for i in getattr(before, n)}
    for extra in range(20):
        after = cut([*images, (0, None, f"new{extra}")], labels=labels)
        now = {i: n for n in ("train", "validation", "test") for i in getattr(after, n)}
        assert sum(now.get(i) != where.get(i) for i in range(160)) <= 3
        assert all(now.get(i) == where.get(i) for i in range(100, 160))  # the other class


def test_sixty_twenty_twenty_without_a_number_of_labels() -> None:
    images = singles(100, 50, 10)
    parts = cut(images)
    assert per_class(images, parts.train) == [60, 30, 6]
    assert per_class(images, parts.validation) == [20, 10, 2]
    assert per_class(images, parts.test) == [20, 10, 2]
    assert len(parts.folds) == 1


def test_labels_count_training_and_validation_together() -> None:
    images = singles(100, 27)
    parts = cut(images, labels=20, test=50)
    assert parts.labelled == (20, 20)
    assert per_class(images, parts.validation) == [5, 5]
    assert per_class(images, parts.test) == [50, 7]
    assert parts.testable == (80, 7)


@pytest.mark.parametrize("labels", [2, 3, 5, 6, 8, 9])
def test_few_labels_make_folds_that_hold_each_labelled_image_once(labels: int) -> None:
    images = singles(40, 40, 40)
    parts = cut(images, labels=labels)
    assert len(parts.folds) == min(FOLDS, labels)
    held = sorted(index for _, validation in parts.folds for index in validation)
    assert held == sorted({*parts.train, *parts.validation})
    for _, validation in parts.folds:
        counts = per_class(images, validation)
        assert max(counts) <= -(-labels // len(parts.folds))
        assert min(counts) >= 1


def test_fewer_labels_are_a_part_of_more_and_the_test_stays() -> None:
    images = singles(200, 200)
    few, more = (cut(images, labels=labels, test=100) for labels in (5, 50))
    assert {*few.train, *few.validation} < {*more.train, *more.validation}
    np.testing.assert_array_equal(few.test, more.test)


def test_another_seed_is_another_split() -> None:
    one, other = (cut(singles(50, 50), labels=20, seed=seed) for seed in (0, 1))
    assert set(one.train) != set(other.train)


def test_images_of_a_labelled_group_beyond_the_quota_are_left_out() -> None:
    images = [(c, f"board{b}", f"{c}{b}{i}") for c in (0, 1) for b in range(10) for i in range(8)]
    parts = cut(images, labels=4)
    assert parts.labelled == (4, 4)
    boards = defaultdict(set)
    for name in ("train", "validation", "test"):
        for index in getattr(parts, name):
            boards[images[index][1]].add(name)
    assert all(len(names) == 1 for names in boards.values())
    assert len(parts.train) + len(parts.validation) + len(parts.test) < len(images)


def test_few_large_groups_give_more_each() -> None:
    images = [(c, f"lot{c}{g}", f"{c}{g}{i}") for c in (0, 1) for g in range(3) for i in range(50)]
    parts = cut(images, labels=20)
    assert parts.labelled == (20, 20)
    assert parts.testable == (50, 50)


@pytest.mark.parametrize("labels", [None, 4, 20])
@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_that_shares_its_groups_keeps_one_for_each_set(
    labels: int | None, seed: int
) -> None:
    images = [(0, f"board{b}", f"a{b}{i}") for b in range(40) for i in range(3)]
    images += [(1, f"board{b}", f"b{b}{i}") for b in range(3) for i in range(25)]
    parts = cut(images, labels=labels, seed=seed)
    assert parts.labelled[0] == (labels or parts.labelled[0])
    for indices in (parts.train, parts.validation, parts.test):
        assert per_class(images, indices)[1] >= 1


def test_copies_join_groups_even_across_manifest_groups() -> None:
    ranks = keys(["g1", "g2", "g3", None, None], ["a", "a", "b", "b", "c"], seed=0)
    groups = [rank for rank, _ in ranks]
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert len(set(groups)) == 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (singles(30, 20), 20, "class class1 of plants/steel must have at least 21 usable examples"),
        (singles(30, 2), None, "class class1 of plants/steel must have at least 3 usable examples"),
        ([*singles(30), *[(1, "lot", f"x{i}") for i in range(30)]], 5, "3 groups .*, got 1"),
        ([*singles(30), *[(1, None, "same")] * 9], None, "3 groups .*, got 1"),
    ],
)
def test_a_class_with_too_few_is_refused_by_name(
    images: list[Image], labels: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        cut(images, labels=labels)
