"""Made-up process data: four injection moulding shops that learn the strength of their parts.

One law holds everywhere (a part is strong where it was filled hot and fast enough, packed, and
not burnt), but every shop has its own machine, material and sensors: it logs most of the columns,
not all, some values are missing, and its strengths lie elsewhere. The same seed gives the same
rows.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_atomic

#: Shop, what it does not log, shift of its strength, spread of its noise.
SHOPS = (
    ("caps", (), 0.0, 1.0),
    ("housings", ("moisture",), 6.0, 1.5),
    ("gears", ("supplier",), -4.0, 0.8),
    ("trays", ("cushion", "moisture"), 3.0, 1.2),
)
SUPPLIERS = ("Ast", "Bor", "Cym")

TABULAR: dict[str, Any] = {
    "name": "demo of tables",
    "task": "tabular",
    "rounds": 8,
    "local_epochs": 8,
    "labels_per_class": 16,
    "table": {"target": "strength_MPa", "width": 64, "blocks": 2, "bins": 8},
    "training": {"epochs": 60, "batch_size": 16, "round_learning_rate": 2e-3},
}


def write_tables(root: Path, *, rows: int = 400, seed: int = 0) -> list[Path]:
    """Write ROOT/<shop>/shots.csv and return the shops' folders.

    Raises
    ------
    StateError
        If the folder cannot be written.
    """
    folders = []
    for shop, (name, unlogged, shift, noise) in enumerate(SHOPS):
        rng = np.random.default_rng([seed, shop])
        table = _shots(rng, rows, shift=shift, noise=noise)
        for column in unlogged:
            del table[column]
        write_atomic(root / name / "shots.csv", _csv(table).encode())
        folders.append(root / name)
    return folders


def _shots(
    rng: np.random.Generator, rows: int, *, shift: float, noise: float
) -> dict[str, list[str]]:
    melt = rng.normal(235 + rng.uniform(-8, 8), 9, rows)
    speed = rng.normal(55 + rng.uniform(-10, 10), 14, rows).clip(5, None)
    packing = rng.normal(60, 12, rows)
    cooling = rng.normal(14, 3, rows).clip(3, None)
    moisture = rng.gamma(2.0, 0.02, rows)
    cushion = rng.normal(5, 1.2, rows)
    supplier = rng.integers(0, len(SUPPLIERS), rows)
    filled = 1 / (1 + np.exp(-((melt - 222) / 6 + (speed - 40) / 12)))
    burnt = 1 / (1 + np.exp(-((melt - 248) / 4)))
    strength = (
        30
        + 22 * filled
        - 14 * burnt
        + 6 * np.tanh((packing - 50) / 12)
        - 60 * moisture
        - 1.5 * (cushion < 3.5)
        + 0.4 * (cooling - 14).clip(-4, 4)
        + np.array([0.0, 2.0, -3.0])[supplier]
        + shift
        + rng.normal(0, noise, rows)
    )
    numbers = {
        "melt_C": melt,
        "speed_mm_s": speed,
        "packing_MPa": packing,
        "cooling_s": cooling,
        "moisture": moisture,
        "cushion": cushion,
    }
    table = {name: [f"{value:.4g}" for value in values] for name, values in numbers.items()}
    table["supplier"] = [SUPPLIERS[one] for one in supplier]
    for name in ("cooling_s", "cushion", "moisture", "supplier"):
        for row in rng.choice(rows, rows // 25, replace=False):
            table[name][row] = ""
    table["strength_MPa"] = [f"{value:.2f}" for value in strength]
    return table


def _csv(table: dict[str, list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()
