"""Made-up pumps that run until they fail: sensors over their lives, for the demo of ``rul``.

Wear begins at a moment that nobody knows and grows ever faster, as in NASA's C-MAPSS. Every plant
has its own sensors' offsets and gains, its own noise, and runs under two loads of its own.

Plants mostly keep what they have here: pooled data are one to two cycles ahead, rounds are not.
More pumps with fewer labelled windows (24 with 120, 30 with 60) showed no clear gain either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PLANTS = ("plant-1", "plant-2", "plant-3", "plant-4")
UNITS = 10  # pumps a plant
SENSORS = ("temperature", "pressure", "vibration", "current")

LIVES: dict[str, Any] = {
    "name": "demo: remaining life",
    "task": "series-regression",
    "backbone": "gru",
    "rounds": 10,
    "local_epochs": 2,
    "series": {
        "channels": SENSORS,
        "window": 30,
        "stride": 2,
        "settings": ["load"],
        "conditions": 2,
        "unit": "pump",
        "target": "rul",
        "cap": 80.0,
    },
    "training": {
        "batch_size": 64,
        "learning_rate": 3e-3,
        "round_learning_rate": 1e-3,
        "head_learning_rate": 3e-3,
        "head_epochs": 100,
        "epochs": 16,
        "patience": 16,
    },
}


def write_engines(root: Path) -> list[Path]:
    """Write a csv file a plant and return the plants' folders."""
    folders = []
    for place, name in enumerate(PLANTS):
        rng = np.random.default_rng(place)
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        lines = [",".join(["pump", "cycle", "load", *SENSORS, "rul"]), *_rows(rng)]
        (folder / "pumps.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folders.append(folder)
    return folders


def _rows(rng: np.random.Generator) -> Iterator[str]:
    """Yield the rows of a plant's pumps, one a cycle."""
    count = len(SENSORS)
    base, gain = rng.uniform(20, 200, count), rng.uniform(0.5, 1.5, count)
    under_load = rng.uniform(5, 20, count)
    signs = np.array([1, -1, 1, 1])  # pressure falls
    noise = rng.uniform(0.12, 0.2)
    for pump in range(1, UNITS + 1):
        life = int(rng.integers(90, 180))
        healthy = rng.uniform(0.2, 0.5)
        age = np.clip((np.arange(life) / life - healthy) / (1 - healthy), 0, 1)
        wear = np.expm1(2.5 * age) / np.expm1(2.5)
        load = rng.integers(0, 2, life)
        start = rng.normal(0, 0.1, count)
        for cycle in range(life):
            value = base + load[cycle] * under_load
            value = value + signs * gain * (wear[cycle] + start + rng.normal(0, noise, count))
            sensors = ",".join(f"{x:.3f}" for x in value)
            yield f"{pump},{cycle},{load[cycle]},{sensors},{life - 1 - cycle}"
