"""Small federations of real plants, for benchmarks of many cells.

The rounds are the product's own: plants answer orders, the centre admits, combines and steps. What
is small is the setting, so that a cell takes seconds: see `settings`. A cell starts from a template
in which every plant has answered round 1 already, and is asked again; the same order gets the same
bytes, so round 1 is trained once for all cells.

What a cell is judged by: the test images of every plant, with the last release and the plant's own
head of its last round. No fine-tuning at the plant, and no no-harm rule: both would hide what the
release itself has become.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.exchange import assemble
from client.fitting import predicted_of
from client.plant import Plant, open_plant
from client.tasks.metrics import Prediction
from client.training import Trainer
from common.config import FederationConfig
from common.errors import EngineError
from common.orders import Kind, Order, Release, Reply
from common.toml import validate
from server.chain import Place
from server.engine.job import Job
from server.federation import Federation
from server.seals import papers_of
from server.state.store import history
from simulation.desks import PKI
from simulation.local import LocalFleet
from simulation.prepare import find_plants, prepare
from simulation.workers import Workers

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TRANSFERLINE_DATA", ROOT / "../shared/data"))
SIX = ("deeppcb", "elpv_mono", "elpv_poly", "magnetic_tile", "neu_steel", "wood_board")
ELPV = {"classes": ["functional", "defective"], "good": "functional"}

#: Changes what the centre gets of a plant's reply.
Spoil = Callable[[Reply], Reply]


def run_missing(
    doc: str,
    *,
    name: str,
    cells: Sequence[tuple[Any, ...]],
    path: Callable[..., Path],
    run: Callable[..., None],
    tables: Callable[[Path], str],
) -> None:
    """Run the cells that have no file, as the command line has it, and print the tables."""
    parser = argparse.ArgumentParser(description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=Path("out") / name)
    parser.add_argument("--cells", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--tables", action="store_true", help="print what is there, run nothing")
    given = parser.parse_args()
    todo = [cell for cell in cells if not path(given.out, *cell).exists()]
    for cell in [] if given.tables else todo[: given.cells]:
        run(*cell, out=given.out)
        print(f"{', '.join(map(str, cell))}: done", flush=True)
    print(tables(given.out))


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that is made once, whole or not at all."""
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(folder)
    return folder


def settings(**changes: Any) -> FederationConfig:
    """Return the settings of a small federation; everything else is at its default."""
    weights = (DATA / "weights" / "mobilenet_v2_imagenet.safetensors").resolve()
    values: dict[str, Any] = {
        "name": "small",
        "backbone": "mobilenet_v2",
        "weights": str(weights),
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "image_size": 64,
        "rounds": 2,
        "local_epochs": 1,
        "local_steps": 4,
        "labels_per_class": 20,
        "test_per_class": 30,
        "device": "cpu",
        "methods": {"local_first": False, "personal_fine_tune": False},
        "plants": {name: ELPV for name in SIX if name.startswith("elpv")},
    }
    return validate(FederationConfig, values | changes, name="the benchmark's settings")


@dataclass(frozen=True)
class Template:
    """A prepared run folder in which every plant has answered round 1.

    Attributes
    ----------
    data : the plants' folders by name; a liar's may be another than its own.
    """

    home: Path
    config: FederationConfig
    data: Mapping[str, Path]

    @cached_property
    def job(self) -> Job:
        return Job.read(self.home)

    def make(self) -> Template:
        """Make it, unless it is there."""
        if not self.home.is_dir():
            part = self.home.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            with Workers(1) as workers:
                config = prepare(
                    part, config=self.config, base=Path(), data=self.data, workers=workers
                ).job.config
            job = Job.read(part)
            order = Order(
                run=job.run, round=1, kind=Kind.TRAIN, release=job.source.hash,
                cohort=tuple(sorted(self.data)), deadline=config.round_deadline, config=config,
            )  # fmt: skip
            for name in self.data:
                Plant.open(part / "plants" / name).answer(order, job.source)
            part.rename(self.home)
        return self

    def copy(self, home: Path, config: FederationConfig) -> Job:
        """Copy it for one cell, with settings that may differ in what only the centre uses."""
        shutil.rmtree(home, ignore_errors=True)
        # Linked, not copied: no file of a plant is ever written in place.
        shutil.copytree(self.home, home, copy_function=os.link)
        centre = {"server": config.server, "min_plants": config.min_plants}
        return replace(self.job, config=self.job.config.model_copy(update=centre))


class Spoiled:
    """A fleet some of whose replies are changed on their way; nobody is asked to adopt."""

    def __init__(self, fleet: LocalFleet, spoil: Spoil) -> None:
        self._fleet, self._spoil = fleet, spoil

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    def ask(self, order: Order, release: Release, **rest: Any) -> Iterator[Reply]:
        if order.kind is Kind.ADOPT:
            return
        for reply in self._fleet.ask(order, release, **rest):
            yield self._spoil(reply)


def hold(
    home: Path,
    job: Job,
    *,
    spoil: Spoil = lambda reply: reply,
    spoiled: Collection[str] = (),
) -> Release:
    """Hold the rounds of a cell; return the last release.

    Parameters
    ----------
    spoiled : plants whose replies the centre may refuse.

    Raises
    ------
    EngineError
        If another plant's reply was not counted.
    """
    with Workers(1) as workers:
        fleet = LocalFleet(home, plants=list(job.plants), workers=workers)
        federation = Federation(
            Place(home=home, papers=lambda: papers_of(home / PKI)),
            fleet=Spoiled(fleet, spoil),
            config=job.config,
            source=job.source,
            travelling=job.travelling,
            run=job.run,
        )
        release = federation.run()
    for row in history(home)[: job.config.rounds]:
        said = {name: reply["reason"] for name, reply in row["replies"].items()}
        failed = [name for name, reply in row["replies"].items() if reply["outcome"] != "done"]
        if failed and set(failed) != set(spoiled):
            raise EngineError(f"round {row['round']} must have every honest reply, got {said}")
    return release


def predict(
    folder: Path,
    release: Release,
    config: FederationConfig,
    *,
    change: Callable[[Tensor], Tensor] = lambda images: images,
) -> Prediction:
    """Return what a release says with a plant's own head on its test images.

    Parameters
    ----------
    change : what is done to the images first.
    """
    plant = open_plant(folder)
    data = plant.data(config)
    kept = [version for version in plant.store.versions() if version.kind == "round"]
    network = plant.network(config)
    assemble(network, release, personal=plant.store.load(kept[-1]))
    shown = replace(data, inputs=change(data.inputs))
    device = torch.device("cpu")
    task = plant.task(config)
    trainer = Trainer(task=task, data=shown, config=config, device=device, seed=0)
    return predicted_of(data, data.test, trainer.predict(network, data.test))


def score(folder: Path, release: Release, config: FederationConfig, **rest: Any) -> float:
    """Return the balanced accuracy of `predict`."""
    found = predict(folder, release, config, **rest)
    classes = np.unique(found.truth)
    return float(np.mean([found.correct[found.truth == one].mean() for one in classes]))


def sources() -> dict[str, Path]:
    """Return the six plants' folders, or end with one line."""
    if not (DATA / "images").is_dir():
        sys.exit(f"no real data in {DATA}; set TRANSFERLINE_DATA")
    return find_plants(DATA / "images", wanted=SIX)
