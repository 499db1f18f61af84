"""What a plant's rows support: a model says nothing worth trusting where there is no data.

Two rules. Each setting stays between the least and the largest value of the labelled rows. And
the setting as a whole lies no further from its nearest rows than rows do from each other: the
distance to the fifth nearest is at most that of four of five labelled rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.tasks.data import PlantData
from common.backbones.table import Columns
from common.config import FederationConfig

Array = npt.NDArray[np.float32]
Value = float | str

NEIGHBOURS = 5
FURTHEST = 0.8
#: A number that takes so few values is set to one of them: ages at which parts are tested.
FEW_VALUES = 12


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One column of the plant's inputs.

    Attributes
    ----------
    place : among the inputs.
    levels : of a category; empty for a number.
    low, high : of the labelled rows.
    values : all values of the labelled rows, where they are few; otherwise empty.
    usual : median, or the commonest name.
    """

    name: str
    place: int
    levels: tuple[str, ...]
    low: float
    high: float
    values: tuple[float, ...]
    usual: Value


@dataclass(frozen=True, kw_only=True)
class Support:
    """The labelled rows, as distances see them.

    Attributes
    ----------
    settings : of all columns, in order.
    rows : labelled rows, shape (n, columns), NaN where missing.
    spread : deviation of each number where it is there; 0 for a category.
    reach : largest distance that is supported.
    middle : median distance of the labelled rows from each other.
    """

    settings: tuple[Setting, ...]
    rows: Array
    spread: Array
    reach: float
    middle: float = 1.0

    @classmethod
    def of(cls, data: PlantData, config: FederationConfig) -> Support:
        labelled = np.concatenate([data.train.cpu().numpy(), data.validation.cpu().numpy()])
        rows = data.inputs.cpu().numpy()[labelled]
        levels = _levels(data.columns, config)
        settings = tuple(
            _setting(name, place, rows[:, place], known)
            for place, (name, known) in enumerate(levels.items())
        )
        spread = np.array(
            [0.0 if one.levels else _deviation(rows[:, one.place]) for one in settings]
        )
        found = cls(settings=settings, rows=rows, spread=spread.astype(np.float32), reach=0.0)
        own = np.array([found._kth(row, skip=1) for row in rows])
        return cls(
            settings=settings,
            rows=rows,
            spread=found.spread,
            reach=float(np.quantile(own, FURTHEST)),
            middle=max(float(np.median(own)), 1e-12),
        )

    def distance(self, row: Array) -> float:
        """Return how far a setting lies from its fifth nearest row, in deviations a column."""
        return self._kth(row, skip=0)

    def nearest(self, row: Array) -> int:
        """Return the labelled row nearest to a setting."""
        return int(self._distances(row).argmin())

    def _kth(self, row: Array, *, skip: int) -> float:
        distances = np.sort(self._distances(row))
        return float(distances[min(NEIGHBOURS - 1 + skip, len(distances) - 1)])

    def _distances(self, row: Array) -> npt.NDArray[np.float64]:
        """Root mean square over columns; another name, or a missing value, counts as 1."""
        category = self.spread == 0
        scaled = (self.rows - row) / np.where(category, 1.0, self.spread)
        differ = np.where(category, (self.rows != row).astype(np.float64), np.square(scaled))
        either = np.isnan(self.rows) | np.isnan(row)
        both = np.isnan(self.rows) & np.isnan(row)
        differ = np.where(either, np.where(both, 0.0, 1.0), differ)
        return np.asarray(np.sqrt(differ.mean(axis=1)))

    def encode(self, values: Mapping[str, Value]) -> Array:
        """Return a row of inputs from values by column."""
        row = np.full(len(self.settings), np.nan, dtype=np.float32)
        for one in self.settings:
            value = values[one.name]
            row[one.place] = one.levels.index(str(value)) if one.levels else float(value)
        return row

    def decode(self, row: Array) -> dict[str, Value]:
        """Return values by column; what is missing is set to its usual value."""
        found: dict[str, Value] = {}
        for one in self.settings:
            value = row[one.place]
            if np.isnan(value):
                found[one.name] = one.usual
            else:
                found[one.name] = one.levels[int(value)] if one.levels else float(value)
        return found


def _levels(columns: Columns, config: FederationConfig) -> dict[str, tuple[str, ...]]:
    """Return the columns in the order of the inputs, each with its names."""
    shared = {
        name: tuple(str(one) for one in told) if isinstance(told[0], str) else ()
        for name, told in config.table.shared.items()
    }
    numbers: dict[str, tuple[str, ...]] = {one.name: () for one in columns.numbers}
    return shared | numbers | {one.name: one.levels for one in columns.categories}


def _deviation(column: Array) -> float:
    """Return the deviation of the values that are there; 0 if there are none."""
    there = column[~np.isnan(column)]
    return float(there.astype(np.float64).std()) if len(there) else 0.0


def _setting(name: str, place: int, column: Array, levels: tuple[str, ...]) -> Setting:
    there = column[~np.isnan(column)]
    distinct = np.unique(there)
    usual: Value
    if levels:
        counts = np.bincount(there.astype(int), minlength=len(levels))
        usual = levels[int(counts.argmax())]
    else:
        usual = float(np.median(there)) if len(there) else 0.0
    few = not levels and 0 < len(distinct) <= FEW_VALUES
    if few and usual not in distinct:
        usual = float(distinct[np.abs(distinct - float(usual)).argmin()])
    return Setting(
        name=name,
        place=place,
        levels=levels,
        low=float(distinct[0]) if len(distinct) else 0.0,
        high=float(distinct[-1]) if len(distinct) else 0.0,
        values=tuple(float(one) for one in distinct) if few else (),
        usual=usual,
    )
