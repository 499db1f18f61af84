"""A plant's folder of recordings: found, read, checked, cut into pieces without gaps.

``ROOT/<plant>/<class>/*`` with a folder a class, or files in the plant's folder itself, with a
column that says the class, or the number that is to be learned. What is wrong with a file is said
in one line: which file, which channel, what to do.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tasks.data import Progress, Skipped
from client.tasks.series.files import (
    SUFFIXES,
    Columns,
    fitting,
    is_missing,
    is_series,
    numbers,
    read,
)
from client.tasks.series.lengths import ONE_SAMPLE, empty, long_enough, skip, too_short
from client.tasks.series.rates import as_recorded, rate_of, rpm_of, told_rate
from client.tasks.series.selection import Selection
from client.tasks.series.signal import Piece, mend, resample, to_orders
from common.errors import DataError

Array = npt.NDArray[Any]

#: No recording is longer; integers of this size are still exact.
MOST_SAMPLES = 2.0**53


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """What a plant's folder holds.

    Attributes
    ----------
    pieces : without gaps, at the rate that the network sees.
    skipped : files that could not be used.
    unusable : classes that only have such files, with the first of them and why.
    notes : one line each.
    rate : samples a second that all were recorded at, where none is agreed on; 0: unknown.
    """

    pieces: tuple[Piece, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    rate: float = 0.0
    unusable: Mapping[str, str] = field(default_factory=dict)


def find(folder: Path) -> list[tuple[str, str]]:
    """List a plant's files: (name relative to the folder, class), the class "" without folders.

    A file is itself, relative to the folder that it lies in.

    Raises
    ------
    DataError
        If the folder is missing or has no file of a series.
    """
    if folder.is_file():
        return [(folder.name, "")]
    if not folder.is_dir():
        raise DataError(f"data folder must exist, got {folder}; check the path")
    try:
        direct = [(p.name, "") for p in folder.iterdir() if p.is_file() and is_series(p.name)]
        inside = [
            (f"{child.name}/{file.name}", child.name)
            for child in folder.iterdir()
            if child.is_dir() and not child.name.startswith(".")
            for file in child.iterdir()
            if file.is_file() and is_series(file.name)
        ]
    except OSError as error:
        raise DataError(f"data folder {folder} cannot be read: {error.strerror}") from error
    if direct and inside:
        raise DataError(
            f"data folder {folder} must hold either files or one folder a class, got both: "
            f"{min(direct)[0]} and {min(inside)[0]}"
        )
    if not direct and not inside:
        raise DataError(
            f"data folder {folder} must hold recordings ({' '.join(SUFFIXES)}), got none"
        )
    return sorted(direct or inside)


def load(
    folder: Path, *, selection: Selection, learns: str, progress: Progress | None = None
) -> Recordings:
    """Read all recordings of a plant.

    Parameters
    ----------
    learns : ``classes`` or ``numbers``; "" to read recordings that nothing is known of.

    Raises
    ------
    DataError
        If a file lacks a channel, has another sampling rate that cannot be brought to the one
        agreed on, or nothing usable is left.
    """
    pieces: list[Piece] = []
    rates: dict[float, str] = {}
    lost = filled = nameless = 0
    unused: list[tuple[str, Skipped]] = []
    found = find(folder)
    folder = folder.parent if folder.is_file() else folder
    for done, (name, label) in enumerate(found):
        if label and selection.classes and label not in selection.classes:
            continue
        columns = read(folder / name)
        rates.setdefault(told_rate(columns, selection), name)
        if selection.unit in columns.columns and columns.windows is None:
            nameless += int(is_missing(columns.columns[selection.unit]).sum())
        for piece in _pieces(folder, name, label, columns, selection, learns):
            if piece.label and selection.classes and piece.label not in selection.classes:
                continue
            mended = mend(piece, longest=selection.gap)
            filled, lost = filled + mended.filled, lost + mended.lost
            rate, rpm = (fact(folder / name, columns, selection) for fact in (rate_of, rpm_of))
            pieces.extend(
                _comparable(part, rate, rpm, selection, where=folder / name)
                for part in mended.pieces
                if len(part) > 1
            )
            if all(len(part) < 2 for part in mended.pieces):
                why = ONE_SAMPLE if mended.pieces else empty(piece, selection)
                unused.append((piece.label, skip(piece, why)))
        if progress is not None:
            progress(done + 1, len(found))
    kept, short = long_enough(pieces, selection)
    unused += short
    if not kept:
        raise too_short(folder, pieces, selection, lost=lost, unused=unused)
    notes = as_recorded(folder, rates, selection) + _gaps(selection, filled=filled, lost=lost)
    if nameless:
        notes.append(f"{nameless} rows without a {selection.unit} are left out")
    return Recordings(
        pieces=tuple(kept),
        skipped=tuple(skipped for _, skipped in unused),
        unusable=_unusable(kept, unused),
        notes=tuple(notes),
        rate=0.0 if selection.rate or selection.per_revolution else max(rates),
    )


def _unusable(kept: Sequence[Piece], unused: Sequence[tuple[str, Skipped]]) -> dict[str, str]:
    """Return the classes of which nothing is kept, with the first file of each and why."""
    usable = {piece.label for piece in kept}
    return {
        label: f"{skipped.file}: {skipped.why}"
        for label, skipped in reversed(unused)
        if label not in usable
    }


def _gaps(selection: Selection, *, filled: int, lost: int) -> list[str]:
    """Return what is to be said of so many missing samples."""
    notes = []
    if filled:
        spared = ", and none of these is to be forecast" if selection.horizon else ""
        notes.append(f"{filled} missing samples were filled in{spared}")
    if lost:
        notes.append(
            f"{lost} missing samples lie in runs longer than {selection.gap}: the recording is "
            "cut there"
        )
    return notes


def _pieces(
    folder: Path,
    name: str,
    label: str,
    columns: Columns,
    selection: Selection,
    learns: str,
) -> Iterator[Piece]:
    """Yield a file's pieces: one a unit and run of one label, or one a window."""
    path = folder / name
    # A file called test.csv, or test-3.npz, is for the test.
    test = Path(name).name.lower().startswith("test")
    if columns.windows is not None:
        yield from _cut_before(path, name, label, columns, selection, learns, test)
        return
    values = _channels(path, columns, selection, "channels")
    settings = _channels(path, columns, selection, "settings")
    target = _target(path, columns, selection) if learns == "numbers" else None
    if selection.speed:
        settings = np.column_stack([settings, _channels(path, columns, selection, "speed")])
    labels = None
    if learns == "classes" and not label:
        labels = _labels(path, columns, selection)
    units = _column(path, columns, selection.unit, "series.unit") if selection.unit else None
    nameless = np.zeros(len(values), dtype=bool) if units is None else is_missing(units)
    seen: Counter[str] = Counter()  # rows of a unit that came before: it may come back
    for start, stop in _stretches(len(values), units, labels):
        if nameless[start]:
            continue
        unit = "" if units is None else _plain(units[start])
        yield Piece(
            file=name,
            group=name if units is None else f"{selection.unit} {unit}",
            values=values[start:stop],
            settings=settings[start:stop],
            target=None if target is None else target[start:stop],
            label=label if labels is None else str(labels[start]),
            test=test,
            start=start if units is None else seen[unit],
        )
        seen[unit] += stop - start


