"""Signals made comparable: gaps filled or cut out, one sampling rate, or the order domain.

A *piece* is a stretch of a recording that is whole: no gap, one unit, one label.

Order domain: a shaft that turns faster moves every line of the spectrum; sampled at equal angles
instead of equal times, a fault stays at its order (Fyfe and Munck, "Analysis of computed order
tracking", Mechanical Systems and Signal Processing 11(2), 1997). The speed is one number for a
file, or a channel of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from client.tasks.series.extra import scipy
from common.errors import DataError

Array = npt.NDArray[Any]

#: A ratio of two rates is taken as one of integers up to this; 0.1 % and better.
_FINEST = 2000
#: Samples at equal angles that are made at once, and on either side those that a filter looks at.
_BLOCK, _MARGIN = 256, 16
#: A grid of angles is at most so many times finer; a shaft that hardly turns would take all memory.
_FINEST_ANGLE = 1 << 14


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A stretch of a recording without gaps.

    Attributes
    ----------
    file : relative to the plant's folder.
    group : what must not be torn between training and test: a unit, a file, a cut window's group.
    values : float64, shape (samples, channels).
    settings : operating conditions, shape (samples, conditions).
    target : shape (samples,), or None.
    made : where the target was filled in and not measured, bool, shape (samples,); None: nowhere.
    label : of a class, or "".
    test : whether the file says that it is for the test only.
    start : place of the first sample in the recording, counted in samples from 0.
    window : whether the piece is a window that somebody cut.
    """

    file: str
    group: str
    values: Array
    settings: Array
    target: Array | None = None
    made: Array | None = None
    label: str = ""
    test: bool = False
    start: int = 0
    window: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Piece:
        """Return samples from ``start`` up to ``stop``."""
        return replace(
            self,
            values=self.values[start:stop],
            settings=self.settings[start:stop],
            target=None if self.target is None else self.target[start:stop],
            made=None if self.made is None else self.made[start:stop],
            start=self.start + start,
        )


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What became of a recording's gaps.

    Attributes
    ----------
    pieces : between the gaps that are too long to fill.
    filled, lost : samples that were filled in, and that were cut out.
    """

    pieces: tuple[Piece, ...]
    filled: int
    lost: int


def mend(piece: Piece, *, longest: int) -> Mended:
    """Fill gaps of at most ``longest`` samples on a straight line, and cut at the others.

    A sample is missing where a channel, a condition or the target is not finite. A gap at either
    end is cut off: there is nothing to draw a line to.
    """
    columns = [piece.values, piece.settings]
    if piece.target is not None:
        columns.append(piece.target[:, None])
    everything = np.column_stack(columns)
    missing = ~np.isfinite(everything).all(axis=1)
    if not missing.any():
        return Mended(pieces=(piece,), filled=0, lost=0)
    whole = np.flatnonzero(~missing)
    filled, pieces, start = 0, [], 0
    mended = everything.copy()
    for begin, end in _runs(missing):
        inside = begin > 0 and end < len(missing)
        if inside and end - begin <= longest:
            for column in range(everything.shape[1]):
                known = np.isfinite(everything[whole, column])
                gap = np.arange(begin, end)
                mended[gap, column] = np.where(
                    np.isfinite(everything[gap, column]),
                    everything[gap, column],
                    np.interp(gap, whole[known], everything[whole[known], column]),
                )
            filled += end - begin
        else:
            pieces.append((start, begin))
            start = end
    pieces.append((start, len(missing)))
    channels, settings = piece.values.shape[1], piece.settings.shape[1]
    done = replace(
        piece,
        values=mended[:, :channels],
        settings=mended[:, channels : channels + settings],
        target=None if piece.target is None else mended[:, -1],
        made=None if piece.target is None else ~np.isfinite(piece.target),
    )
    return Mended(
        pieces=tuple(done.part(a, b) for a, b in pieces if b > a),
        filled=filled,
        lost=int(missing.sum()) - filled,
    )


def _runs(mask: Array) -> list[tuple[int, int]]:
    """Return (first, one past the last) of each stretch where the mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def resample(piece: Piece, *, rate: float, wanted: float, where: str) -> Piece:
    """Bring a piece to another sampling rate, with a low-pass filter against aliases.

    Parameters
    ----------
    rate, wanted : samples a second.
    where : the file, for messages.

    Raises
    ------
    DataError
        If it was recorded more slowly than wanted: what is not in it cannot be made.
    """
    ratio = Fraction(wanted / rate).limit_denominator(_FINEST)
    if ratio == 1:
        return piece
    if wanted > rate * 1.001:
        raise DataError(
            f"rate of {where} must be at least {wanted:g} samples a second as in "
            f"federation.toml, got {rate:g}; record it faster, or agree on a lower series.rate"
        )
    filtered = scipy("signal").resample_poly(
        piece.values, ratio.numerator, ratio.denominator, axis=0, padtype="line"
    )
    at = np.arange(len(filtered)) * (rate / wanted)
    return _at(piece, at, values=filtered)


