"""What a plant's columns are: numbers, names, or nothing that can be learned from.

Scale, quantiles and levels come from the training rows alone, so that nothing of the test gets
into the stem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.tasks.tables.rows import as_number
from common.backbones.table import Category, Columns, Number
from common.errors import DataError

Floats = npt.NDArray[np.float32]

#: What float32 holds, rounded down.
LARGEST = 3.4e38
#: A column of names with more of them tells one row from another, and nothing else.
MOST_LEVELS = 100
#: From this share of numbers on, a column is meant to hold numbers.
MOSTLY = 0.5


def numbers_of(
    name: str,
    cells: Sequence[str],
    rows: Sequence[str],
    *,
    where: str,
    otherwise: str = "name the column under table.categories or table.drop",
) -> tuple[Floats, str] | None:
    """Read a column as numbers.

    Parameters
    ----------
    cells : its texts, "" where one is missing.
    rows : names of the rows, for messages.
    where : the plant's folder, for messages.
    otherwise : what to do where the column is meant to be as it is.

    Returns
    -------
    float32, NaN where a value is missing, and a note or ""; None if the column holds names.

    Raises
    ------
    DataError
        If most are numbers and some are not, or one is too large.
    """
    values = np.full(len(cells), np.nan)
    wrong = []
    for place, cell in enumerate(cells):
        if cell:
            value = as_number(cell)
            if value is None:
                wrong.append(place)
            else:
                values[place] = value
    read = sum(bool(cell) for cell in cells) - len(wrong)
    if wrong and read < MOSTLY * (read + len(wrong)):
        return None
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(
            f"column {name!r} of {where} must hold numbers, got {cells[wrong[0]]!r} in "
            f"{rows[wrong[0]]}{more}; mend it, or {otherwise}"
        )
    endless = int(np.isinf(values).sum())
    values[np.isinf(values)] = np.nan
    huge = np.flatnonzero(np.abs(values) > LARGEST)
    if len(huge):
        raise DataError(
            f"column {name!r} of {where} must hold values below {LARGEST:g}, got "
            f"{cells[huge[0]]} in {rows[huge[0]]}; mend it, give it in other units, or drop it"
        )
    note = f"column {name}: {endless} infinite values count as missing" if endless else ""
    return values.astype(np.float32), note


def are_names(cells: Sequence[str]) -> bool:
    """Whether the cells that are there are meant as names: most of them are no numbers."""
    read = sum(as_number(cell) is not None for cell in cells)
    return read < MOSTLY * len(cells)


def tells_apart(cells: Sequence[str]) -> bool:
    """Whether the names that are there tell one row from another, and nothing else."""
    distinct = len(set(cells))
    return distinct > MOST_LEVELS or distinct == len(cells)


def fit(
    inputs: Floats,
    names: Sequence[str],
    levels: Sequence[tuple[str, tuple[str, ...]]],
    *,
    bins: int,
) -> Columns:
    """Fit scale and quantiles to training rows.

    Parameters
    ----------
    inputs : training rows, numbers first, shape (rows, columns).
    names : of the numbers.
    levels : name and levels of each category.
    bins : pieces between quantiles.
    """
    numbers = tuple(_number(name, inputs[:, place], bins=bins) for place, name in enumerate(names))
    return Columns(
        numbers=numbers,
        categories=tuple(Category(name=name, levels=known) for name, known in levels),
    )


def _number(name: str, values: Floats, *, bins: int) -> Number:
    there = values[~np.isnan(values)].astype(np.float64)
    if not len(there):
        return Number(name=name, mean=0.0, spread=1.0, edges=(0.0, 1.0))
    edges = np.unique(np.quantile(there, np.linspace(0, 1, max(1, bins) + 1)).astype(np.float32))
    if len(edges) < 2:
        edges = np.array([edges[0], np.nextafter(edges[0], np.float32(np.inf)) + 1.0])
    spread = float(there.std())
    return Number(
        name=name,
        mean=float(there.mean()),
        spread=spread if spread > 0 else 1.0,
        edges=tuple(float(edge) for edge in edges),
    )


def useless(values: Floats) -> str:
    """Say why a column of numbers is not learned from; "" if it is."""
    there = values[~np.isnan(values)]
    if not len(there):
        return "is empty"
    return f"is always {there[0]:g}" if bool((there == there[0]).all()) else ""


def far_apart(value: float, other: float, *, times: float = 30.0) -> bool:
    """Whether two medians differ so much that units may: by ``times`` or more; 0 says nothing."""
    if not value or not other or not math.isfinite(value) or not math.isfinite(other):
        return False
    return abs(math.log(abs(value / other))) >= math.log(times)
