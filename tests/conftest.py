"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from PIL import Image

from common.config import FederationConfig, TrainingConfig

Pixels = npt.NDArray[np.float64]

# No deadline: the machine may be busy, and a slow example is not a wrong one.
settings.register_profile("transferline", deadline=None, max_examples=50, print_blob=True)
settings.load_profile("transferline")

torch.set_num_threads(1)

HERE = Path(__file__).resolve().parent


def real_folder() -> Path:
    """Return where real industrial data is looked for: ``images/<product>/<class>/*``."""
    told = os.environ.get("TRANSFERLINE_DATA")
    return Path(told) if told else HERE.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real industrial data: ``images/<product>/<class>/*``, ``weights/*``."""
    folder = real_folder()
    if not (folder / "images").is_dir():
        pytest.skip(f"no real data in {folder}; set TRANSFERLINE_DATA to a folder with images/")
    return folder


#: Plants of `small_plants`: each class is a way to paint 32 × 32 pixels, from 0 to 255.
SMALL: dict[str, dict[str, Callable[[Pixels, Pixels], Pixels]]] = {
    "ash": {
        "dark": lambda x, y: 60 + 0 * x,
        "light": lambda x, y: 190 + 0 * x,
    },
    "elm": {
        "across": lambda x, y: 128 + 70 * np.sign(np.sin(y)),
        "plain": lambda x, y: 128 + 0 * x,
        "upright": lambda x, y: 128 + 70 * np.sign(np.sin(x)),
    },
    "oak": {
        "light": lambda x, y: 170 + 0 * x,
        "spotted": lambda x, y: 170 - 120 * (np.hypot(x - 16, y - 16) < 9),
    },
}


@pytest.fixture(scope="session")
def small_plants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return ROOT with three plants of 14 PNG files a class: ``ROOT/<plant>/<class>/<n>.png``."""
    root = tmp_path_factory.mktemp("small-plants")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32].astype(np.float64)
    for plant, classes in SMALL.items():
        for name, paint in classes.items():
            folder = root / plant / name
            folder.mkdir(parents=True)
            for number in range(14):
                grey = paint(x, y)[..., None] + rng.normal(0, 12, (32, 32, 3))
                picture = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
                picture.save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def small_config() -> FederationConfig:
    """Return settings with which a plant of `small_plants` trains in a fraction of a second."""
    return FederationConfig(
        name="small",
        backbone="shufflenet_v2_x0_5",
        weights="none",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_size=32,
        rounds=2,
        local_epochs=1,
        local_steps=0,
        device="cpu",
        training=TrainingConfig(epochs=2, head_epochs=20),
    )
