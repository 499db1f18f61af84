"""Files of sensor series: npz, csv and parquet become columns with names.

A csv or parquet file is a table: one row a moment, one column a channel, a target, a label. Csv may
be separated by comma, semicolon or tab, as tables of parts are (`client.tasks.tables.rows`). An npz
file is the same, one array a column; or it holds windows that somebody cut before: ``X`` of shape
(windows, samples) or (windows, channels, samples), with ``channels`` (names) and ``y`` and
``classes`` (labels) beside it. Facts about a file stand in it as single numbers: ``rate``, samples
a second, and ``rpm``, revolutions a minute of the shaft.

Nothing is unpickled: an npz file with Python objects is refused.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import itertools
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from client.tasks.tables.columns import LARGEST
from client.tasks.tables.rows import dotted, separator_of
from common.errors import ConfigError, DataError

Array = npt.NDArray[Any]

SUFFIXES = (".npz", ".csv", ".csv.gz", ".parquet")
FACTS = ("rate", "rpm")

#: What is said of a value that is missing.
_MISSING = frozenset({"", "na", "nan", "null", "none", "-"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """One file, read.

    Attributes
    ----------
    columns : by name, each of shape (rows,); strings where a value is not a number.
    windows : shape (windows, channels, samples) where the file holds windows, else None; then
        ``columns`` has one entry a window, and ``channels`` names the second axis, if the file did.
    facts : ``rate`` and ``rpm``, where the file says them.
    """

    columns: Mapping[str, Array]
    windows: Array | None = None
    channels: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


def is_series(name: str) -> bool:
    """Whether a file's name is that of a series."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read(path: Path) -> Columns:
    """Read a file.

    Raises
    ------
    DataError
        If it is none of the three kinds, is damaged, or its columns are of different lengths.
    ConfigError
        If it is a parquet file and pyarrow is not installed.
    """
    name = path.name.lower()
    try:
        if name.endswith(".npz"):
            return _npz(path)
        columns = _parquet(path) if name.endswith(".parquet") else _csv(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    facts, rest = _take_facts(columns, path)
    return Columns(columns=rest, facts=facts)


def numbers(path: Path, name: str, values: Array) -> npt.NDArray[np.float64]:
    """Return a column as numbers, NaN where a value is missing.

    Raises
    ------
    DataError
        If a value is not a number, or too large; names the line.
    """
    if values.dtype.kind in "fiub":
        return fitting(path, name, values.astype(np.float64))
    found = np.empty(len(values))
    for row, text in enumerate(values.tolist()):
        try:
            found[row] = _number(str(text))
        except ValueError as error:
            raise DataError(
                f"column {name} of {path} must hold numbers, got {str(text)[:40]!r} in row "
                f"{row + 1}; mend the file, or name other channels"
            ) from error
    return fitting(path, name, found)


def fitting(path: Path, name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return values, of rows or of windows, that the network's float32 holds.

    Raises
    ------
    DataError
        If one is larger; names the row.
    """
    huge = np.argwhere(np.isfinite(values) & (np.abs(values) > LARGEST))
    if len(huge):
        raise DataError(
            f"column {name} of {path} must hold values below {LARGEST:g}, got "
            f"{values[tuple(huge[0])]:g} in row {huge[0][0] + 1}; mend it, or use other units"
        )
    return values


def is_missing(values: Array) -> npt.NDArray[np.bool_]:
    """Return where a column of names says none: nothing, or no number among numbers."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.isin(values, ("", "nan")) if values.dtype.kind == "U" else np.zeros(len(values), bool)


def _number(text: str) -> float:
    text = text.strip()
    return math.nan if text.lower() in _MISSING else float(text)


def _npz(path: Path) -> Columns:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        raise DataError(
            f"{path} must be an npz file of plain arrays ({error}); write it anew with np.savez"
        ) from error
    if "X" in arrays:
        return _windows(path, arrays)
    facts, columns = _take_facts(arrays, path)
    columns = {name: column for name, column in columns.items() if column.ndim == 1}
    _check_lengths(path, columns)
    return Columns(columns=columns, facts=facts)


def _windows(path: Path, arrays: dict[str, Array]) -> Columns:
    facts, arrays = _take_facts(arrays, path)
    windows = arrays.pop("X")
    if windows.ndim == 2:
        windows = windows[:, None, :]
    if windows.ndim != 3 or windows.dtype.kind not in "fiu":
        raise DataError(
            f"X of {path} must be numbers of shape (windows, samples) or (windows, channels, "
            f"samples), got {windows.dtype} of shape {windows.shape}"
        )
    named = tuple(str(name) for name in arrays.pop("channels", np.array([])).tolist())
    if named and len(named) != windows.shape[1]:
        raise DataError(
            f"channels of {path} must name the {windows.shape[1]} channels of X, got {list(named)}"
        )
    columns = {n: a for n, a in arrays.items() if a.ndim == 1 and len(a) == len(windows)}
    if "classes" in arrays and "y" in columns:
        names, labels = arrays["classes"], columns.pop("y")
        if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(len(names))).all():
            raise DataError(f"y of {path} must hold places in classes, 0 to {len(names) - 1}")
        columns["label"] = names.astype(str)[labels]
    return Columns(columns=columns, windows=windows, channels=named, facts=facts)


def _csv(path: Path) -> dict[str, Array]:
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
            return _rows(path, text)
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} must be a csv file in UTF-8 ({error})") from error


