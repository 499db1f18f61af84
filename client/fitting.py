"""What a plant's own data makes of a federation's settings: its network, and how it compares."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from client import adoption
from client.tasks import PlantData, Task, task_of
from client.tasks.data import Progress
from client.tasks.meaning import Meaning
from client.tasks.metrics import Prediction
from common.backbone import Network, build_for
from common.config import FederationConfig, PlantConfig, PlantSection
from common.sharing import FEDERATED, SELF_SUPERVISED
from common.tasks import KINDS, shared_outputs
from common.weights import HALF


def network_for(config: FederationConfig, meaning: Meaning, *, device: torch.device) -> Network:
    """Build the network of a plant's data, on a device: shared backbone, its own stem and head."""
    network = build_for(config, outputs=meaning.outputs, columns=meaning.columns)
    network.to(device)
    network.to(memory_format=torch.channels_last)
    return network


def predicted_of(data: PlantData, indices: Tensor, predicted: Tensor) -> Prediction:
    """Put predictions for some of a plant's examples together with their truth."""
    index = indices.cpu()
    return Prediction(
        truth=data.targets[indices].cpu().numpy(),
        predicted=predicted.numpy(),
        names=tuple(data.names[i] for i in index.tolist()),
        groups=None if data.groups is None else data.groups[index].numpy(),
        texts=tuple(data.texts[i] for i in index.tolist()) if data.texts else (),
    )


def paired_of(task: Task, data: PlantData) -> adoption.Paired:
    """Say how two models are compared on a plant's validation examples."""
    truth = data.targets[data.validation].cpu().numpy()
    return adoption.Paired(
        worth=lambda evidence: task.worth(evidence, truth, data=data),
        strata=task.strata(truth),
        said=task.gained,
        groups=None if data.groups is None else data.groups[data.validation.cpu()].numpy(),
        doubt=task.doubt(),
    )


def read_by(config: FederationConfig) -> str:
    """Name the settings of a federation by which data is read."""
    section = KINDS[config.task].section
    own = getattr(config, section).model_dump_json() if section else config.image_size
    return f"{config.task}/{own}" + "/unlabelled" * (config.method in SELF_SUPERVISED)


def read(
    settings: PlantConfig,
    config: FederationConfig,
    *,
    folder: Path,
    cache: Path | None,
    progress: Progress | None = None,
) -> PlantData:
    """Read a plant's data by a federation's settings, as a round would.

    Parameters
    ----------
    folder : of the plant; a relative path of data starts there.
    cache : where what was read is kept; None: nowhere.

    Raises
    ------
    DataError, ConfigError
        If it is not fit for training.
    """
    # Of images the weights bring mean and deviation with the first order; reading needs neither.
    known = config.model_copy(update={"mean": config.mean or HALF, "std": config.std or HALF})
    place = (folder / settings.data).resolve()
    return task_of(known, settings).load(place, cache=cache, progress=progress)


def settings_of(config: FederationConfig, *, name: str, data: Path) -> PlantConfig:
    """Return what federation.toml alone says of a plant: its ``[plants.NAME]``, the rest as it is.

    Parameters
    ----------
    data : the plant's folder of data.
    """
    section = config.plants.get(name, PlantSection())
    own = KINDS[config.task].section
    return PlantConfig(
        name=name,
        data=str(data.resolve()),
        classes=section.classes,
        good=section.good,
        labels_per_class=config.labels_per_class,
        test_per_class=config.test_per_class,
        seed=config.seed,
        device=config.device,
        adoption_margin=config.adoption_margin,
        **({own: getattr(section, own)} if own else {}),
    )


def misfit(found: PlantData, config: FederationConfig) -> str:
    """Say why a head that travels does not fit a plant's data; "" if it does."""
    if not FEDERATED[config.method].head:
        return ""
    if found.numbers:
        wanted = shared_outputs(config)
        fits, head = found.outputs == wanted, f"a head for {wanted} numbers"
    else:
        named = ", ".join(config.classes) or "none"
        fits, head = found.classes == config.classes, f"the head, for the classes {named}"
    has = ", ".join(found.numbers or found.classes)
    return "" if fits else f"{config.method} shares {head}; the plant has {has}"
