"""All plants' data in one place: the upper bound that only a simulation has.

One network over the union of the class names (or columns), trained by the same recipe as a plant
alone. A plant is judged on its own classes only: the probabilities of the others are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.device import choose_device
from client.fitting import network_for, predicted_of
from client.methods import Work, alone
from client.plant import open_plant
from client.tasks.metrics import Prediction
from client.tasks.pooling import starts
from client.training import Trainer
from common.backbone import Part, parts, read_tensors, write_tensors
from common.config import FederationConfig
from common.errors import DataError
from common.files import load_tensors, save_tensors
from common.orders import Release
from common.tasks import KINDS

#: A prediction, and all its scores.
Pooled = tuple[Prediction, Mapping[str, Any]]


def train_pooled(
    home: Path, folders: Sequence[Path], config: FederationConfig, source: Release
) -> list[Pooled] | str:
    """Train on all plants' data and judge each plant's test examples.

    The model is kept in ``home/pooled``, so that a resumed run does not train it again.

    Returns
    -------
    One prediction for each folder, over that plant's own classes, and its scores; or why these
    plants' data cannot be put together.
    """
    plants = [open_plant(folder).data(config) for folder in folders]
    task = open_plant(folders[0]).task(config)
    try:
        data = task.pool(plants)
    except DataError as error:
        return str(error)
    device = choose_device(config.device)
    network = network_for(config, data, device=device)
    trainer = Trainer(task=task, data=data, config=config, device=device, seed=config.seed)
    path = home / "pooled" / "pooled.safetensors"
    if path.exists():
        write_tensors(network, load_tensors(path)[0])
    else:
        known = parts(network)
        tensors = source.schema.unflatten(source.vector)
        body = {n: v for n, v in tensors.items() if known.get(n) in (Part.BODY, Part.NORM)}
        write_tensors(network, body)
        alone("pooled", task=config.task)(Work(network=network, trainer=trainer, first=True))
        save_tensors(path, read_tensors(network))
    found: list[Pooled] = []
    for folder, plant, start in zip(folders, plants, starts(plants), strict=True):
        if KINDS[config.task].remembers:
            # The backbone is that of all plants, the memory the plant's own.
            its = replace(trainer, task=open_plant(folder).task(config), data=plant)
            alone("head_only", task=config.task)(Work(network=network, trainer=its, first=True))
            own = its.predict(network, plant.test)
        else:
            predicted = trainer.predict(network, plant.test + start)
            own = task.restrict(predicted, pooled=data, plant=plant)
        prediction = predicted_of(plant, plant.test, own)
        found.append((prediction, task.scores(prediction, data=plant)))
    return found
