"""The demo's work orders: four plants whose fitters write about the same things in their own way.

An order names a part and what is wrong with it, or what was done; its class is the part's system.
Every plant lacks one of the six systems, has machine codes, abbreviations and slips of the pen of
its own, and has seen only some of the parts often. The same seed gives the same orders.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.files import unwritable

PLANTS = {"quarry": "EX", "bottling": "FL", "foundry": "FU", "sawmill": "SW"}
ORDERS = 220

#: Systems with their parts.
SYSTEMS = {
    "hydraulics": ("hydraulic hose", "hydraulic pump", "tilt cylinder", "relief valve",
                   "oil cooler", "lift ram", "manifold seal", "hydraulic filter"),
    "drive": ("gearbox", "drive belt", "coupling", "main shaft", "drive chain", "sprocket",
              "clutch plate", "final drive"),
    "electrics": ("motor cable", "contactor", "main fuse", "control panel", "terminal box",
                  "light switch", "power supply", "frequency converter"),
    "sensors": ("proximity switch", "encoder", "light barrier", "temperature probe",
                "pressure sensor", "level sensor", "load cell", "limit switch"),
    "cooling": ("radiator", "coolant pump", "fan blade", "thermostat", "chiller", "water jacket",
                "heat exchanger", "coolant hose"),
    "structure": ("guard rail", "base frame", "cover plate", "hand rail", "mounting bracket",
                  "door hinge", "weld seam", "floor grate"),
}  # fmt: skip

#: What is wrong with any part, or was done to it.
PHRASES = (
    "{} leaking", "replace {}", "{} worn out", "{} broken", "check {}", "repair {}", "{} loose",
    "{} noisy", "fit new {}", "{} overheating", "inspect {} after trip", "{} damaged by loader",
    "{} needs adjusting", "change out {}", "{} failed again", "clean {}",
)  # fmt: skip

TEXT: dict[str, Any] = {
    "name": "demo of work orders",
    "task": "text-classification",
    "rounds": 6,
    "labels_per_class": 10,
    "text": {"buckets": 4096, "width": 32},
    "training": {
        "learning_rate": 3e-3,
        "round_learning_rate": 3e-3,
        "head_learning_rate": 3e-3,
        "epochs": 20,
        "head_epochs": 100,
    },
}


def write_text(root: Path) -> list[Path]:
    """Write the plants' folders, ROOT/<plant>/orders.csv, and return them.

    Raises
    ------
    StateError
        If the folder cannot be written.
    """
    part = root.with_name(f".{root.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        for plant, name in enumerate(PLANTS):
            (part / name).mkdir(parents=True)
            with (part / name / "orders.csv").open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("number", "text", "label"))
                rows.writerows(orders(plant))
        part.rename(root)
    except OSError as error:
        raise unwritable(root, error) from error
    return [root / name for name in PLANTS]


def orders(plant: int, *, seed: int = 0) -> Iterator[tuple[int, str, str]]:
    """Yield (number, text, system) of a plant's orders."""
    rng = np.random.default_rng([seed, plant])
    code = list(PLANTS.values())[plant]
    systems = [name for place, name in enumerate(SYSTEMS) if place != plant]
    shares = {name: rng.dirichlet(np.full(len(SYSTEMS[name]), 0.8)) for name in systems}
    upper = plant % 2 == 0
    for number in range(ORDERS):
        system = systems[number % len(systems)]
        thing = str(rng.choice(SYSTEMS[system], p=shares[system]))
        words = str(rng.choice(PHRASES)).format(_written(thing, rng)).split()
        if rng.random() < 0.5:
            words.insert(0, f"{code}{rng.integers(1, 30):02d}")
        text = " ".join(words)
        yield number + 1, text.upper() if upper else text, system


def _written(thing: str, rng: np.random.Generator) -> str:
    """Return a part as somebody in a hurry writes it: cut short, or with a letter too few."""
    way = rng.random()
    words = thing.split()
    if way < 0.25 and len(words) > 1:
        words[0] = words[0][: int(rng.integers(3, 5))]
    elif way < 0.4:
        place = int(rng.integers(len(words)))
        letter = int(rng.integers(1, len(words[place])))
        words[place] = words[place][:letter] + words[place][letter + 1 :]
    return " ".join(words)
