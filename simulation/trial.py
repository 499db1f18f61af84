"""``flwr run .`` from a checkout: a small federation of two made-up plants, to see that all works.

`server.app` calls `prepare_trial`, which run-config names under ``prepare``, where nobody has
prepared a run folder. In a bundle that the centre submits, ``prepare`` is empty.
"""

from __future__ import annotations

from pathlib import Path

from common.config import FederationConfig, TrainingConfig
from simulation.factory import write_plants
from simulation.prepare import find_plants, prepare
from simulation.workers import Workers

PLANTS = 2  #: as many nodes as Flower's local simulation has by default

SETTINGS = FederationConfig(
    name="trial",
    backbone="squeezenet1_1",
    weights="none",
    image_size=32,
    rounds=2,
    device="cpu",
    training=TrainingConfig(epochs=2, head_epochs=10),
)


def prepare_trial(home: Path) -> None:
    """Make up plants in a run folder and prepare it.

    Raises
    ------
    TransferlineError
        If the folder cannot be written.
    """
    root = home / "images"
    write_plants(root, plants=PLANTS, images_per_class=20, size=32)
    with Workers(1) as workers:
        prepare(home, config=SETTINGS, base=home, data=find_plants(root), workers=workers)
