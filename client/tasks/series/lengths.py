"""Which pieces are as long as a window, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.tasks.data import Skipped
from client.tasks.series.selection import Selection
from client.tasks.series.signal import Piece
from common.errors import DataError

ONE_SAMPLE = "one sample is no series"


def long_enough(
    pieces: Sequence[Piece], selection: Selection
) -> tuple[list[Piece], list[tuple[str, Skipped]]]:
    """Leave out what is shorter than a window, or repeat its first sample in front.

    Returns
    -------
    pieces, and what was left out with its label.
    """
    need = selection.window + selection.horizon
    kept, skipped = [], []
    for piece in pieces:
        if len(piece) >= need:
            kept.append(piece)
        elif selection.short == "repeat":
            kept.append(_lengthened(piece, need))
        else:
            why = f"{len(piece)} samples are shorter than a window of {need}"
            skipped.append((piece.label, skip(piece, why)))
    return kept, skipped


def skip(piece: Piece, why: str) -> Skipped:
    """Name a piece that is not used."""
    what = piece.file if piece.group == piece.file else f"{piece.file}, {piece.group}"
    return Skipped(file=what, why=why)


def _lengthened(piece: Piece, length: int) -> Piece:
    before = length - len(piece)
    index = np.concatenate([np.zeros(before, dtype=np.intp), np.arange(len(piece))])
    return replace(
        piece,
        values=piece.values[index],
        settings=piece.settings[index],
        target=None if piece.target is None else piece.target[index],
        made=None if piece.made is None else piece.made[index],
        start=piece.start - before,
    )


def empty(piece: Piece, selection: Selection) -> str:
    """Say why a piece has no sample in which nothing is missing."""
    speed = (selection.speed,) if selection.speed else ()
    names = [*selection.channels, *selection.settings, *speed]
    columns = [piece.values, piece.settings]
    if piece.target is not None:
        names.append(f"{selection.own(selection.target)}, the target")
        columns.append(piece.target[:, None])
    there = np.isfinite(np.column_stack(columns)).any(axis=0)
    empty = [selection.own(name) for name, some in zip(names, there, strict=False) if not some]
    return f"no values in {', '.join(empty)}" if empty else "no sample has a value in every column"


def too_short(
    folder: Path,
    pieces: Sequence[Piece],
    selection: Selection,
    *,
    lost: int,
    unused: Sequence[tuple[str, Skipped]],
) -> DataError:
    """Say why no piece is as long as a window."""
    if not pieces:
        first = f"{unused[0][1].file}: {unused[0][1].why}" if unused else "no rows"
        torn = selection.unit and (not unused or unused[0][1].why == ONE_SAMPLE)
        return DataError(
            f"{folder} must hold a recording that can be used, got none ({first}); mend or replace "
            "the files, or name other columns in federation.toml"
            + (f"; rows of one {selection.unit} must name it, one after the other" if torn else "")
        )
    longest = max(len(piece) for piece in pieces)
    what = "piece without a gap" if lost else "recording"
    return DataError(
        f"series.window must be at most the longest {what} of {folder}, {longest} samples"
        + (f" with {selection.horizon} to forecast" if selection.horizon else "")
        + f", got {selection.window}; shorten series.window, "
        + ("or fill longer gaps with series.gap" if lost else "or record longer")
    )