def _cut_before(
    path: Path,
    name: str,
    label: str,
    columns: Columns,
    selection: Selection,
    learns: str,
    test: bool,  # noqa: FBT001 - one of the facts about the file
) -> Iterator[Piece]:
    """Yield the windows of a file that holds windows."""
    assert columns.windows is not None
    named = columns.channels or tuple(selection.own(c) for c in selection.channels)
    if len(named) != columns.windows.shape[1]:
        raise DataError(
            f"X of {path} must say its {columns.windows.shape[1]} channels in an array `channels`, "
            f"got none, and federation.toml names {len(selection.channels)}"
        )
    wanted = [selection.own(channel) for channel in selection.channels]
    if missing := [channel for channel in wanted if channel not in named]:
        raise _missing(path, missing[0], columns, "series.channels", named)
    if learns == "numbers" and selection.horizon:
        raise DataError(f"{path} must hold rows to forecast from, got windows that are cut")
    places = [named.index(channel) for channel in wanted]
    windows = fitting(path, "X", columns.windows[:, places, :].astype(np.float64))
    target = _target(path, columns, selection) if learns == "numbers" else None
    labels = None
    if learns == "classes" and not label:
        labels = _labels(path, columns, selection)
    groups = columns.columns.get("group")
    offsets = _offsets(path, columns)
    length = windows.shape[2]
    for place, window in enumerate(windows):
        yield Piece(
            file=name,
            group=name if groups is None else _plain(groups[place]),
            values=window.T,
            settings=np.zeros((length, len(selection.settings))),
            target=None if target is None else np.full(length, target[place]),
            label=label if labels is None else str(labels[place]),
            test=test,
            start=place * length if offsets is None else int(offsets[place]),
            window=True,
        )


