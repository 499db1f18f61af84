"""Sampling rate and shaft speed of a recording: what the file says, plant.toml says, or `time`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.tasks.series.files import Columns, numbers
from client.tasks.series.selection import Selection
from common.errors import DataError

#: Rates that differ by less are one: clocks are not exact, and `time` is rounded.
TOLERANCE = 0.01


def differ(one: float, other: float) -> bool:
    """Whether two rates are not the same."""
    return abs(one - other) > TOLERANCE * max(one, other)


def told_rate(columns: Columns, selection: Selection) -> float:
    """Return samples a second of a file, by its `time` where nothing else says it; 0: unknown."""
    rate = columns.facts.get("rate", selection.recorded)
    time = columns.columns.get("time")
    if rate or time is None or columns.windows is not None or time.dtype.kind not in "fiu":
        return rate
    steps = np.diff(time.astype(np.float64))
    middle = float(np.median(steps)) if len(steps) else 0.0
    return 1.0 / middle if middle > 0 else 0.0


def rate_of(path: Path, columns: Columns, selection: Selection) -> float:
    """Return samples a second of a file.

    Raises
    ------
    DataError
        If it must be known and is not.
    """
    rate = told_rate(columns, selection)
    if not rate and (selection.rate or selection.per_revolution):
        if "time" in columns.columns:
            numbers(path, "time", columns.columns["time"])  # says what is no number
        raise DataError(
            f"sampling rate of {path} must be known, got no `rate` and no `time` in it; "
            "say it with series.recorded in plant.toml"
        )
    return rate


def rpm_of(path: Path, columns: Columns, selection: Selection) -> float:
    """Return revolutions a minute of the shaft.

    Raises
    ------
    DataError
        If it must be known and is not.
    """
    rpm = columns.facts.get("rpm", selection.rpm)
    if selection.per_revolution and not selection.speed and not rpm:
        raise DataError(
            f"speed of the shaft must be known for {path}, got no `rpm` in it; say it with "
            "series.rpm in plant.toml, or name a channel with series.speed in federation.toml"
        )
    return rpm


def as_recorded(folder: Path, rates: Mapping[float, str], selection: Selection) -> list[str]:
    """Return what is to be said of sampling rates where none is agreed on.

    Parameters
    ----------
    rates : samples a second, each with the first file of it; 0: unknown.

    Raises
    ------
    DataError
        If the plant's own files have several.
    """
    if selection.rate or selection.per_revolution:
        return []
    known = sorted(rate for rate in rates if rate)
    if not known:
        return []
    if differ(known[0], known[-1]):
        raise DataError(
            f"files of {folder} must be of one sampling rate while series.rate is 0, got "
            f"{known[0]:g} ({rates[known[0]]}) and {known[-1]:g} ({rates[known[-1]]}); agree on a "
            "series.rate, and faster ones are resampled"
        )
    return [
        f"recorded at {known[-1]:g} samples a second; series.rate is 0: see that other plants are "
        "alike"
    ]
