"""The table of docs/methods.md: every method on every kind of data that it names, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from client.methods import ALONE
from client.plant import Plant
from client.tasks import TASKS
from common.config import FederationConfig, PlantConfig
from common.orders import Kind, Order, Outcome
from common.sharing import FEDERATED
from common.source import start
from common.tasks import KINDS, learns
from simulation.factory import GOOD, name_of, write_plants
from simulation.made_up import DEMOS
from simulation.pooled import train_pooled

DOCS = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
SMALL = {"epochs": 1, "head_epochs": 2, "batch_size": 16}


def table() -> dict[str, dict[str, str]]:
    """Return the words of the table, by task and method."""
    text = DOCS.read_text().split("## Which method works on which kind of data")[1].split("##")[0]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    header, *methods = rows
    return {
        task: {row[0]: row[place] for row in methods}
        for place, task in enumerate(header)
        if place > 0
    }


def made(task: str, root: Path) -> tuple[FederationConfig, list[Plant]]:
    """Write a task's made-up plants, and open the first two with settings that train at once."""
    if task == "image-classification":
        write_plants(root / "data", plants=2, images_per_class=8, size=32)
        values: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 32}
    elif task == "image-anomaly":  # as its demo, with fewer and smaller images
        write_plants(root / "data", plants=2, images_per_class=8, good_images=70, size=32)
        values = {**DEMOS["anomaly"].settings, "image_size": 32, "anomaly": {"memory": 50}}
        values["plants"] = {name_of(plant): {"good": GOOD} for plant in range(2)}
    else:
        demo = next(d for d in DEMOS.values() if d.settings.get("task", "") == task)
        demo.write(root / "data")
        values = dict(demo.settings)
    values |= {
        "training": SMALL,
        "local_epochs": 1,
        "local_steps": 1,
        "labels_per_class": None,
        "methods": {"local_first": False},
        "device": "cpu",
    }
    config = FederationConfig.model_validate(values)
    folders = [f for f in sorted((root / "data").iterdir()) if TASKS[config.task].is_plant(f)][:2]
    section = KINDS[config.task].section
    plants = []
    for folder in folders:
        own = config.plants.get(folder.name)
        more = {section: getattr(own, section)} if section and own else {}
        good = own.good if own else ""
        settings = PlantConfig(name=folder.name, data=str(folder), good=good, device="cpu", **more)
        plants.append(Plant.create(root / "plants" / folder.name, settings))
    return config.model_copy(update={"plants": {}}), plants


def test_the_table_names_every_task_and_method() -> None:
    told = table()
    assert set(told) == set(KINDS)
    for methods in told.values():
        assert set(methods) == (FEDERATED.keys() | ALONE.keys()) - {"fine_tune"}  # that is `local`


@pytest.mark.parametrize("task", KINDS)
def test_what_the_table_says_holds(task: str, tmp_path: Path) -> None:
    config, plants = made(task, tmp_path)
    first = plants[0]
    begun = start(config, base=tmp_path)
    config = begun.config
    for method, word in table()[task].items():
        if word == "no":
            with pytest.raises(ValidationError, match=f"method {method} must have task"):
                FederationConfig.model_validate(config.model_dump() | {"method": method})
            continue
        assert word == "yes"
        if method == "pooled":
            found = train_pooled(tmp_path, [p.folder for p in plants], config, begun.release)
            assert not isinstance(found, str), found
            assert len(found) == len(plants)
        elif method in ALONE:
            version = first.train_alone(method, source=begun.release, config=config)
            assert version.scores
        else:
            _one_round(config, first, method)


def _one_round(config: FederationConfig, plant: Plant, method: str) -> None:
    update: dict[str, Any] = {"method": method}
    if FEDERATED[method].head and learns(config) == "classes":
        update["classes"] = plant.data(config).classes
    chosen = config.model_copy(update=update)
    release = start(chosen, base=Path()).release
    order = Order(
        run=f"try-{method}",
        round=1,
        kind=Kind.TRAIN,
        release=release.hash,
        cohort=(plant.name, "other"),
        deadline=60.0,
        config=chosen,
    )
    reply = plant.answer(order, release)
    assert reply.outcome is Outcome.DONE, (method, reply.reason)
    assert reply.scores["trained"]
    assert np.isfinite(list(reply.scores["trained"].values())).all()
