"""The task of tables: which rows are learned from, how they are split, what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.tasks.classes import Classes
from client.tasks.data import PlantData, Progress, Skipped, Unlabelled
from client.tasks.meaning import Meaning
from client.tasks.numbers import Numbers, fit_scale
from client.tasks.split import Split, groups_of, keys, split
from client.tasks.tables.columns import MOST_LEVELS, are_names, far_apart, numbers_of, tells_apart
from client.tasks.tables.inputs import read_alike, read_inputs
from client.tasks.tables.pool import pool
from client.tasks.tables.rows import Rows, is_table, read_rows
from client.tasks.tables.selection import Selection
from common.config import FederationConfig, PlantConfig
from common.errors import DataError

Array = npt.NDArray[Any]

#: Strata of a target of numbers, by size.
STRATA = ("lowest fifth", "second fifth", "middle fifth", "fourth fifth", "highest fifth")
#: Fewer rows cannot be split so that anything is learned and tested.
FEWEST = 15


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """How both kinds of tables are read and prepared."""

    selection: Selection

    def read(self, place: Path, *, like: Meaning, progress: Progress | None = None) -> Unlabelled:
        rows = read_rows(place, progress=progress)
        inputs, notes = read_alike(place, rows, like.columns, self.selection)
        return Unlabelled(
            inputs=torch.from_numpy(inputs),
            names=tuple(rows.names),
            skipped=tuple(rows.skipped),
            notes=tuple(notes),
        )

    def training_transform(self) -> Callable[[Tensor, torch.Generator], Tensor]:
        return lambda batch, generator: batch

    def evaluation_transform(self) -> Callable[[Tensor], Tensor]:
        return lambda batch: batch

    def pool(self, plants: Sequence[PlantData]) -> PlantData:
        """Put rows together over the union of the columns; what a plant lacks is missing."""
        shared = len(self.selection.shared)
        return pool(plants, bins=self.selection.bins, shared=shared)


@dataclass(frozen=True, kw_only=True)
class NumberTable(_Tables, Numbers):
    """A table whose target is a number (`client.tasks.Task`)."""

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        rows = read_rows(folder, progress=progress)
        target = _target(rows, self.selection, folder)
        found = numbers_of(
            target,
            rows.cells[target],
            rows.names,
            where=str(folder),
            otherwise='set table.learn = "classes"',
        )
        if found is None:
            raise DataError(
                f"target {target!r} of {folder} must hold numbers, got "
                f"{next(c for c in rows.cells[target] if c)!r}; name another column, or set "
                'table.learn = "classes"'
            )
        values = found[0]
        used = np.flatnonzero(~np.isnan(values))
        _check_enough(used, target, folder)
        learned = values[used]
        if (learned == learned[0]).all():
            raise DataError(
                f"target {target!r} of {folder} must differ between rows, it is always "
                f"{learned[0]:g}; name another column"
            )
        strata, names = strata_of(learned)
        data = _assemble(folder, rows, used, strata, names, self.selection)
        kept = torch.from_numpy(learned)[data.extra][:, None]
        centre, spread = fit_scale(kept[data.train])
        return _finished(
            data, targets=kept, numbers=(target,), classes=(), centre=centre, spread=spread
        )

    def schema(self, data: PlantData) -> dict[str, Any]:
        return {"task": "tabular", "learns": "numbers", "outputs": data.outputs}


@dataclass(frozen=True, kw_only=True)
class ClassTable(_Tables, Classes):
    """A table whose target is the name of a class (`client.tasks.Task`)."""

    def load(
        self, folder: Path, *, cache: Path | None = None, progress: Progress | None = None
    ) -> PlantData:
        rows = read_rows(folder, progress=progress)
        target = _target(rows, self.selection, folder)
        cells = rows.cells[target]
        present = sorted({cell for cell in cells if cell})
        classes = self.selection.classes or tuple(present)
        if missing := sorted(set(classes) - set(present)):
            raise DataError(
                f"target {target!r} of {folder} must hold the classes asked for, {missing} "
                f"missing; found {present[:20]}"
            )
        if not 2 <= len(classes) <= MOST_LEVELS:
            raise DataError(
                f"target {target!r} of {folder} must name 2 to {MOST_LEVELS} classes, got "
                f'{len(classes)}; name another column, or set table.learn = "numbers"'
            )
        if self.selection.good and self.selection.good not in classes:
            raise DataError(
                f"good must be one of the classes {list(classes)} of {folder}, got "
                f"{self.selection.good!r}"
            )
        place = {name: label for label, name in enumerate(classes)}
        used = np.flatnonzero([cell in place for cell in cells])
        _check_enough(used, target, folder)
        labels = np.array([place[cells[row]] for row in used])
        data = _assemble(folder, rows, used, labels, classes, self.selection)
        kept = torch.from_numpy(labels)[data.extra]
        return _finished(data, targets=kept, numbers=(), classes=tuple(classes))

    def schema(self, data: PlantData) -> dict[str, Any]:
        return {"task": "tabular", "learns": "classes", "outputs": data.outputs}


class TableKind:
    """How the task is made (`client.tasks.Kind`)."""

    layout: ClassVar[str] = "<plant>/ folders with csv or parquet files"

    def of(self, config: FederationConfig, settings: PlantConfig) -> NumberTable | ClassTable:
        selection = Selection.of(config, settings)
        if config.table.learn == "numbers":
            return NumberTable(selection=selection)
        return ClassTable(
            selection=selection,
            label_smoothing=config.training.label_smoothing,
            false_reject_budget=config.false_reject_budget,
        )

    def is_plant(self, folder: Path) -> bool:
        return folder.is_dir() and any(is_table(path) for path in folder.iterdir())


def strata_of(values: Array) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Cut numbers into strata by size; equal numbers are in one, so there may be fewer than five.

    Returns
    -------
    int64, shape (n,), and the names of the strata.
    """
    for count in range(len(STRATA), 0, -1):
        edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]))
        found = np.searchsorted(edges, values, side="right")
        sizes = np.bincount(found, minlength=len(edges) + 1)
        if count == 1 or sizes.min() >= 3:
            break
    kept = np.unique(found)
    return np.searchsorted(kept, found), STRATA[: len(kept)] if len(kept) > 1 else ("all",)


