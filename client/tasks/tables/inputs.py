"""The columns of a table that are learned from, as numbers.

Columns that all plants share come first, read as federation.toml says they are; then the plant's
own numbers, then its categories. What cannot be learned from is left out, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tasks.tables import columns
from client.tasks.tables.columns import numbers_of, tells_apart, useless
from client.tasks.tables.rows import Rows
from client.tasks.tables.selection import Selection
from common.backbones.table import Columns
from common.errors import DataError

Array = npt.NDArray[Any]


def read_inputs(
    folder: Path, rows: Rows, kept: Array, train: Array, selection: Selection
) -> tuple[npt.NDArray[np.float32], Columns, list[str]]:
    """Read the columns of the rows in use; float32, shape (rows, columns), NaN for missing."""
    chosen = selection.columns
    notes: list[str] = []
    front = [
        _told(name, told, [rows.cells[name][row] for row in kept], rows, kept, folder)
        for name, told in selection.shared
    ]
    for (name, told), values in zip(selection.shared, front, strict=True):
        notes += _unlike(
            name, told, [rows.cells[name][row] for row in kept], values[train], "the federation"
        )
    numbers: dict[str, Array] = {}
    levels: list[tuple[str, tuple[str, ...]]] = []
    codes: list[Array] = []
    for name, every in rows.cells.items():
        if name in (chosen.target, chosen.group, *chosen.drop, *dict(selection.shared)):
            continue
        cells = [every[row] for row in kept]
        labels = [rows.names[row] for row in kept]
        read = None
        if name not in chosen.categories:
            read = numbers_of(name, cells, labels, where=str(folder))
        if read is not None:
            values, note = read
            why = useless(values[train])
            if why:
                notes.append(f"column {name} {why} and is left out")
            else:
                numbers[name] = values
                notes += [note] if note else []
            continue
        filled = [cells[row] for row in train if cells[row]]
        known = tuple(sorted(set(filled)))
        if len(known) < 2 or tells_apart(filled):
            what = f"is always {known[0]}" if len(known) == 1 else f"has {len(known)} texts"
            notes.append(f"column {name} {what} and is left out")
            continue
        place = {level: code for code, level in enumerate(known)}
        levels.append((name, known))
        codes.append(np.array([place.get(cell, np.nan) for cell in cells], dtype=np.float32))
    if not numbers and not codes and not front:
        raise DataError(
            f"table in {folder} must have a column to learn from beside the target, got none that "
            f"differs between rows ({'; '.join(notes) or 'no other column'}); add some"
        )
    inputs = np.column_stack([*front, *numbers.values(), *codes]).astype(np.float32)
    own = inputs[train, len(front) :]
    found = columns.fit(own, list(numbers), levels, bins=selection.bins)
    return np.ascontiguousarray(inputs), found, notes


def read_alike(
    folder: Path, rows: Rows, known: Columns, selection: Selection
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Read rows as those were read that a stem was fitted to.

    A level that was not seen then is missing.

    Returns
    -------
    float32, shape (rows, columns), and notes on columns that are unlike those of then.

    Raises
    ------
    DataError
        If a column is not there, or holds no numbers where it did.
    """
    told: list[tuple[str, tuple[float | str, ...]]] = [
        *selection.shared,
        *((number.name, number.edges) for number in known.numbers),
        *((category.name, category.levels) for category in known.categories),
    ]
    if missing := [name for name, _ in told if name not in rows.cells]:
        raise DataError(
            f"table {folder} must have the columns that the model was made from, "
            f"{', '.join(missing)} missing; it has {', '.join(rows.cells)}"
        )
    every = np.arange(len(rows.names))
    read = [_told(name, what, rows.cells[name], rows, every, folder) for name, what in told]
    notes = [
        note
        for (name, what), values in zip(told, read, strict=True)
        for note in _unlike(name, what, rows.cells[name], values, "the model")
    ]
    return np.ascontiguousarray(np.column_stack(read).astype(np.float32)), notes


def _told(
    name: str,
    told: tuple[float | str, ...],
    cells: Sequence[str],
    rows: Rows,
    kept: Array,
    folder: Path,
) -> npt.NDArray[np.float32]:
    """Read a column as it is told to be: numbers, or the names of its levels."""
    if isinstance(told[0], str):
        place = {level: code for code, level in enumerate(told)}
        return np.array([place.get(cell, np.nan) for cell in cells], dtype=np.float32)
    read = numbers_of(name, cells, [rows.names[row] for row in kept], where=str(folder))
    if read is None:
        wrong = next(cell for cell in cells if cell)
        raise DataError(f"column {name!r} of {folder} must hold numbers, got {wrong!r}; mend it")
    return read[0]


def _unlike(
    name: str, told: tuple[float | str, ...], cells: Sequence[str], values: Array, knower: str
) -> list[str]:
    """Say where a column is not as it is told to be: names of no level, numbers of another size.

    Parameters
    ----------
    values : of the numbers, NaN for missing; their median is looked at.
    knower : who told.
    """
    if isinstance(told[0], str):
        new = sorted({cell for cell in cells if cell}.difference(map(str, told)))
        more = f" and {len(new) - 3} more" if len(new) > 3 else ""
        shown = f"{', '.join(new[:3])}{more}"
        return [f"column {name}: {knower} does not know {shown}: missing there"] if new else []
    there = values[~np.isnan(values)]
    median, low, high = float(np.median(there)) if len(there) else np.nan, told[0], told[-1]
    if not len(there) or float(low) <= median <= float(high):
        return []
    return [
        f"column {name}: median {median:g} lies outside {knower}'s range {low:g} to {high:g}: "
        "other units?"
    ]
