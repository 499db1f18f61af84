"""Made-up machines and pumps are what their tasks read, and can be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.plant import Plant
from client.tasks import PlantData
from common.config import FederationConfig, PlantConfig
from simulation.made_up import DEMOS
from simulation.made_up.machines import FAULTY, MACHINES, RATE, record


def load(word: str, folder: Path) -> PlantData:
    demo = DEMOS[word]
    demo.write(folder / "data")
    config = FederationConfig.model_validate(demo.settings)
    settings = PlantConfig(name="plant-1", data=str(folder / "data" / "plant-1"), device="cpu")
    return Plant.create(folder / "plant", settings).data(config)


@pytest.mark.parametrize("word", ["series", "rul"])
def test_demo_is_read_whole(word: str, tmp_path: Path) -> None:
    data = load(word, tmp_path)

    assert not data.notes
    assert not data.skipped
    assert min(data.counts.values()) >= 20


def test_a_fault_knocks_as_often_as_it_says() -> None:
    """The envelope's spectrum has a line at the fault's frequency."""
    machine = MACHINES["plant-1"]
    for fault, knocks in FAULTY.items():
        if fault == "good":
            continue
        signal = record(machine, knocks, samples=RATE * 8, rng=np.random.default_rng(0))
        envelope = np.abs(signal - signal.mean())
        spectrum = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(signal))))
        hertz = np.fft.rfftfreq(len(signal), 1 / RATE)
        wanted = machine.rpm / 60 * knocks
        near = np.abs(hertz - wanted) < 2
        around = (np.abs(hertz - wanted) < 40) & ~near
        assert spectrum[near].max() > 2 * spectrum[around].max()


def test_sensors_tell_of_the_end() -> None:
    from simulation.made_up.engines import _rows

    rows = [row.split(",") for row in _rows(np.random.default_rng(0))]
    vibration = np.array([float(row[5]) for row in rows if row[2] == "0"])
    left = np.array([float(row[-1]) for row in rows if row[2] == "0"])

    assert vibration[left < 5].mean() > vibration[left > 60].mean()