def _target(rows: Rows, selection: Selection, folder: Path) -> str:
    target = selection.columns.target
    known = list(rows.cells)
    if not target:
        raise DataError(
            f"table.target must name the column to learn, got none; {folder} has {known}"
        )
    wanted = {"target": target, "group": selection.columns.group}
    for key, name in wanted.items():
        if name and name not in rows.cells:
            raise DataError(
                f"table.{key} must be a column of {folder}, got {name!r}; it has {known}"
            )
    for name, _ in selection.shared:
        if name not in rows.cells:
            raise DataError(
                f"table in {folder} must have the columns that all plants share, got no {name!r}; "
                f"it has {known}; rename or add it"
            )
    for name in (*selection.columns.drop, *selection.columns.categories):
        if name not in rows.cells:
            raise DataError(
                f"columns named in plant.toml must be in {folder}, got {name!r}; it has {known}"
            )
    return target


def _check_enough(used: Array, target: str, folder: Path) -> None:
    if len(used) < FEWEST:
        raise DataError(
            f"table in {folder} must have at least {FEWEST} rows with a {target}, got {len(used)}; "
            "add rows"
        )


def _assemble(
    folder: Path,
    rows: Rows,
    used: npt.NDArray[np.intp],
    strata: Array,
    names: Sequence[str],
    selection: Selection,
) -> PlantData:
    """Split the usable rows and read their columns; ``extra`` says which of them are in use."""
    chosen = selection.columns
    contents = _contents(rows, used, selection)
    if (differ := len(set(contents))) < 3:
        raise DataError(
            f"table in {folder} must have at least 3 rows that differ beside the target (training, "
            f"validation, test; copies are one), got {differ}; add columns, or name in table.group "
            "what belongs together"
        )
    told = [rows.cells[chosen.group][row] or None for row in used] if chosen.group else None
    ranks = keys(told or [None] * len(used), contents, seed=selection.quota.seed)
    parts = split(strata.tolist(), ranks, classes=names, quota=selection.quota, where=str(folder))
    kept = np.array(sorted({*parts.train, *parts.validation, *parts.test}), dtype=np.int64)
    position = np.full(len(used), -1)
    position[kept] = np.arange(len(kept))
    train = position[parts.train]
    inputs, found, notes = read_inputs(folder, rows, used[kept], train, selection)
    skipped = [*rows.skipped]
    if lost := len(rows.names) - len(used):
        skipped.append(Skipped(file=str(folder.name), why=f"{lost} rows without a usable target"))
    typical = {
        one.name: float(np.nanmedian(inputs[train, place]))
        for place, one in enumerate(found.numbers, start=len(selection.shared))
    }
    groups = groups_of([ranks[row] for row in kept])
    return PlantData(
        inputs=torch.from_numpy(inputs),
        targets=torch.empty(0),
        names=tuple(rows.names[row] for row in used[kept]),
        train=torch.from_numpy(train),
        validation=torch.from_numpy(position[parts.validation]),
        test=torch.from_numpy(position[parts.test]),
        folds=_folds(parts, position),
        groups=None if groups is None else torch.from_numpy(groups),
        good=selection.good,
        columns=found,
        fingerprint=hashlib.sha256(repr(found).encode() + inputs.tobytes()).hexdigest(),
        typical=typical,
        skipped=tuple(skipped),
        notes=(*notes, *_units(typical, selection), *_few(parts, names)),
        extra=torch.from_numpy(kept),
    )


def _finished(data: PlantData, **learned: Any) -> PlantData:
    return replace(data, extra=None, **learned)


def _contents(rows: Rows, used: Array, selection: Selection) -> list[str]:
    """Return what each row is learned from: rows alike in it stay on one side of the split.

    An order number makes no copy another row, and neither does a target measured again. Where the
    plant says what belongs together, it is alike within a group: the same settings on two days
    are no copies then.
    """
    chosen, shared = selection.columns, dict(selection.shared)
    columns = [rows.cells[chosen.group]] if chosen.group else []
    for name, cells in rows.cells.items():
        if name in (chosen.target, chosen.group, *chosen.drop):
            continue
        there = [cells[row] for row in used if cells[row]]
        names = name in chosen.categories or are_names(there)
        if name in shared or not (names and tells_apart(there)):
            columns.append(cells)
    return ["\x1f".join(cells[row] for cells in columns) for row in used]


def _folds(parts: Split, position: Array) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(
        (torch.from_numpy(position[train]), torch.from_numpy(position[held]))
        for train, held in parts.folds
    )


def _units(typical: dict[str, float], selection: Selection) -> list[str]:
    return [
        f"column {name}: median {typical[name]:g} where the federation expects about {wanted:g}: "
        "other units?"
        for name, wanted in selection.typical
        if name in typical and far_apart(typical[name], wanted)
    ]


def _few(parts: Split, names: Sequence[str]) -> list[str]:
    return [
        f"{name} leaves {left} test row{'s' if left > 1 else ''}"
        for name, left in zip(names, parts.testable, strict=True)
        if left < 5
    ]
