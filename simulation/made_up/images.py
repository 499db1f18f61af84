"""The demo's images: four plants of `simulation.factory`.

Random weights, hence a small network, large steps and batch statistics of its own. Not a recipe
for real images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulation.factory import GOOD, name_of, write_plants

PLANTS = 4

IMAGES: dict[str, Any] = {
    "name": "demo",
    "backbone": "shufflenet_v2_x0_5",
    "weights": "none",
    "image_size": 64,
    "rounds": 10,
    "local_epochs": 4,
    "labels_per_class": 24,
    "training": {
        "learning_rate": 2e-3,
        "round_learning_rate": 2e-3,
        "head_learning_rate": 3e-3,
        "head_epochs": 100,
        "batch_norm": "train",
        "epochs": 40,
        "patience": 40,
    },
    "plants": {name_of(plant): {"good": GOOD} for plant in range(PLANTS)},
}


def write_images(root: Path) -> list[Path]:
    """Write the plants' image folders and return them."""
    return write_plants(root, plants=PLANTS, images_per_class=64)
