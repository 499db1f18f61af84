"""A model of an earlier day and the plant's examples of today: read by it, judged by it again.

A model means what it was made from (`client.tasks.meaning`). Where today's labelled examples are
others, what it said of those it was judged on compares with nothing. So it is asked again, where
today's examples are of the same classes or numbers; with fewer than ten labels a class it is not,
because there it has learned from most of them. And what the plant trains alone on today's examples
starts from what it trained alone before, never from a release: one that is bad must not come into
use by that way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from client.origin import judged_examples
from client.personal import Version
from client.selection import Evidence
from client.tasks import PlantData
from client.tasks.meaning import Meaning, fields_of
from client.training import Trainer
from common.config import FederationConfig
from common.errors import DataError
from common.orders import Release

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


def asked_again(plant: Plant, version: Version, *, judged: str) -> Evidence | None:
    """Return what a whole model says of today's validation examples, float32, (n, outputs).

    Parameters
    ----------
    judged : digest of today's labelled examples (`client.origin.judged_examples`).

    Returns
    -------
    None if it cannot be asked; see the top of this file.
    """
    if not version.meaning:
        return None
    config = FederationConfig.model_validate_json(version.config)
    meaning = Meaning.of(version.meaning, where=f"model {version.number}")
    try:
        data = read_by(plant, config, meaning=meaning)
    except DataError:
        return None
    if data is None or len(data.folds) > 1 or judged_examples(data) != judged:
        return None
    task, device = plant.task(config), data.inputs.device
    trainer = Trainer(task=task, data=data, config=config, device=device, seed=0)
    return trainer.predict(plant.model(version.number, config=config), data.validation).numpy()


def start_anew(
    plant: Plant, local: Version, release: Release, config: FederationConfig
) -> Release | None:
    """Return what a plant trains from alone again: the release with the backbone of its own model.

    Parameters
    ----------
    local : what it trained alone last.

    Returns
    -------
    None if that was judged on today's labelled examples, or has another backbone.
    """
    if local.judged == judged_examples(plant.data(config)):
        return None
    own, shapes = plant.store.model(local.number), release.schema.shapes
    names = [name for name in shapes if not name.startswith("head.")]
    if any(name not in own or own[name].shape != shapes[name] for name in names):
        return None
    tensors = release.schema.unflatten(release.vector) | {name: own[name] for name in names}
    return replace(release, vector=release.schema.flatten(tensors))
