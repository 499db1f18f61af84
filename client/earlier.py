"""A model of an earlier day and the plant's examples of today, read as it needs them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from client.tasks import PlantData
from client.tasks.meaning import Meaning, fields_of
from common.config import FederationConfig

if TYPE_CHECKING:
    from client.plant import Plant


def read_by(plant: Plant, config: FederationConfig, *, meaning: Meaning) -> PlantData | None:
    """Return a plant's examples of today as a model of another meaning needs them.

    Returns
    -------
    None if their classes or numbers are others, or not all can be read so.

    Raises
    ------
    DataError
        If the folder has not what the model needs, a column say.
    """
    data = plant.data(config)
    if (meaning.classes, meaning.numbers) != (data.classes, data.numbers):
        return None
    inputs = data.inputs
    if meaning.columns is not None and meaning.text != data.text:
        folder = (plant.folder / plant.settings.data).resolve()
        found = plant.task(config).read(folder, like=meaning)
        places = {name: place for place, name in enumerate(found.names)}
        if not places.keys() >= set(data.names):
            return None
        inputs = found.inputs[torch.tensor([places[name] for name in data.names])]
    return replace(data, **fields_of(meaning) | {"inputs": inputs}).to(data.inputs.device)
