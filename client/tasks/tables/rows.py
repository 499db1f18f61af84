"""A plant's tables on disk: csv, csv.gz and parquet files, put together row by row.

Every cell is kept as text, so that the same column reads the same from every kind of file; what
is a number is decided by `client.tasks.tables.columns`. Csv may be separated by comma, semicolon
or tab; with semicolons a decimal comma is understood, and in a file that has one a dot before
every three digits as parting thousands. Parquet needs the extra ``tables`` (pyarrow).
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.tasks.data import Progress, Skipped
from common.errors import DataError

SUFFIXES = (".csv", ".csv.gz", ".parquet")

#: What stands for "not known", in any case.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})


_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a plant's files, in order of file and line.

    Attributes
    ----------
    cells : of each column all rows' texts, "" where one is missing.
    names : file and line of each row: ``2024.csv:17``.
    skipped : rows that do not fit the header.
    """

    cells: dict[str, list[str]]
    names: list[str]
    skipped: list[Skipped]


def is_table(path: Path) -> bool:
    """Whether a file is one that is read here."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES) and path.name[0] != "."


def read_rows(folder: Path, *, progress: Progress | None = None) -> Rows:
    """Read all tables of a folder, or a single one.

    Raises
    ------
    DataError
        If there is none, one cannot be read, or they have different columns.
    """
    try:
        inside = [folder] if folder.is_file() else folder.iterdir()
        files = sorted(path for path in inside if is_table(path))
    except FileNotFoundError as error:
        raise DataError(f"data folder must exist, got {folder}; check the path") from error
    except OSError as error:
        raise DataError(f"data folder {folder} cannot be read: {error.strerror}") from error
    if not files:
        raise DataError(
            f"data folder {folder} must hold tables ({' '.join(SUFFIXES)}), got none; put them "
            "there, or point `data` at their folder"
        )
    found = Rows(cells={}, names=[], skipped=[])
    for done, path in enumerate(files, start=1):
        header, rows, numbers = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        _check_header(path, header, before=list(found.cells))
        for name in header:
            found.cells.setdefault(name, [])
        for row, number in zip(rows, numbers, strict=True):
            if len(row) != len(header):
                why = f"{len(row)} cells for {len(header)} columns"
                found.skipped.append(Skipped(file=f"{path.name}:{number}", why=why))
                continue
            for name, cell in zip(header, row, strict=True):
                found.cells[name].append("" if cell.strip().lower() in MISSING else cell.strip())
            found.names.append(f"{path.name}:{number}")
        if progress:
            progress(done, len(files))
    return found


def _check_header(path: Path, header: Sequence[str], *, before: Sequence[str]) -> None:
    if len(header) < 2:
        raise DataError(
            f"{path} must have a target and at least one other column, got {list(header)}; is it "
            "separated by comma, semicolon or tab?"
        )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        what = f"{twice[0]!r} twice" if twice else "one without a name"
        raise DataError(f"columns of {path} must have names of their own, got {what}; rename it")
    if before and set(header) != set(before):
        differ = sorted(set(header) ^ set(before))
        raise DataError(
            f"tables of a plant must have the same columns, {path} differs in {differ}; mend it, "
            "or keep it in a folder of its own"
        )


def _csv(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Return header, rows and the line that each row ends on."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {why}; replace the file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be UTF-8 text, got other bytes; save it as UTF-8") from error
    separator = separator_of(text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, numbers = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                numbers.append(reader.line_num)
    except csv.Error as error:
        line = reader.line_num
        raise DataError(f"{path} must be csv, line {line}: {error}; mend or replace it") from error
    if not rows:
        raise DataError(f"{path} must have a header and rows, got an empty file; remove it")
    return [cell.strip() for cell in rows[0]], dotted(rows[1:], separator), numbers[1:]


def separator_of(header: str) -> str:
    """Return what separates the columns of a csv file, by its first line."""
    return max(",;\t", key=header.count)


def dotted(rows: list[list[str]], separator: str) -> list[list[str]]:
    """Return rows with decimal commas, which only a semicolon leaves room for, as dots."""
    if separator == ";" and any(_COMMA.fullmatch(cell.strip()) for row in rows for cell in row):
        return [[_dotted(cell.strip()) for cell in row] for row in rows]
    return rows


def _dotted(cell: str) -> str:
    """Write a number as it is written where the dot is the decimal sign; leave other cells."""
    if _THOUSANDS.fullmatch(cell):
        cell = cell.replace(".", "")
    return cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell


def as_number(cell: str) -> float | None:
    """Return a cell as a number, None if it is none."""
    try:
        return None if "_" in cell else float(cell)  # Python's 1_000 is an identifier here
    except ValueError:
        return None


def _parquet(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  the extra `tables`
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow to be read: in the checkout, pip install '.[tables]', or save "
            "it as csv"
        ) from error
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} must be a parquet file: {error}; replace it") from error
    columns = [
        ["" if value is None else str(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return [str(name) for name in table.column_names], rows, list(range(1, len(rows) + 1))
