"""Windows: cut from pieces, and given to training, validation and test so that the test is honest.

Windows of one recording are not independent: neighbours overlap, and even those that do not have
the same machine, mounting and hour in them. So

- where there are at least three groups (units, files) of each class, whole groups are dealt out;
- otherwise each group is cut in time: its first windows train, the next ones validate, the last
  ones test, and a window that reaches over a border is in none of them. That test says how well
  *this* recording goes on; a machine that was never seen needs a group of its own, and where units
  are told apart, too few of them are refused;
- forecasts are always cut in time, each unit by itself; without units all files are one recording,
  in the order of their names (2 before 10): nothing is trained on what comes after the test;
- files whose names begin with ``test`` are the test, and nothing else is.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tasks.series.signal import Piece
from common.errors import DataError

Indices = npt.NDArray[np.int64]

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window: samples ``start`` up to ``stop`` of a piece; its target lies behind, or at, it.

    Attributes
    ----------
    piece : index of the piece.
    reach : one past the last sample that the window or its target touches.
    """

    piece: int
    start: int
    stop: int
    reach: int


def cut(pieces: Sequence[Piece], *, length: int, stride: int, horizon: int = 0) -> list[Window]:
    """Cut windows from the end of each piece backwards, so that the latest moment has one.

    Parameters
    ----------
    length : samples in a window.
    stride : samples between the ends of two windows.
    horizon : samples behind a window that its target needs.

    Returns
    -------
    windows in the order of pieces and time; none of a piece that is too short, and none whose
    next values were filled in: nobody measured what it would have to forecast.
    """
    found = []
    for place, piece in enumerate(pieces):
        latest = len(piece) - horizon
        ends = range(latest, length - 1, -stride)
        found += [
            Window(piece=place, start=end - length, stop=end, reach=end + horizon)
            for end in reversed(ends)
            if piece.made is None or not piece.made[end : end + horizon].any()
        ]
    return found


def deal(
    pieces: Sequence[Piece],
    windows: Sequence[Window],
    *,
    labels: int | None,
    seed: int,
    where: str,
    unit: str = "",
) -> tuple[Indices, Indices, Indices]:
    """Deal windows out to training, validation and test.

    Parameters
    ----------
    labels : training and validation windows a class together; None: all.
    seed : which groups go where; a cut in time is the same for every seed.
    where : the plant's folder, for messages.
    unit : column that tells units apart, none of which may be torn unless it is forecast; or "".

    Raises
    ------
    DataError
        If there are too few units, one of the three would be empty, or a label is only in the test.
    """
    given = [index for index, window in enumerate(windows) if pieces[window.piece].test]
    rest = [index for index, window in enumerate(windows) if not pieces[window.piece].test]
    parts = _in_time
    if all(window.reach == window.stop for window in windows):
        fewest = 2 if unit and given else 3
        few = _few_groups(pieces, windows, rest, fewest)
        if few and unit:
            raise _too_few_units(few, fewest, where, unit)
        parts = _in_time if few or not rest else _by_group
    train, validation, test = parts(pieces, windows, rest, bool(given), seed)
    test = given if given else test
    if labels is not None:
        train, validation = _fewer(pieces, windows, train, validation, labels)
    _check(pieces, windows, {"training": train, "validation": validation, "test": test}, where)
    return _sorted(train), _sorted(validation), _sorted(test)


def _sorted(indices: Sequence[int]) -> Indices:
    return np.array(sorted(indices), dtype=np.int64)


def _few_groups(
    pieces: Sequence[Piece], windows: Sequence[Window], indices: Sequence[int], fewest: int
) -> dict[str, list[str]]:
    """Return the groups of each label that has fewer than so many."""
    groups: dict[str, set[str]] = defaultdict(set)
    for index in indices:
        piece = pieces[windows[index].piece]
        groups[piece.label].add(piece.group)
    return {label: sorted(groups[label]) for label in sorted(groups) if len(groups[label]) < fewest}


def _too_few_units(few: dict[str, list[str]], fewest: int, where: str, unit: str) -> DataError:
    label, names = next(iter(few.items()))
    return DataError(
        f"{f'class {label} of ' if label else ''}{where} must have at least {fewest} units long "
        f"enough for a window, since none is torn between training, validation and test, got "
        f"{len(names)} ({', '.join(names)}); add units, or leave series.unit, now {unit!r}, empty: "
        "recordings are cut in time then"
    )


Dealt = tuple[list[int], list[int], list[int]]