def _offsets(path: Path, columns: Columns) -> Array | None:
    """Return where windows begin in their recording, if the file says it."""
    if "offset" not in columns.columns:
        return None
    found = numbers(path, "offset", columns.columns["offset"])
    if wrong := np.flatnonzero(~(np.abs(found) < MOST_SAMPLES)).tolist():
        raise DataError(
            f"offset of {path} must be the sample at which a window begins, got "
            f"{found[wrong[0]]:g} for window {wrong[0] + 1}; mend it, or leave `offset` out"
        )
    return found


def _channels(
    path: Path, columns: Columns, selection: Selection, key: str
) -> npt.NDArray[np.float64]:
    """Return the columns that a key of the section names, shape (rows, columns)."""
    wanted = getattr(selection, key)
    names = [selection.own(name) for name in ((wanted,) if isinstance(wanted, str) else wanted)]
    found = [numbers(path, own, _column(path, columns, own, f"series.{key}")) for own in names]
    if found:
        return np.column_stack(found)
    rows = len(next(iter(columns.columns.values()), np.empty(0)))
    return np.empty((rows, 0))


def _target(path: Path, columns: Columns, selection: Selection) -> npt.NDArray[np.float64]:
    own = selection.own(selection.target)
    return numbers(path, own, _column(path, columns, own, "series.target"))


def _labels(path: Path, columns: Columns, selection: Selection) -> Array:
    return _column(path, columns, selection.label, "series.label").astype(str)


def _column(path: Path, columns: Columns, name: str, key: str) -> Array:
    if name not in columns.columns:
        raise _missing(path, name, columns, key)
    return columns.columns[name]


def _missing(
    path: Path, name: str, columns: Columns, key: str, named: Sequence[str] = ()
) -> DataError:
    there = list(named or columns.columns)
    more = f" and {len(there) - 12} more" if len(there) > 12 else ""
    return DataError(
        f"{path} must have the column {name!r} of {key}, got {there[:12]}{more}; add it, or say "
        "what it is called here with series.names in plant.toml"
    )


def _stretches(rows: int, units: Array | None, labels: Array | None) -> list[tuple[int, int]]:
    """Return (first, one past the last) row of each run of one unit and one label."""
    if not rows:
        return []
    borders = np.zeros(rows - 1, dtype=bool)
    for column in (units, labels):
        if column is not None:
            borders |= column[1:] != column[:-1]
    edges = [0, *(np.flatnonzero(borders) + 1).tolist(), rows]
    return list(itertools.pairwise(edges))


def _plain(value: Any) -> str:
    """Write 3.0 as 3."""
    if isinstance(value, np.floating) and value.is_integer():
        return str(int(value))
    return str(value)


def _comparable(
    piece: Piece, rate: float, rpm: float, selection: Selection, *, where: Path
) -> Piece:
    """Bring a piece to the rate, or the orders, that the network sees; drop the speed channel."""
    speed: float | Array = rpm
    if selection.speed:
        speed = piece.settings[:, -1]
        piece = replace(piece, settings=piece.settings[:, :-1])
    forecast = piece.target if selection.horizon else None
    if forecast is not None:  # a signal as well: filtered like the channels
        piece = replace(piece, values=np.column_stack([piece.values, forecast]))
    if selection.per_revolution:
        piece = to_orders(
            piece,
            rate=rate,
            rpm=speed,
            per_revolution=selection.per_revolution,
            where=str(where),
        )
    elif selection.rate:
        piece = resample(piece, rate=rate, wanted=selection.rate, where=str(where))
    if forecast is not None:
        piece = replace(piece, values=piece.values[:, :-1], target=piece.values[:, -1])
    return piece
