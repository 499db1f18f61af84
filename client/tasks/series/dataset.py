"""From a plant's recordings to its windows in use: cut, dealt out, normalised, in one tensor."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.tasks.data import PlantData, Progress, Unlabelled
from client.tasks.meaning import Meaning
from client.tasks.numbers import fit_scale
from client.tasks.series.folder import Recordings, load
from client.tasks.series.normalise import Normaliser
from client.tasks.series.oddities import constant, dead, other_units, unlike
from client.tasks.series.selection import Selection
from client.tasks.series.signal import Piece
from client.tasks.series.windows import Window, cut, deal
from common.errors import DataError

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Windows and who is for what."""

    windows: Sequence[Window]
    train: Array
    validation: Array
    test: Array


def load_series(
    folder: Path, *, selection: Selection, learns: str, progress: Progress | None = None
) -> PlantData:
    """Read, cut, deal out and normalise a plant's recordings.

    Parameters
    ----------
    learns : ``classes`` or ``numbers``.

    Raises
    ------
    DataError
        If the recordings are not fit for use; one line.
    """
    found = load(folder, selection=selection, learns=learns, progress=progress)
    classes = _classes(found, selection, folder) if learns == "classes" else ()
    dealt = _deal(found.pieces, selection, str(folder), numbers=learns == "numbers")
    normaliser = _normaliser(found.pieces, dealt, selection)
    typical = _typical(found.pieces, dealt, selection)
    notes = [
        *found.notes,
        *(f"class {name} is left out ({why})" for name, why in found.unusable.items() if name),
        *constant(normaliser, selection, folder),
        *dead(found.pieces, selection, normaliser),
        *other_units(typical, selection),
    ]
    inputs = _inputs(found.pieces, dealt.windows, normaliser)
    targets = _targets(found.pieces, dealt.windows, selection, classes)
    centre, spread = None, None
    train = torch.from_numpy(dealt.train)
    if learns == "numbers":
        _check_varies(targets[train], selection, folder)
        centre, spread = fit_scale(targets[train])
    validation = torch.from_numpy(dealt.validation)
    return PlantData(
        inputs=torch.from_numpy(inputs),
        targets=targets,
        names=tuple(_name(found.pieces[w.piece], w) for w in dealt.windows),
        train=train,
        validation=validation,
        test=torch.from_numpy(dealt.test),
        folds=((train, validation),),
        classes=classes,
        numbers=() if classes else _numbers(selection),
        good=selection.good,
        columns=normaliser,
        centre=centre,
        spread=spread,
        groups=_groups(found.pieces, dealt, selection),
        fingerprint=hashlib.sha256(inputs.tobytes() + str(selection).encode()).hexdigest(),
        typical={f"|{name}|": value for name, value in typical.items()},
        rate=found.rate,
        skipped=found.skipped,
        notes=tuple(notes),
    )


def read_series(
    place: Path,
    *,
    selection: Selection,
    like: Meaning,
    ends: bool,
    progress: Progress | None = None,
) -> Unlabelled:
    """Read recordings that nothing is known of, as a model of this meaning needs them.

    Parameters
    ----------
    ends : judge the last window of each recording alone; otherwise windows one after the other.

    Raises
    ------
    DataError
        If there is no recording as long as a window.
    """
    asked = replace(selection, classes=(), horizon=0)
    found = load(place, selection=asked, learns="", progress=progress)
    windows = cut(found.pieces, length=asked.window, stride=asked.window)
    if ends:
        last = {window.piece: window for window in windows}
        windows = list(last.values())
    judged = [found.pieces[place] for place in sorted({window.piece for window in windows})]
    return Unlabelled(
        inputs=torch.from_numpy(_inputs(found.pieces, windows, like.columns)),
        names=tuple(_name(found.pieces[w.piece], w) for w in windows),
        skipped=found.skipped,
        notes=(*found.notes, *unlike(judged, asked, like.columns)),
    )


