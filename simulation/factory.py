"""Made-up plants: each makes another product, and finds some of the same four kinds of defect.

For the demo, the tests and a first try, where no real images are at hand. Every plant has its
own material, colour, light and camera, and "good" with three of the four defects of
`simulation.surfaces`; so classes differ from plant to plant while what must be learned is alike.
The same seed gives the same pictures.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import ConfigError, DataError
from common.files import unwritable
from common.terminal import progress
from simulation.surfaces import DEFECTS, Pixels, Surface, draw

GOOD = "good"

#: Product, material, colour: what the first plants make; later ones begin again with other light.
PRODUCTS = (
    ("steel", "brushed", (0.62, 0.64, 0.68)),
    ("casting", "cast", (0.42, 0.41, 0.40)),
    ("enamel", "peel", (0.74, 0.30, 0.26)),
    ("veneer", "grained", (0.72, 0.54, 0.36)),
    ("tile", "speckled", (0.66, 0.65, 0.60)),
    ("fabric", "woven", (0.34, 0.44, 0.58)),
    ("rubber", "cast", (0.24, 0.24, 0.26)),
    ("panel", "peel", (0.32, 0.52, 0.44)),
)


def name_of(plant: int) -> str:
    """Return the name of the plant with this index: ``steel``, ..., ``steel-2``, ..."""
    again, product = divmod(plant, len(PRODUCTS))
    name = PRODUCTS[product][0]
    return name if again == 0 else f"{name}-{again + 1}"


def classes_of(plant: int) -> tuple[str, ...]:
    """Return the classes of the plant with this index: good, and all defects but one."""
    defects = list(DEFECTS)
    del defects[plant % len(defects)]
    return (GOOD, *defects)


def surface_of(plant: int, *, seed: int) -> Surface:
    """Return how the plant with this index looks."""
    rng = np.random.default_rng([seed, plant])
    _, material, colour = PRODUCTS[plant % len(PRODUCTS)]
    brightness = rng.uniform(0.9, 1.1)
    red, green, blue = (float(brightness * part * rng.uniform(0.98, 1.02)) for part in colour)
    return Surface(
        material=material,
        colour=(red, green, blue),
        contrast=rng.uniform(0.05, 0.11),
        roughness=rng.uniform(0.08, 0.22),
        scale=rng.uniform(0.8, 1.3),
        angle=rng.uniform(0, np.pi),
        light=rng.uniform(0, 2 * np.pi),
        relief=rng.uniform(0.45, 0.85),
        falloff=rng.uniform(0.1, 0.5),
        gamma=rng.uniform(0.75, 1.15),
        noise=rng.uniform(0.01, 0.03),
        blur=rng.uniform(0.3, 0.7),
    )


def write_plants(
    root: Path,
    *,
    plants: int,
    images_per_class: int = 60,
    good_images: int | None = None,
    size: int = 96,
    seed: int = 0,
) -> list[Path]:
    """Write plants as image folders ROOT/<plant>/<class>/*.png and return the plants' folders.

    Parameters
    ----------
    good_images : of good parts; None: as many as of every other class.
    size : side of the pictures, pixels; defects scale with it.

    Raises
    ------
    ConfigError
        If a number is out of range.
    DataError
        If a plant's folder is there already.
    StateError
        If the folder cannot be written.
    """
    for key, value, low, high in (
        ("plants", plants, 1, 256),
        ("images_per_class", images_per_class, 1, 100_000),
        ("good_images", good_images or images_per_class, 1, 100_000),
        ("size", size, 32, 1024),
        ("seed", seed, 0, 2**32),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{key} must be a whole number from {low} to {high}, got {value}")
    folders = [root / name_of(plant) for plant in range(plants)]
    for folder in folders:
        if folder.exists():
            raise DataError(f"{folder} must not be there yet; remove it or choose another folder")
    with progress("drawing", total=plants * len(classes_of(0))) as advance:
        for plant, folder in enumerate(folders):
            part = folder.with_name(f".{folder.name}.part")
            try:
                shutil.rmtree(part, ignore_errors=True)
                for label in classes_of(plant):
                    (part / label).mkdir(parents=True)
                    wanted = images_per_class if label != GOOD else good_images
                    for number in range(wanted or images_per_class):
                        picture = picture_of(plant, label, number=number, size=size, seed=seed)
                        Image.fromarray(picture).save(part / label / f"{label}-{number:04d}.png")
                    advance(folder.name)
                os.replace(part, folder)
            except OSError as error:
                raise unwritable(folder, error) from error
    return folders


def picture_of(plant: int, label: str, *, number: int, size: int, seed: int) -> Pixels:
    """Draw the picture of this number of a class of a plant; uint8, shape (size, size, 3)."""
    kind = (GOOD, *DEFECTS).index(label)
    rng = np.random.default_rng([seed, plant, kind, number])
    return draw(surface_of(plant, seed=seed), label, size=size, rng=rng)
