"""The demo's good parts: four plants of `simulation.factory` with many of them and few defects.

Random weights, as nothing is downloaded; for real images start from ImageNet's. On these parts
random features tell nearly as much as those that the rounds train, so plants keep what they have:
fifteen real defects must vouch for a release, and they do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulation.factory import GOOD, name_of, write_plants

PLANTS = 4

ANOMALY: dict[str, Any] = {
    "name": "demo-anomaly",
    "task": "image-anomaly",
    "backbone": "shufflenet_v2_x0_5",
    "weights": "none",
    "image_size": 64,
    "rounds": 4,
    "local_epochs": 2,
    "local_steps": 0,
    "false_reject_budget": 0.05,
    "training": {
        "round_learning_rate": 2e-3,
        "learning_rate": 2e-3,
        "head_learning_rate": 1e-2,
        "batch_norm": "train",
        "epochs": 5,
    },
    "anomaly": {"memory": 500},
    "plants": {
        name_of(plant): {"good": GOOD, "anomaly": {"validation_defects": 15}}
        for plant in range(PLANTS)
    },
}


def write_anomaly(root: Path) -> list[Path]:
    """Write the plants' image folders and return them."""
    return write_plants(root, plants=PLANTS, images_per_class=20, good_images=160)