def _deal(pieces: Sequence[Piece], selection: Selection, where: str, *, numbers: bool) -> Dealt:
    windows = cut(
        pieces,
        length=selection.window,
        stride=selection.stride,
        horizon=selection.horizon if numbers else 0,
    )
    train, validation, test = deal(
        pieces,
        windows,
        labels=selection.labels_per_class,
        seed=selection.seed,
        where=where,
        unit=selection.unit,
    )
    if selection.judge_end:
        test = _ends(pieces, windows, test)
    if selection.test_per_class is not None:
        test = _capped(pieces, windows, test, selection.test_per_class)
    used = np.unique(np.concatenate([train, validation, test]))
    place = np.full(len(windows), -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    return Dealt(
        windows=[windows[index] for index in used],
        train=place[train],
        validation=place[validation],
        test=place[test],
    )


def _ends(pieces: Sequence[Piece], windows: Sequence[Window], indices: Array) -> Array:
    """Keep the last window of each unit of the files ``test*``."""
    last: dict[tuple[str, str], int] = {}
    kept = []
    for index in indices.tolist():
        piece = pieces[windows[index].piece]
        if piece.test:
            last[piece.file, piece.group] = index
        else:
            kept.append(index)
    return np.array(sorted([*kept, *last.values()]), dtype=np.int64)


def _capped(pieces: Sequence[Piece], windows: Sequence[Window], indices: Array, most: int) -> Array:
    """Keep at most so many windows a label, evenly over all of them."""
    kept: list[int] = []
    labels = np.array([pieces[windows[index].piece].label for index in indices.tolist()])
    for label in np.unique(labels):
        of = indices[labels == label]
        places = np.unique(np.linspace(0, len(of) - 1, min(most, len(of))).round().astype(int))
        kept += of[places].tolist()
    return np.array(sorted(kept), dtype=np.int64)


def _normaliser(pieces: Sequence[Piece], dealt: Dealt, selection: Selection) -> Normaliser | None:
    """Fit on the samples that training windows cover, each counted once."""
    if selection.normalise != "plant":
        return None
    covered = _covered(pieces, dealt)
    values = np.concatenate([p.values[mask] for p, mask in zip(pieces, covered, strict=True)])
    settings = np.concatenate([p.settings[mask] for p, mask in zip(pieces, covered, strict=True)])
    return Normaliser.fit(values, settings, conditions=selection.conditions)


def _covered(pieces: Sequence[Piece], dealt: Dealt) -> list[Array]:
    """Say which samples of each piece training windows cover."""
    covered = [np.zeros(len(piece), dtype=bool) for piece in pieces]
    for index in dealt.train.tolist():
        window = dealt.windows[index]
        covered[window.piece][window.start : window.stop] = True
    return covered


def _typical(pieces: Sequence[Piece], dealt: Dealt, selection: Selection) -> dict[str, float]:
    """Return the median of each channel's absolute values: vibration has no other size."""
    covered = _covered(pieces, dealt)
    values = np.concatenate([p.values[mask] for p, mask in zip(pieces, covered, strict=True)])
    return dict(zip(selection.channels, np.median(np.abs(values), axis=0).tolist(), strict=True))


def _inputs(
    pieces: Sequence[Piece], windows: Sequence[Window], normaliser: Normaliser | None
) -> npt.NDArray[np.float32]:
    """Return windows of shape (windows, channels, samples)."""
    ready: dict[int, npt.NDArray[np.float32]] = {}
    rows = []
    for window in windows:
        if window.piece not in ready:
            piece = pieces[window.piece]
            values = piece.values
            if normaliser is not None:
                values = normaliser(values, piece.settings)
            ready[window.piece] = values.T.astype(np.float32)
        rows.append(ready[window.piece][:, window.start : window.stop])
    return np.ascontiguousarray(np.stack(rows))


def _targets(
    pieces: Sequence[Piece],
    windows: Sequence[Window],
    selection: Selection,
    classes: Sequence[str],
) -> torch.Tensor:
    if classes:
        places = {name: place for place, name in enumerate(classes)}
        return torch.tensor([places[pieces[w.piece].label] for w in windows])
    rows = []
    for window in windows:
        target = pieces[window.piece].target
        assert target is not None, "pieces of numbers have targets"
        first = window.stop if selection.horizon else window.stop - 1
        rows.append(target[first : first + max(1, selection.horizon)])
    found = np.stack(rows)
    if selection.cap is not None:
        found = np.minimum(found, selection.cap)
    return torch.from_numpy(found.astype(np.float32))


def _classes(recordings: Recordings, selection: Selection, folder: Path) -> tuple[str, ...]:
    found = sorted({piece.label for piece in recordings.pieces})
    for name, why in recordings.unusable.items():
        if name in selection.classes or len(found) < 2:
            raise DataError(
                f"class {name} of {folder} must have a recording that can be used, got none "
                f"({why}); record longer, or mend the file"
            )
    if missing := [name for name in selection.classes if name not in found]:
        raise DataError(
            f"{folder} must hold recordings of the classes asked for, {missing} missing; it has "
            f"{found}"
        )
    names = selection.classes or tuple(found)
    if len(names) < 2:
        raise DataError(f"{folder} must hold at least two classes, got {found}; add another")
    if selection.good and selection.good not in names:
        raise DataError(f"good must be one of the classes {list(names)}, got {selection.good!r}")
    return names


def _check_varies(targets: torch.Tensor, selection: Selection, folder: Path) -> None:
    """Refuse a target that is always the same in the training data."""
    value = float(targets.flatten()[0])
    if (targets == value).all():
        capped = ", or raise series.cap" if value == selection.cap else ""
        raise DataError(
            f"target {selection.target!r} of {folder} must differ in the training data, it is "
            f"always {value:g}; name another column with series.target{capped}"
        )


def _numbers(selection: Selection) -> tuple[str, ...]:
    if not selection.horizon:
        return (selection.target,)
    return tuple(f"{selection.target} +{ahead + 1}" for ahead in range(selection.horizon))


def _groups(pieces: Sequence[Piece], dealt: Dealt, selection: Selection) -> torch.Tensor:
    """Say which windows are not independent, int64, shape (windows,).

    Those of a unit. Without units, those of a file that was dealt out whole beside others of its
    label: they say how much files differ. Of a file that was cut in time, or that is the only one,
    those that overlap, which is the best there is and too little.
    """
    found = [pieces[window.piece] for window in dealt.windows]
    within: dict[str, set[int]] = defaultdict(set)
    beside: dict[tuple[int, str], set[str]] = defaultdict(set)
    for part, indices in enumerate((dealt.train, dealt.validation, dealt.test)):
        for piece in (found[index] for index in indices.tolist()):
            within[piece.group].add(part)
            beside[part, piece.label].add(piece.group)
    numbers = []
    for piece, window in zip(found, dealt.windows, strict=True):
        unit, parts = f"{piece.file}/{piece.group}", within[piece.group]
        whole = len(parts) == 1 and len(beside[min(parts), piece.label]) > 1
        if not (selection.unit or whole):
            unit += f"/{(piece.start + window.start) // (selection.window + selection.horizon)}"
        numbers.append(zlib.crc32(unit.encode()))
    return torch.tensor(numbers)


def _name(piece: Piece, window: Window) -> str:
    """Say where a window ends: file, unit, samples from the beginning."""
    unit = "" if piece.group == piece.file else f", {piece.group}"
    return f"{piece.file}{unit} @ {piece.start + window.stop}"
