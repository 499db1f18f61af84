"""Made-up machines with worn bearings: vibration for the demo of fault diagnosis.

A spall in a bearing knocks once for each ball that rolls over it, and each knock rings at the
housing's resonance (McFadden and Smith, "Model for the vibration produced by a single point defect
in a rolling element bearing", Journal of Sound and Vibration 96(1), 1984). How often it knocks in a
revolution tells where the spall is. Every plant has its own shaft speed, resonance and noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

RATE = 5120
WINDOW = 512
WINDOWS = 48  # in a recording, one recording a class

#: Knocks a revolution of the shaft; of a good bearing none.
FAULTY: Mapping[str, float] = {"good": 0.0, "outer_race": 3.58, "inner_race": 5.42, "ball": 4.71}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is a plant's own: revolutions a minute, resonance in Hz, noise against the knocks."""

    rpm: float
    resonance: float
    noise: float


MACHINES: Mapping[str, Machine] = {
    "plant-1": Machine(rpm=1480, resonance=1150, noise=0.45),
    "plant-2": Machine(rpm=1530, resonance=1350, noise=0.5),
    "plant-3": Machine(rpm=1600, resonance=950, noise=0.4),
    "plant-4": Machine(rpm=1440, resonance=1250, noise=0.55),
}

FAULTS: dict[str, Any] = {
    "name": "demo: bearings",
    "task": "series-classification",
    "backbone": "wdcnn",
    "rounds": 10,
    "local_epochs": 4,
    "labels_per_class": 16,
    "series": {
        "channels": ["vibration"],
        "rate": float(RATE),
        "window": WINDOW,
        "front": "none",
    },
    "training": {
        "learning_rate": 2e-3,
        "round_learning_rate": 2e-3,
        "head_learning_rate": 3e-3,
        "head_epochs": 100,
        "batch_norm": "train",
        "epochs": 40,
        "patience": 40,
    },
    "plants": {name: {"good": "good"} for name in MACHINES},
}


def write_machines(root: Path) -> list[Path]:
    """Write the plants' folders of recordings and return them."""
    folders = []
    for place, (name, machine) in enumerate(MACHINES.items()):
        for number, (fault, knocks) in enumerate(FAULTY.items()):
            rng = np.random.default_rng([place, number])
            folder = root / name / fault
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(
                folder / "recording.npz",
                vibration=record(machine, knocks, samples=WINDOW * WINDOWS, rng=rng),
                rate=np.float64(RATE),
                rpm=np.float64(machine.rpm),
            )
        folders.append(root / name)
    return folders


def record(
    machine: Machine, knocks: float, *, samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return a recording of one channel, shape (samples,)."""
    time = np.arange(samples) / RATE
    turn = machine.rpm / 60
    signal = 0.3 * np.sin(2 * np.pi * turn * time + rng.uniform(0, 6.3))
    signal += machine.noise * rng.normal(size=samples)
    if knocks:
        # Balls slip: no two knocks are quite equally far apart.
        gaps = rng.normal(1, 0.02, int(samples / RATE * turn * knocks) + 2) / (turn * knocks)
        hits = np.zeros(samples)
        places = (np.cumsum(gaps) * RATE).astype(int)
        places = places[places < samples]
        hits[places] = rng.normal(1.5, 0.2, len(places))
        ring = np.arange(80) / RATE
        response = np.exp(-ring * 400) * np.sin(2 * np.pi * machine.resonance * ring)
        signal += np.convolve(hits, response)[:samples]
    return np.asarray(signal, dtype=np.float32)
