"""The plants of `tests.conftest.small_plants`, for programs that are no tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import SMALL


def write_plants(root: Path, *, images: int = 14) -> None:
    """Write ``ROOT/<plant>/<class>/<n>.png``, the same images each time."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32].astype(np.float64)
    for plant, classes in SMALL.items():
        for name, paint in classes.items():
            folder = root / plant / name
            folder.mkdir(parents=True)
            for number in range(images):
                grey = paint(x, y)[..., None] + rng.normal(0, 12, (32, 32, 3))
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
