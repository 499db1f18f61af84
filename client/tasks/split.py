"""Who is for training, who for validation, who for the test: deterministic, stratified, by group.

Images of one group (the same board, the same part, the same file content) never straddle the
three sets. Groups are taken in the order of a seeded hash of their names, labelled images from
the front and test images from the back, so that

- the order of files on disk does not matter, and one more file moves few of the others;
- fewer labels a class are a part of more labels, and the test hardly changes with their number.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import DataError

Indices = npt.NDArray[np.int64]
Key = tuple[str, str]
Group = dict[int, list[int]]  # images by class

#: Below this many labels a class, a choice by one validation split is a gamble: k folds.
FEW_LABELS = 10
FOLDS = 3
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.25  # of the labelled images


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many images go where.

    Attributes
    ----------
    seed : another seed is another split.
    labels : labelled images a class, training and validation together; None: all but the test.
    test : at most this many test images a class; None: no limit.
    """

    seed: int = 0
    labels: int | None = None
    test: int | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """Sorted image indices; images beyond the quotas are in none of the three sets.

    Attributes
    ----------
    folds : pairs (training, validation) over the labelled images; the first is (train,
        validation), and the only one unless there are fewer than ten labels a class.
    labelled : labelled images of each class.
    testable : images of each class that the test could have, before ``Quota.test``.
    """

    train: Indices
    validation: Indices
    test: Indices
    folds: tuple[tuple[Indices, Indices], ...]
    labelled: tuple[int, ...]
    testable: tuple[int, ...]


def keys(groups: Sequence[str | None], contents: Sequence[str], *, seed: int) -> list[Key]:
    """Return (rank of its group, rank within the group) of each image, as hex.

    Images of one group have the same first rank, and so have images of the same content: these
    join their groups. Where there is no group name, the content is the group.

    Parameters
    ----------
    groups : names of groups, or None.
    contents : hashes of the files' content.
    """
    hashes = [
        _hash(seed, f"group:{group}" if group else f"content:{content}")
        for group, content in zip(groups, contents, strict=True)
    ]
    parent = {rank: rank for rank in hashes}

    def root(rank: str) -> str:
        while parent[rank] != rank:
            parent[rank] = rank = parent[parent[rank]]
        return rank

    first: dict[str, str] = {}
    for rank, content in zip(hashes, contents, strict=True):
        one, other = sorted((root(rank), root(first.setdefault(content, rank))))
        parent[other] = one
    return [(root(r), _hash(seed, c)) for r, c in zip(hashes, contents, strict=True)]


def groups_of(ranks: Sequence[Key]) -> Indices | None:
    """Return a number of its group for each example, from `keys`; None where all are alone."""
    known, place = np.unique([group for group, _ in ranks], return_inverse=True)
    return place.astype(np.int64) if len(known) < len(ranks) else None


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def split(
    labels: Sequence[int],
    ranks: Sequence[Key],
    *,
    classes: Sequence[str],
    quota: Quota,
    where: str = "the data",
) -> Split:
    """Split images.

    Parameters
    ----------
    labels : class index of each image.
    ranks : of each image, from `keys`.
    classes : names, for messages.
    where : the plant's folder, for messages.

    Raises
    ------
    DataError
        If a class has too few images, or they lie in too few groups, for at least one training,
        one validation and one test image and for all labels asked for.
    """
    groups = _group(labels, ranks)
    _check_enough(groups, classes=classes, quota=quota, where=where)
    totals = Counter(labels)
    if quota.labels is None:
        need = [max(1, round(TEST_SHARE * totals[c])) for c in range(len(classes))]
        tests, labelled = _take(groups[::-1], need, keep=2)
        labelled = labelled[::-1]
    else:
        need = [quota.labels] * len(classes)
        limit = _limits(groups, labels=quota.labels, classes=len(classes))
        labelled, rest = _take(groups, need, keep=1, limit=limit)
        tests = rest[::-1]
    counts = _count(labelled, classes=len(classes))
    if quota.labels is not None and quota.labels < FEW_LABELS:
        parts = min(FOLDS, min(sum(c in group for group in labelled) for c in range(len(classes))))
        folds = _folds(labelled, parts=max(2, parts))
    else:
        need = [max(1, round(VALIDATION_SHARE * count)) for count in counts]
        validation, train = _take(labelled, need, keep=1)
        folds = [(train, validation)]
    test = _cap(tests, most=quota.test)
    for part in (*folds[0], test):
        _check_complete(part, classes=classes, where=where)
    pairs = tuple((_indices(train), _indices(validation)) for train, validation in folds)
    return Split(
        train=pairs[0][0],
        validation=pairs[0][1],
        test=_indices(test),
        folds=pairs,
        labelled=tuple(counts),
        testable=tuple(_count(tests, classes=len(classes))),
    )