def to_orders(
    piece: Piece, *, rate: float, rpm: float | Array, per_revolution: int, where: str
) -> Piece:
    """Sample a piece at equal angles of the shaft instead of equal times.

    Parameters
    ----------
    rate : samples a second.
    rpm : speed of the shaft, one number or one a sample.
    per_revolution : samples a revolution in the result.
    where : the file, for messages.

    Raises
    ------
    DataError
        If a speed is not above 0.
    """
    speed = np.broadcast_to(np.asarray(rpm, dtype=np.float64), (len(piece),))
    if not (speed > 0).all():
        raise DataError(
            f"speed of {where} must be above 0 revolutions a minute, got {speed.min():g}; "
            "leave the standstill out"
        )
    angle = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2)]) / (60.0 * rate)
    turned = angle * per_revolution
    at = np.interp(np.arange(int(turned[-1]) + 1), turned, np.arange(len(piece)))
    blocks = [_at_angles(piece.values, turned, at, first) for first in range(0, len(at), _BLOCK)]
    return _at(piece, at, values=np.concatenate(blocks))


def _at_angles(values: Array, turned: Array, at: Array, first: int) -> Array:
    """Return a block of samples at equal angles, without what so few cannot carry.

    What that is depends on the speed: so the low-pass filter runs on a finer grid of angles, of
    which every k-th is kept. The grid is twice as fine as the block was recorded where its shaft is
    slowest: on it, what straight lines between samples add is filtered as well.

    Parameters
    ----------
    turned : where each recorded sample is, counted in samples of the result.
    at : where each sample of the result is, counted in recorded samples.
    """
    begin, end = max(first - _MARGIN, 0), min(first + _BLOCK + _MARGIN, len(at))
    densest = np.diff(at[begin:end]).max(initial=1.0)
    finer = min(2 * int(np.ceil(densest)), _FINEST_ANGLE)
    grid = begin + np.arange((end - begin) * finer) / finer
    near = slice(int(at[begin]), int(at[end - 1]) + 2)
    values, turned = values[near], turned[near]
    fine = _between(values, np.interp(grid, turned, np.arange(len(values))))
    kept = scipy("signal").resample_poly(fine, 1, finer, axis=0, padtype="line")
    return np.asarray(kept[first - begin :][:_BLOCK])


def _at(piece: Piece, at: Array, *, values: Array) -> Piece:
    """Return the piece at new (fractional) places, with values that are there already."""
    return replace(
        piece,
        values=values,
        settings=_between(piece.settings, at),
        target=None if piece.target is None else _between(piece.target[:, None], at)[:, 0],
        made=None if piece.made is None else _near(piece.made, at),
    )


def _near(mask: Array, at: Array) -> npt.NDArray[np.bool_]:
    """Return where the mask is true between the neighbours of each fractional place."""
    ends = np.concatenate([at[:1], at, at[-1:]])
    first = np.floor(ends[:-2]).astype(np.intp)
    last = np.minimum(np.ceil(ends[2:]).astype(np.intp), len(mask) - 1)
    before = np.concatenate([[0], np.cumsum(mask)])
    return np.asarray(before[last + 1] > before[first])


def _between(values: Array, at: Array) -> Array:
    """Interpolate columns at fractional places."""
    places = np.arange(len(values))
    columns = [np.interp(at, places, values[:, column]) for column in range(values.shape[1])]
    return np.column_stack(columns) if columns else np.empty((len(at), 0))
