"""All plants' data in one place: the upper bound that only a simulation has.

One network over the union of the class names, trained by the same recipe as a plant alone. A plant
is judged on its own classes only: the probabilities of the others are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from client.methods import ALONE, Work
from client.plant import open_plant
from client.tasks.images import ImageData
from client.tasks.metrics import Prediction
from client.training import Trainer, choose_device
from common.backbone import Network, build, read_tensors, write_tensors
from common.config import FederationConfig
from common.files import load_tensors, save_tensors
from common.orders import Release


def train_pooled(
    home: Path, folders: Sequence[Path], config: FederationConfig, source: Release
) -> list[Prediction]:
    """Train on all plants' images and judge each plant's test images.

    The model is kept in ``home/pooled``, so that a resumed run does not train it again.

    Returns
    -------
    One prediction for each folder, over that plant's own classes.
    """
    plants = [open_plant(folder).data(config) for folder in folders]
    data = pool(plants)
    device = choose_device(config.device)
    network = build(config.backbone, classes=len(data.classes), image_size=config.image_size)
    network.to(device).to(memory_format=torch.channels_last)
    task = open_plant(folders[0]).task(config)
    trainer = Trainer(task=task, data=data, config=config, device=device, seed=config.seed)
    path = home / "pooled" / "pooled.safetensors"
    if path.exists():
        write_tensors(network, load_tensors(path)[0])
    else:
        tensors = source.schema.unflatten(source.vector)
        write_tensors(network, {k: v for k, v in tensors.items() if not k.startswith("head.")})
        ALONE["pooled"](Work(network=network, trainer=trainer, first=True))
        save_tensors(path, read_tensors(network))
    return [
        _judge(trainer, network, data, plant, start)
        for plant, start in zip(plants, _starts(plants), strict=True)
    ]


def pool(plants: Sequence[ImageData]) -> ImageData:
    """Put several plants' data together over the union of their class names."""
    classes = tuple(sorted({name for plant in plants for name in plant.classes}))
    maps = [torch.tensor([classes.index(name) for name in plant.classes]) for plant in plants]
    starts = _starts(plants)
    splits = {
        split: torch.cat(
            [getattr(plant, split) + start for plant, start in zip(plants, starts, strict=True)]
        )
        for split in ("train", "validation", "test")
    }
    return ImageData(
        classes=classes,
        good="",
        images=torch.cat([plant.images for plant in plants]),
        labels=torch.cat(
            [table.to(p.labels.device)[p.labels] for p, table in zip(plants, maps, strict=True)]
        ),
        files=tuple(file for plant in plants for file in plant.files),
        folds=((splits["train"], splits["validation"]),),
        skipped=(),
        notes=(),
        **splits,
    )


def _starts(plants: Sequence[ImageData]) -> list[int]:
    starts = [0]
    for plant in plants[:-1]:
        starts.append(starts[-1] + len(plant.labels))
    return starts


def _judge(
    trainer: Trainer, network: Network, data: ImageData, plant: ImageData, start: int
) -> Prediction:
    columns = torch.tensor([data.classes.index(name) for name in plant.classes])
    probabilities = trainer.predict(network, plant.test + start)[:, columns]
    probabilities = probabilities / probabilities.sum(1, keepdim=True).clamp_min(1e-12)
    index = plant.test.cpu()
    return Prediction(
        truth=plant.labels[index].cpu().numpy(),
        probabilities=probabilities.numpy(),
        files=tuple(plant.files[i] for i in index.tolist()),
    )