def _group(labels: Sequence[int], ranks: Sequence[Key]) -> list[Group]:
    """Put images together by group, in the order of their ranks."""
    groups: dict[str, Group] = {}
    for index in sorted(range(len(labels)), key=lambda index: (*ranks[index], index)):
        group = groups.setdefault(ranks[index][0], {})
        group.setdefault(labels[index], []).append(index)
    return list(groups.values())


def _take(
    groups: Sequence[Group], need: Sequence[int], *, keep: int, limit: Sequence[int] | None = None
) -> tuple[list[Group], list[Group]]:
    """Take groups in order until each class has what it needs; return them and the rest.

    ``keep`` groups of each class are never taken. With ``limit`` a group gives at most that many
    images of a class, and none beyond the need; its other images are left out.
    """
    missing = list(need)
    left = Counter(label for group in groups for label in group)
    taken, rest = [], []
    for group in groups:
        wanted = any(missing[label] > 0 for label in group)
        if not wanted or any(left[label] <= keep for label in group):
            rest.append(group)
            continue
        part = group
        if limit is not None:
            part = {c: ids[: max(0, min(limit[c], missing[c]))] for c, ids in group.items()}
        for label, images in part.items():
            missing[label] -= len(images)
        left.subtract(group.keys())
        taken.append({label: images for label, images in part.items() if images})
    return taken, rest


def _limits(groups: Sequence[Group], *, labels: int, classes: int) -> list[int]:
    """Say how many labelled images of a class one group may give.

    A quarter, so that validation and folds have groups to choose from; more where a class has so
    few groups that its labels would not be reached with one group left for the test.
    """
    having = Counter(label for group in groups for label in group)
    return [max(1, labels // 4, -(-labels // (having[c] - 1))) for c in range(classes)]


def _folds(groups: Sequence[Group], *, parts: int) -> list[tuple[list[Group], list[Group]]]:
    """Cut into stratified parts; return (all others, part) for each, the most complete first.

    Large groups first, each to the part that has the fewest images of its classes. A part
    without which a class would be gone is no validation set.
    """
    members: list[list[Group]] = [[] for _ in range(parts)]
    counts: list[Counter[int]] = [Counter() for _ in range(parts)]
    for group in sorted(groups, key=lambda group: -sum(map(len, group.values()))):
        part = min(
            range(parts),
            key=lambda p: (sum(counts[p][c] * len(group[c]) for c in group), counts[p].total()),
        )
        members[part].append(group)
        counts[part].update({label: len(images) for label, images in group.items()})
    total = sum(counts, Counter[int]())
    usable = [p for p in range(parts) if all(counts[p][c] < total[c] for c in total)]
    usable.sort(key=lambda p: (-len(counts[p]), -counts[p].total()))
    pairs = [
        ([group for q in range(parts) if q != p for group in members[q]], members[p])
        for p in usable
    ]
    return pairs or [(list(groups), [])]


def _cap(groups: Sequence[Group], *, most: int | None) -> list[Group]:
    """Keep the first ``most`` images of each class, in the order of the groups."""
    if most is None:
        return list(groups)
    left: Counter[int] = Counter()
    kept = []
    for group in groups:
        part = {label: images[: most - left[label]] for label, images in group.items()}
        left.update({label: len(images) for label, images in part.items()})
        kept.append({label: images for label, images in part.items() if images})
    return kept


def _count(groups: Sequence[Group], *, classes: int) -> list[int]:
    return [sum(len(group.get(label, ())) for group in groups) for label in range(classes)]


def _indices(groups: Sequence[Group]) -> Indices:
    every = [index for group in groups for images in group.values() for index in images]
    return np.array(sorted(every), dtype=np.int64)


def _check_enough(
    groups: Sequence[Group], *, classes: Sequence[str], quota: Quota, where: str
) -> None:
    need = 3 if quota.labels is None else quota.labels + 1
    wanted = (
        "training, validation, test"
        if quota.labels is None
        else f"{quota.labels} labelled and 1 for the test"
    )
    remedy = "add some, lower labels_per_class, or leave the class out with `classes`"
    counts = _count(groups, classes=len(classes))
    for label, name in enumerate(classes):
        if counts[label] < need:
            raise DataError(
                f"class {name} of {where} must have at least {need} usable examples ({wanted}), "
                f"got {counts[label]}; {remedy}"
            )
        having = sum(label in group for group in groups)
        if having < 3:
            raise DataError(
                f"class {name} of {where} must have examples of at least 3 groups (training, "
                f"validation, test; copies are one group), got {having}; {remedy}"
            )


def _check_complete(groups: Sequence[Group], *, classes: Sequence[str], where: str) -> None:
    for label, count in enumerate(_count(groups, classes=len(classes))):
        if not count:
            raise DataError(
                f"class {classes[label]} of {where} must have groups of its own for training, "
                "validation and test, got too many that it shares with other classes; add some "
                "or leave the class out with `classes`"
            )
