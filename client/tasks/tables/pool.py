"""Tables of several plants in one: the union of their columns; simulation only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from client.tasks import pooling
from client.tasks.data import PlantData
from client.tasks.tables import columns
from common.backbones.table import Columns
from common.errors import DataError


def pool(plants: Sequence[PlantData], *, bins: int, shared: int = 0) -> PlantData:
    """Put several plants' rows together over the union of their columns.

    Parameters
    ----------
    bins : pieces between quantiles.
    shared : how many columns, the first ones, are those of all plants already.

    Raises
    ------
    DataError
        If the targets have different names, or a column is numbers at one plant and names at
        another.
    """
    if len({plant.numbers for plant in plants}) > 1:
        targets = sorted({", ".join(plant.numbers) for plant in plants})
        raise DataError(f"pooled plants must have one target, got {' and '.join(targets)}")
    own: list[Columns] = [plant.columns for plant in plants]
    names = list(dict.fromkeys(one.name for c in own for one in c.numbers))
    levels: dict[str, list[str]] = {}
    for one in (one for c in own for one in c.categories):
        known = levels.setdefault(one.name, [])
        known += [level for level in one.levels if level not in known]
    if both := sorted(set(names) & set(levels)):
        raise DataError(
            f"column {both[0]!r} must be of one kind at all plants to be pooled; name it under "
            "table.categories"
        )
    widened = [
        replace(plant, inputs=_widened(plant, names, levels, shared).to(plant.inputs.device))
        for plant in plants
    ]
    pooled = pooling.pool(widened)
    rows = pooled.inputs[pooled.train].cpu().numpy()[:, shared:]
    fitted = columns.fit(rows, names, [(n, tuple(known)) for n, known in levels.items()], bins=bins)
    return replace(pooled, columns=fitted)


def _widened(
    plant: PlantData, names: Sequence[str], levels: dict[str, list[str]], shared: int
) -> Tensor:
    """Return a plant's inputs in the columns of all plants."""
    own: Columns = plant.columns
    inputs = plant.inputs.cpu()
    front, inputs = inputs[:, :shared], inputs[:, shared:]
    wide = torch.full((len(inputs), len(names) + len(levels)), torch.nan)
    for place, one in enumerate(own.numbers):
        wide[:, names.index(one.name)] = inputs[:, place]
    for place, category in enumerate(own.categories, start=len(own.numbers)):
        known = levels[category.name]
        table = torch.tensor([known.index(level) for level in category.levels] + [torch.nan])
        codes = torch.nan_to_num(inputs[:, place], nan=len(category.levels)).long()
        wide[:, len(names) + list(levels).index(category.name)] = table[codes].float()
    return torch.cat([front, wide], dim=1)
