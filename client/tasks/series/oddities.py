"""What is odd about channels: they do not move, or are of a size that tells of other units."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tasks.series.normalise import Normaliser, rounding
from client.tasks.series.selection import Selection
from client.tasks.series.signal import Piece
from client.tasks.tables.columns import far_apart
from common.backbones.table import FAR
from common.errors import DataError

Array = npt.NDArray[Any]


def other_units(typical: Mapping[str, float], selection: Selection) -> list[str]:
    """Say which channels are of another size than the federation expects."""
    return [
        f"channel {name}: its size is {typical[name]:g} where the federation expects about "
        f"{wanted:g}: other units?"
        for name, wanted in selection.typical
        if name in typical and far_apart(typical[name], wanted)
    ]


def constant(normaliser: Normaliser | None, selection: Selection, folder: Path) -> list[str]:
    """Say which channels never move; DataError if none does."""
    if normaliser is None:
        return []
    names = [
        name for name, still in zip(selection.channels, normaliser.constant, strict=True) if still
    ]
    if len(names) == len(selection.channels):
        raise DataError(
            f"a channel of {folder} must vary in the training data, got constant {names}; look "
            "at the sensor, or name other channels with series.channels"
        )
    return [f"channel {name} is constant here: the network sees 0" for name in names]


def dead(pieces: Sequence[Piece], selection: Selection, known: Normaliser | None) -> list[str]:
    """Name classes in all of whose recordings a channel does not move, though it does elsewhere."""
    count = len(selection.channels)
    files: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        files[piece.label].add(piece.file)
    if len(files) < 2:
        return []
    live = np.ones(count, dtype=bool) if known is None else ~known.constant
    still: dict[int, list[str]] = defaultdict(list)
    for label in sorted(files):
        own = [piece for piece in pieces if piece.label == label]
        for place, found in _constant_in(own, live=live).items():
            if len(found) == len(files[label]):
                still[place].append(label)
    return [
        f"channel {selection.channels[place]} is constant in every recording of class "
        f"{', '.join(labels)}: does its sensor work, or will it tell the class by that alone?"
        for place, labels in still.items()
    ]


def unlike(pieces: Sequence[Piece], selection: Selection, known: Normaliser | None) -> list[str]:
    """Say which channels do not move, or are of another size than those that the model knows.

    Another size: half of the samples lie further from the mean than the deviation tells of, or
    units differ. Without a normaliser nobody knows the size.
    """
    if known is None:
        return _still(pieces, selection, live=np.ones(len(selection.channels), dtype=bool))
    live = ~known.constant
    values = np.concatenate([piece.values for piece in pieces])
    settings = np.concatenate([piece.settings for piece in pieces])
    condition = known.condition(settings)
    mean, spread = known.mean[condition], known.spread[condition]
    spread = np.where(np.isinf(spread), 0.0, spread)
    centre, deviation = mean.mean(axis=0), np.sqrt((spread**2).mean(axis=0) + mean.var(axis=0))
    away = np.median(np.abs(known(values, settings)), axis=0)
    notes = _still(pieces, selection, live=live)
    for place in np.flatnonzero(live):
        now = float(values[:, place].mean()), float(values[:, place].std())
        then = float(centre[place]), float(deviation[place])
        if away[place] > FAR or far_apart(math.hypot(*now), math.hypot(*then)):
            notes.append(
                f"channel {selection.channels[place]}: mean {now[0]:.3g}, deviation {now[1]:.3g} "
                f"where the model was made from {then[0]:.3g} and {then[1]:.3g}: other units?"
            )
    return notes


def _still(pieces: Sequence[Piece], selection: Selection, *, live: Array) -> list[str]:
    """Name the files in which a channel does not move, of those channels that are to."""
    return [
        f"channel {selection.channels[place]} is constant in {', '.join(found[:3])}"
        + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        + ": does its sensor work?"
        for place, found in _constant_in(pieces, live=live).items()
    ]


def _constant_in(pieces: Sequence[Piece], *, live: Array) -> dict[int, list[str]]:
    """Return the files in which a channel does not move, by its place, of those that are to."""
    files: dict[str, list[Array]] = defaultdict(list)
    for piece in pieces:
        files[piece.file].append(piece.values)
    still: dict[int, list[str]] = defaultdict(list)
    for file, parts in files.items():
        values = np.concatenate(parts)
        for place in np.flatnonzero(live & (values.std(axis=0) <= rounding(values))):
            still[int(place)].append(file)
    return still