def _rows(path: Path, text: IO[str]) -> dict[str, Array]:
    first = text.readline()
    separator = separator_of(first)
    rows = csv.reader(itertools.chain([first], text), delimiter=separator)
    header = [name.strip() for name in next(rows, [])]
    if len(set(header)) < len(header) or not all(header):
        raise DataError(f"{path} must have a name for each column in its first row, got {header}")
    values = []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            if not row:
                continue
            raise DataError(
                f"line {number} of {path} must have {len(header)} values, got {len(row)}"
            )
        values.append(row)
    if not values:
        raise DataError(f"{path} must have rows below its header, got none")
    return {
        name: _parsed(column)
        for name, column in zip(header, zip(*dotted(values, separator), strict=True), strict=True)
    }


def _parsed(column: Sequence[str]) -> Array:
    """Return numbers if all of them are, else strings."""
    try:
        return np.array(column, dtype=np.float64)
    except ValueError:
        pass
    try:
        return np.array([_number(text) for text in column])
    except ValueError:
        return np.array([text.strip() for text in column])


def _parquet(path: Path) -> dict[str, Array]:
    # An extra: csv and npz files need no Arrow.
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(
            f"{path} needs pyarrow to be read; in the checkout, pip install '.[tables]', or save "
            "it as csv or npz"
        ) from error
    try:
        table = parquet.read_table(path)
    except (ValueError, OSError) as error:  # Arrow's own errors are subclasses
        raise DataError(f"{path} must be a parquet file ({str(error).splitlines()[0]})") from error
    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_numpy()
        if values.dtype.kind not in "fiub":
            values = np.array(["" if value is None else str(value) for value in values.tolist()])
        found[name] = values
    return found


def _take_facts(
    columns: Mapping[str, Array], path: Path
) -> tuple[dict[str, float], dict[str, Array]]:
    """Separate single numbers, or columns of one number, that are facts."""
    rest, facts = dict(columns), {}
    for name in FACTS:
        if name in rest and rest[name].dtype.kind in "fiu":
            values = np.unique(rest[name])
            if values.size == 1:
                del rest[name]
                facts[name] = float(values[0])
                if not facts[name] > 0:
                    raise DataError(f"{name} of {path} must be above 0, got {facts[name]:g}")
    return facts, rest


def _check_lengths(path: Path, columns: Mapping[str, Array]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns of {path} must be of one length, got {lengths}")
