"""Several plants' data in one place: what only a simulation may do.

Classes are put together by name; numbers must be the same ones. Inputs must have the same shape; a
task whose plants have different columns brings them together first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from client.tasks.data import PlantData
from common.errors import DataError


def pool(plants: Sequence[PlantData]) -> PlantData:
    """Put several plants' data together over the union of their class names.

    Raises
    ------
    DataError
        If inputs differ in shape, or plants learn different numbers.
    """
    shapes = {tuple(plant.inputs.shape[1:]) for plant in plants}
    if len(shapes) > 1:
        raise DataError(f"pooled inputs must have one shape, got {sorted(shapes)}; use --no-pooled")
    numbers = plants[0].numbers
    if any(len(plant.numbers) != len(numbers) for plant in plants):
        raise DataError("pooled plants must learn equally many numbers; use --no-pooled")
    classes = tuple(sorted({name for plant in plants for name in plant.classes}))
    begin = starts(plants)
    splits = {
        split: torch.cat(
            [getattr(plant, split) + start for plant, start in zip(plants, begin, strict=True)]
        )
        for split in ("train", "validation", "test")
    }
    targets = torch.cat(
        [_renamed(plant, classes) if classes else plant.targets for plant in plants]
    )
    centre = spread = None
    if not classes:
        learned = targets[splits["train"]].cpu().double()  # a Mac's GPU has no float64
        deviation = learned.std(0, unbiased=False)
        centre = learned.mean(0).to(targets)
        spread = torch.where(deviation > 0, deviation, torch.ones_like(deviation)).to(targets)
    return PlantData(
        classes=classes,
        numbers=numbers,
        inputs=torch.cat([plant.inputs for plant in plants]),
        targets=targets,
        names=tuple(name for plant in plants for name in plant.names),
        folds=_folds(plants, begin),
        columns=plants[0].columns,
        centre=centre,
        spread=spread,
        extra=plants[0].extra,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )


def _folds(
    plants: Sequence[PlantData], begin: Sequence[int]
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Join the first folds of all plants, the second ones, and so on; a plant's few come again."""
    joined = []
    for number in range(max(len(plant.folds) for plant in plants)):
        own = [plant.folds[number % len(plant.folds)] for plant in plants]
        train, held = (
            torch.cat([fold[side] + start for fold, start in zip(own, begin, strict=True)])
            for side in (0, 1)
        )
        joined.append((train, held))
    return tuple(joined)


def starts(plants: Sequence[PlantData]) -> list[int]:
    """Return where each plant's examples begin among all."""
    found = [0]
    for plant in plants[:-1]:
        found.append(found[-1] + len(plant.targets))
    return found


def _renamed(plant: PlantData, classes: tuple[str, ...]) -> torch.Tensor:
    table = torch.tensor([classes.index(name) for name in plant.classes])
    return table.to(plant.targets.device)[plant.targets]
