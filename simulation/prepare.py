"""From a folder of plants to a run folder that an engine can work on.

``ROOT/<plant>/<class>/*.jpg`` becomes ``RUN/plants/<plant>/plant.toml``, and the federation's
settings become a job: source weights loaded, input normalisation and classes filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from client.fitting import settings_of
from client.plant import Plant, open_plant
from client.tasks import TASKS
from client.tasks.series.rates import differ
from client.tasks.tables.columns import far_apart
from common.backbone import Network, has_norm, load_source, norm_layers
from common.config import FederationConfig
from common.errors import ConfigError, DataError, StateError
from common.sharing import FEDERATED
from common.source import first_release, what_travels
from common.tasks import TaskName, learns
from server.engine.job import RUN, Job
from server.state.tenure import differences
from simulation.desks import make_identities
from simulation.workers import Task, Workers

#: Plants among which one can be hidden at a price.
FEW = 100


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the report says of a plant's data; for one seed."""

    classes: tuple[str, ...]
    good: str
    numbers: tuple[str, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    typical: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run folder, ready for an engine.

    Attributes
    ----------
    warnings : one line each, for the user.
    """

    home: Path
    job: Job
    plants: Mapping[str, Description]
    warnings: tuple[str, ...]

    def folder(self, plant: str) -> Path:
        return self.home / "plants" / plant

    @property
    def folders(self) -> list[Path]:
        return [self.folder(name) for name in self.plants]


def find_plants(
    root: Path, *, wanted: Sequence[str] = (), task: TaskName = "image-classification"
) -> dict[str, Path]:
    """Return the plants' folders by name: every folder of ROOT that holds data of the task.

    Raises
    ------
    DataError
        If ROOT is not a folder, or holds no plant, or not the wanted ones.
    """
    if not root.is_dir():
        raise DataError(f"--data must be a folder of plants, got {root}, which does not exist")
    kind = TASKS[task]
    found = {folder.name: folder for folder in folders(root) if kind.is_plant(folder)}
    if not found:
        raise DataError(f"--data must hold {kind.layout}, got none in {root}")
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise DataError(f"--plants must be among {', '.join(found)}, got {', '.join(missing)}")
    return {name: found[name] for name in wanted or found}


def left_out(root: Path, *, task: TaskName) -> list[str]:
    """Name the folders of ROOT that `find_plants` passes over; hidden ones are not meant."""
    return [folder.name for folder in folders(root) if not TASKS[task].is_plant(folder)]


def folders(root: Path) -> list[Path]:
    """List the folders of ROOT that are not hidden, by name; none if it is no folder."""
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [path for path in found if path.is_dir() and path.name[0] != "."]


def prepare(
    home: Path,
    *,
    config: FederationConfig,
    base: Path,
    data: Mapping[str, Path],
    workers: Workers,
) -> Prepared:
    """Write plant folders and the job, and look at every plant's data.

    Parameters
    ----------
    home : the run folder.
    base : folder that a relative path of weights starts from.
    data : plants' image folders by name.

    Raises
    ------
    TransferlineError
        If a plant's data, the weights or the settings do not do; one line each.
    """
    unknown = sorted(set(config.plants) - set(data))
    if unknown:
        raise ConfigError(f"plants must name folders in --data, got {unknown}; it has {list(data)}")
    source = load_source(config, base=base)
    config = source.config
    _check_resumed(home, config)
    for name, folder in data.items():
        Plant.create(home / "plants" / name, settings_of(config, name=name, data=folder))
    tasks = [
        Task(place, describe, (home / "plants" / name, config)) for place, name in enumerate(data)
    ]
    names = list(data)
    plants = {names[position]: result for position, result in workers.every(tasks)}
    plants = {name: plants[name] for name in names}
    if FEDERATED[config.method].head and learns(config) == "classes":
        config = config.model_copy(update={"classes": _common_classes(config, plants)})
    if config.secure_aggregation.enabled:
        make_identities(home, plants=list(plants), federation=config.name)
    job = _job(config, source.network, list(plants))
    job.write(home)
    warnings = []
    if config.secure_aggregation.enabled:
        warnings.append(
            "secure sums in simulation: plants accept each other without their engineers' word, "
            "and keep their sessions in one process"
        )
    if not config.norm_travels and not has_norm(source.network):
        warnings.append(f"{config.backbone} has no normalisation layers to keep at the plants")
    warnings += _noise(config, source.network, plants=len(plants))
    warnings += [_skipped(name, plant) for name, plant in plants.items() if plant.skipped]
    warnings += noted(plants)
    warnings += units(plants)
    warnings += rates(plants)
    return Prepared(home=home, job=job, plants=plants, warnings=tuple(warnings))


def _check_resumed(home: Path, config: FederationConfig) -> None:
    """Refuse settings other than those that a run folder was begun with, before it is touched."""
    if not (home / RUN).exists():
        return
    held = Job.read(home).config
    if config.classes != held.classes and not config.classes:
        config = config.model_copy(update={"classes": held.classes})  # found in the data
    changed = list(differences(held.model_dump(mode="json"), config.model_dump(mode="json")))
    if changed:
        raise StateError(f"{home} holds another run: {'; '.join(changed)}; use another --out")


def describe(folder: Path, config: FederationConfig) -> Description:
    """Load a plant's data, in whatever process this runs."""
    data = open_plant(folder).data(config)
    return Description(
        classes=data.classes,
        good=data.good,
        numbers=data.numbers,
        counts=data.counts,
        notes=data.notes,
        skipped=tuple((item.file, item.why) for item in data.skipped),
        typical=data.typical,
        rate=data.rate,
    )


def noted(plants: Mapping[str, Description]) -> list[str]:
    """Say what was noted of the plants' data, once for all plants of which it is the same."""
    where: dict[str, list[str]] = {}
    for name, plant in plants.items():
        for note in plant.notes:
            where.setdefault(note, []).append(name)
    return [f"{_some(names)}: {note}" for note, names in where.items()]


def _some(names: Sequence[str]) -> str:
    """Name the first three of them."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def units(plants: Mapping[str, Description]) -> list[str]:
    """Name inputs of the same name whose values differ so much that their units may.

    The smallest of the plants' medians is compared with the largest; the two sides are parted where
    the step between neighbours is widest. Only a simulation can: at a real plant the federation
    says what it expects (``typical`` of the task's section).
    """
    known: dict[str, dict[str, float]] = {}
    for plant, described in plants.items():
        for name, value in described.typical.items():
            known.setdefault(name, {})[plant] = value
    found = []
    for name, medians in known.items():
        sizes = {plant: abs(value) for plant, value in medians.items() if value}
        order = sorted(
            (plant for plant in sizes if np.isfinite(sizes[plant])), key=sizes.__getitem__
        )
        if order and far_apart(sizes[order[0]], sizes[order[-1]]):
            steps = [sizes[high] / sizes[low] for low, high in pairwise(order)]
            border = int(np.argmax(steps)) + 1
            told = (
                f"{medians[side[len(side) // 2]]:g} at {_some(side)}"
                for side in (order[:border], order[border:])
            )
            found.append(f"median of {name} is {', but '.join(told)}: units?")
    return found


def rates(plants: Mapping[str, Description]) -> list[str]:
    """Say where plants record series at different rates, and have not agreed on one."""
    known: dict[float, list[str]] = {}
    for name, plant in sorted(plants.items(), key=lambda item: item[1].rate):
        if plant.rate:
            last = next(reversed(known), 0.0)
            known.setdefault(plant.rate if differ(last, plant.rate) else last, []).append(name)
    if len(known) < 2:
        return []
    told = ", ".join(f"{rate:g} at {_some(names)}" for rate, names in known.items())
    return [
        f"samples a second while series.rate is 0: {told}: a window does not last as long at all "
        "plants; agree on a series.rate"
    ]


def _noise(config: FederationConfig, network: Network, *, plants: int) -> list[str]:
    """Say what noise changes about training, and where it is hopeless."""
    if config.privacy.unit == "record":
        layers = sum(isinstance(layer, _BatchNorm) for layer in norm_layers(network))
        frozen = f"{layers} batch-norm layers keep the source's statistics, " if layers else ""
        return [f"privacy.unit record: in rounds {frozen}augmentation and dropout are off"]
    if config.privacy.unit == "plant" and plants < FEW:
        return [
            f"privacy.unit plant hides one plant among {plants}: below some hundred the noise is "
            "larger than what they learn; docs/security.md says what to use instead"
        ]
    return []


def _skipped(name: str, plant: Description) -> str:
    """Name the first files that were left out; the report has them all."""
    shown = ", ".join(f"{file} ({why})" for file, why in plant.skipped[:3])
    more = f" and {len(plant.skipped) - 3} more" if len(plant.skipped) > 3 else ""
    return f"{name}: skipped {shown}{more}"


def _job(config: FederationConfig, network: Network, plants: list[str]) -> Job:
    return Job(
        run=f"seed-{config.seed}",
        plants=tuple(sorted(plants)),
        travelling=what_travels(network, config),
        source=first_release(network, config),
        config=config,
    )


def _common_classes(config: FederationConfig, plants: Mapping[str, Description]) -> tuple[str, ...]:
    """Return the classes of every plant, which must be the same where the head travels."""
    first, *rest = plants
    for other in rest:
        if plants[other].classes != plants[first].classes:
            raise ConfigError(
                f"method must be one with personal heads where classes differ, got "
                f"{config.method}: {first} has {list(plants[first].classes)}, {other} has "
                f"{list(plants[other].classes)}; use fedper"
            )
    return plants[first].classes
