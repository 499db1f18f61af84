"""Which good parts are for what, where defective ones take no part in learning.

Good parts are cut in four: for the memory and the rounds, for comparing models, for the threshold,
and for the test. The threshold has parts of its own: those that had a say in which model is run
would make its promise too good. Defective parts are for the test; some may be set aside to judge
new models. As everywhere, parts of one group (`client.tasks.split`) are never in two of the sets,
and the order is that of a seeded hash: one more file moves few of the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from client.anomaly.threshold import fewest
from client.tasks.split import TEST_SHARE, Key
from common.errors import ConfigError, DataError

#: Fewest good parts for memory, comparison and test, each.
FEW = 10

#: Fewest real defective parts that may judge a new model.
FEW_DEFECTS = 5

#: Of the good parts that are not for the test: learning, comparison, threshold.
SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How many parts go where.

    Attributes
    ----------
    budget : false-reject budget, which says how many the threshold needs.
    good : good parts for learning, comparison and threshold together; None: all but the test's.
    test : at most this many test parts a class; None: no limit.
    defects : defective parts that judge new models; 0: none.
    """

    budget: float
    good: int | None = None
    test: int | None = None
    defects: int = 0


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Indices of parts; those that are in no set are not used.

    Attributes
    ----------
    train, compared, calibration, test : good parts.
    judging, defective : defective parts, for new models and for the test.
    left_out : defective parts that share a group with good ones that are learned from.
    """

    train: tuple[int, ...]
    compared: tuple[int, ...]
    calibration: tuple[int, ...]
    test: tuple[int, ...]
    judging: tuple[int, ...]
    defective: tuple[int, ...]
    left_out: tuple[int, ...]


def split_good(
    labels: Sequence[int], ranks: Sequence[Key], *, good: int, wanted: Wanted, where: str
) -> Sets:
    """Split parts.

    Parameters
    ----------
    labels : class index of each part.
    ranks : of each part, from `client.tasks.split.keys`.
    good : index of the class of good parts.
    where : the class's folder, for messages.

    Raises
    ------
    DataError
        If there are too few good parts, or they lie in too few groups.
    ConfigError
        If more defective parts shall judge than the test can spare.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(labels)), key=lambda i: ranks[i]):
        groups[ranks[index][0]].append(index)
    with_good = [g for g in groups.values() if any(labels[i] == good for i in g)]
    total = sum(labels[i] == good for g in with_good for i in g)
    floors = (FEW, FEW, fewest(wanted.budget), FEW)
    _check_enough(total, floors=floors, budget=wanted.budget, where=where)
    held = _from_the_back(with_good, labels, good=good, most=max(FEW, round(TEST_SHARE * total)))
    rest = with_good[: len(with_good) - len(held)]
    sets = _deal(rest, labels, good=good, floors=floors[:3], most=wanted.good)
    test = [i for g in held for i in g]
    counts = (*map(len, sets), sum(labels[i] == good for i in test))
    if any(count < floor for count, floor in zip(counts, floors, strict=True)):
        raise DataError(
            f"good parts of {where} must be in enough groups, or labels_per_class be enough, for "
            f"{_words(floors)}; got {_words(counts)}; add good parts of other groups"
        )
    bad = [g for g in groups.values() if not any(labels[i] == good for i in g)]
    judging, free = _set_aside([i for g in bad for i in g], labels, wanted.defects)
    tested = _cap([*test, *free], labels, most=wanted.test)
    return Sets(
        train=sets[0],
        compared=sets[1],
        calibration=sets[2],
        test=tuple(i for i in tested if labels[i] == good),
        judging=judging,
        defective=tuple(i for i in tested if labels[i] != good),
        left_out=tuple(i for g in rest for i in g if labels[i] != good),
    )


def _check_enough(total: int, *, floors: tuple[int, ...], budget: float, where: str) -> None:
    if total < sum(floors):
        raise DataError(
            f"good parts of {where} must be at least {sum(floors)} for a false-reject budget of "
            f"{budget:g} ({_words(floors)}), got {total}; add good parts, or raise "
            "false_reject_budget"
        )


def _words(counts: Sequence[int]) -> str:
    words = ("for the memory", "to compare models", "for the threshold", "for the test")
    return ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True))


def _from_the_back(
    groups: Sequence[list[int]], labels: Sequence[int], *, good: int, most: int
) -> list[list[int]]:
    """Return the last groups, until they hold enough good parts."""
    taken: list[list[int]] = []
    while sum(labels[i] == good for g in taken for i in g) < most and len(taken) < len(groups):
        taken.append(groups[len(groups) - 1 - len(taken)])
    return taken


def _deal(
    groups: Sequence[list[int]],
    labels: Sequence[int],
    *,
    good: int,
    floors: tuple[int, ...],
    most: int | None,
) -> list[tuple[int, ...]]:
    """Deal groups to the three sets that learn.

    Each goes to the set that is furthest from its floor, or, once all are there, from its goal.
    """
    total = sum(labels[i] == good for g in groups for i in g)
    total = total if most is None else min(total, most)
    goals = [max(floor, share * total) for floor, share in zip(floors, SHARES, strict=True)]
    goals[0] = max(floors[0], total - goals[1] - goals[2])
    sets: list[list[int]] = [[], [], []]

    def wants(place: int) -> tuple[bool, float]:
        have = len(sets[place])
        low = have < floors[place]
        return not low, have / (floors[place] if low else goals[place])

    for group in groups:
        parts = [i for i in group if labels[i] == good]
        if sum(map(len, sets)) + len(parts) > total:
            continue
        sets[min(range(3), key=wants)].extend(parts)
    return [tuple(one) for one in sets]


def _set_aside(
    parts: Sequence[int], labels: Sequence[int], count: int
) -> tuple[tuple[int, ...], list[int]]:
    """Take defective parts from the front, one a class in turn."""
    if count == 0:
        return (), list(parts)
    if not FEW_DEFECTS <= count < len(parts):
        raise ConfigError(
            f"anomaly.validation_defects must be 0, or at least {FEW_DEFECTS} and fewer than the "
            f"plant's defective parts, {len(parts)}, got {count}; change it in plant.toml"
        )
    seen: Counter[int] = Counter()
    turns = {}
    for index in parts:
        turns[index] = seen[labels[index]]
        seen[labels[index]] += 1
    chosen = set(sorted(parts, key=lambda i: turns[i])[:count])
    return tuple(i for i in parts if i in chosen), [i for i in parts if i not in chosen]


def _cap(parts: Sequence[int], labels: Sequence[int], *, most: int | None) -> list[int]:
    """Keep at most so many parts of each class."""
    left: Counter[int] = Counter()
    kept = []
    for index in parts:
        left[labels[index]] += 1
        if most is None or left[labels[index]] <= most:
            kept.append(index)
    return kept