def _by_group(
    pieces: Sequence[Piece],
    windows: Sequence[Window],
    indices: Sequence[int],
    given: Any,
    seed: int,
) -> Dealt:
    """Deal whole groups, in the order of a seeded hash of their names, class by class."""
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in indices:
        piece = pieces[windows[index].piece]
        groups[piece.label][piece.group].append(index)
    dealt: Dealt = ([], [], [])
    place: dict[str, int] = {}  # a group of several classes goes to one place
    for label in sorted(groups):
        names = sorted(groups[label], key=lambda name: _rank(seed, name))
        tests = 0 if given else max(1, round(TEST_SHARE * len(names)))
        held = max(1, round(VALIDATION_SHARE * len(names)))
        for rank, name in enumerate(reversed(names)):
            fresh = 2 if rank < tests else 1 if rank < tests + held else 0
            dealt[place.setdefault(name, fresh)].extend(groups[label][name])
    return dealt


def _in_time(
    pieces: Sequence[Piece],
    windows: Sequence[Window],
    indices: Sequence[int],
    given: Any,
    seed: int,
) -> Dealt:
    """Cut each group, or all that is forecast, in time; drop what reaches over a border."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index in indices:
        groups[_key(pieces, windows[index])].append(index)
    dealt: Dealt = ([], [], [])
    share = 0.0 if given else TEST_SHARE
    for key in sorted(groups):
        order = sorted(groups[key], key=lambda index: _moment(pieces, windows[index]))
        count = len(order)
        borders = (
            count - round((share + VALIDATION_SHARE) * count),
            count - round(share * count),
        )
        parts = order[: borders[0]], order[borders[0] : borders[1]], order[borders[1] :]
        for place, part in enumerate(parts):
            begins = _moment(pieces, windows[part[0]]) if part else None
            if begins is not None and place:
                earlier = dealt[place - 1]
                earlier[:] = [
                    i
                    for i in earlier
                    if _key(pieces, windows[i]) != key or not _touches(pieces, windows[i], begins)
                ]
            dealt[place].extend(part)
    return dealt


def _key(pieces: Sequence[Piece], window: Window) -> tuple[str, str]:
    piece = pieces[window.piece]
    one_recording = window.reach > window.stop and piece.group == piece.file
    return "" if one_recording else piece.group, piece.label


#: Order of the file, its name, and place in it.
Moment = tuple[list[str | int], str, int]


def _moment(pieces: Sequence[Piece], window: Window) -> Moment:
    piece = pieces[window.piece]
    return _order(piece.file), piece.file, piece.start + window.start


def _order(file: str) -> list[str | int]:
    """Return what sorts names with numbers in them by the numbers; text and numbers alternate."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file)]


def _touches(pieces: Sequence[Piece], window: Window, moment: Moment) -> bool:
    """Whether a window, or its target, reaches over a moment of its recording."""
    piece = pieces[window.piece]
    return piece.file == moment[1] and piece.start + window.reach > moment[2]


def _fewer(
    pieces: Sequence[Piece],
    windows: Sequence[Window],
    train: Sequence[int],
    validation: Sequence[int],
    labels: int,
) -> tuple[list[int], list[int]]:
    """Keep so many windows a class, a quarter of them for validation, evenly over each part."""
    held = max(1, round(labels / 4))
    return (
        _thin(pieces, windows, train, max(1, labels - held)),
        _thin(pieces, windows, validation, held),
    )


def _thin(
    pieces: Sequence[Piece], windows: Sequence[Window], indices: Sequence[int], most: int
) -> list[int]:
    classes: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        classes[pieces[windows[index].piece].label].append(index)
    kept = []
    for found in classes.values():
        places = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round())
        kept += [found[int(place)] for place in places]
    return kept


def _check(
    pieces: Sequence[Piece],
    windows: Sequence[Window],
    parts: dict[str, list[int]],
    where: str,
) -> None:
    labels = {
        name: Counter(pieces[windows[index].piece].label for index in part)
        for name, part in parts.items()
    }
    for label in sorted(set().union(*labels.values())):
        for name, found in labels.items():
            if found[label] or (name == "test" and any(found.values()) and label):
                continue
            if name == "training" and label:
                raise DataError(
                    f"class {label} of {where} must be in the training data, got it only in the "
                    "validation or test data; add recordings of it, or leave it out with `classes`"
                )
            what = f"class {label} of {where}" if label else where
            raise DataError(
                f"{what} must leave windows for {name}, got none; record longer, shorten "
                "series.window or series.stride, or add files"
            )


def _rank(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
