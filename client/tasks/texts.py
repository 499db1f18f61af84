"""Texts with labels from csv files: a plant's work orders as its maintenance system writes them.

A plant's folder holds one or more ``*.csv`` or ``*.csv.gz`` files in UTF-8 with a header, of which
two columns are read. Commas, semicolons and tabs are all taken for separators: the one that makes
both columns appear. A row without a text or a label is left out and named with its line; nothing
is guessed.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.tasks.data import Skipped
from client.tasks.tokens import words
from common.errors import DataError

SUFFIXES = (".csv", ".csv.gz")
SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text with its label.

    Attributes
    ----------
    name : file, and number of the line on which the row ends, for example ``orders.csv:17``.
    """

    name: str
    text: str
    label: str


def text_files(folder: Path) -> list[Path]:
    """Return a plant's files, sorted by name; hidden ones are passed over. A file is its own.

    Raises
    ------
    DataError
        If the folder is missing or cannot be read.
    """
    if folder.is_file():
        return [folder]
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
        )
    except FileNotFoundError as error:
        raise DataError(f"data folder must exist, got {folder}; check the path") from error
    except OSError as error:
        raise DataError(f"data folder {folder} cannot be read: {error.strerror}") from error


def read_rows(folder: Path, *, text: str, label: str) -> tuple[list[Row], list[Skipped]]:
    """Read all rows of a plant.

    Parameters
    ----------
    text, label : names of the two columns; label "" if there is none.

    Raises
    ------
    DataError
        If there is no file, or one of them is no csv in UTF-8, lacks a column or has no rows; or
        if no row has both a text and a label.
    """
    files = text_files(folder)
    if not files:
        raise DataError(f"data folder {folder} must hold a .csv or .csv.gz file, got none; add it")
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for path in files:
        for row in _rows(path, text=text, label=label):
            if isinstance(row, Skipped):
                skipped.append(row)
            elif why := _unfit(row, labelled=bool(label)):
                skipped.append(Skipped(file=row.name, why=why))
            else:
                rows.append(row)
    if not rows:
        first = f"; the first is {skipped[0].file}: {skipped[0].why}" if skipped else ""
        what, keys = ("a text", "text.text")
        if label:
            what, keys = "a text and a label", "text.text and text.label"
        raise DataError(
            f"{folder} must hold rows with {what}, got none{first}; add some, or name other "
            f"columns with {keys}"
        )
    return rows, skipped


def _unfit(row: Row, *, labelled: bool) -> str:
    if not row.text.strip():
        return "empty text"
    if not words(row.text):
        return "text without a word"
    return "no label" if labelled and not row.label else ""


def _rows(path: Path, *, text: str, label: str) -> Iterator[Row | Skipped]:
    content = _decoded(path)
    columns, separator = _header(path, content, wanted=(text, label) if label else (text,))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    at_text, at_label = columns.index(text), columns.index(label) if label else None
    try:
        next(reader)
        for fields in reader:
            name = f"{path.name}:{reader.line_num}"
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(columns):
                yield Skipped(file=name, why=f"{len(fields)} cells for {len(columns)} columns")
                continue
            yield Row(
                name=name,
                text=fields[at_text],
                label="" if at_label is None else fields[at_label].strip(),
            )
    except csv.Error as error:
        raise DataError(
            f"{path} must be csv, got {error} in line {reader.line_num}; mend the quotes there"
        ) from error


def _decoded(path: Path) -> str:
    """Return a file's text, without a byte-order mark."""
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {reason}; mend or remove it") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} must be text in UTF-8, got byte 0x{data[error.start]:02x} in line {line}; "
            "save it again as UTF-8"
        ) from error


def _header(path: Path, content: str, *, wanted: Sequence[str]) -> tuple[list[str], str]:
    """Return the columns, and the separator that makes the wanted ones appear."""
    first = content.split("\n", 1)[0].rstrip("\r")
    if not first.strip():
        raise DataError(f"{path} must have a header and rows, got an empty first line; add both")
    found: list[str] = []
    for separator in SEPARATORS:
        columns = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
        if all(name in columns for name in wanted):
            if twice := [name for name in wanted if columns.count(name) > 1]:
                raise DataError(
                    f"columns of {path} must have names of their own, got {twice[0]!r} twice; "
                    "rename one"
                )
            return columns, separator
        found = max(found, columns, key=len)
    missing = [name for name in wanted if name not in found]
    keys = ("text.text", "text.label")[: len(wanted)]
    raise DataError(
        f"{path} must have the columns {' and '.join(wanted)}, got {', '.join(found)}; "
        f"{' and '.join(missing)} missing: name other columns with {' and '.join(keys)}"
    )
