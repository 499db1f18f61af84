"""Plants of the end-to-end tests: images of real products, painted ones where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.conftest import real_folder

PRODUCTS = ("magnetic_tile", "neu_steel", "wood_board", "elpv_mono")
CLASSES, IMAGES = 3, 14  #: of a product, and of each class


def products(root: Path, names: Sequence[str], *, painted: Path) -> Path:
    """Fill an empty folder with a plant for each name, and return it.

    Parameters
    ----------
    painted : with ``<plant>/<class>/*``, taken where the real data is not there; a plant that it
        lacks gets the first one's.
    """
    root.mkdir()
    real = real_folder() / "images"
    for name, product in zip(names, PRODUCTS, strict=False):
        if not real.is_dir():
            shown = painted / name
            (root / name).symlink_to(shown if shown.exists() else painted / names[0])
            continue
        for folder in sorted((real / product).iterdir())[:CLASSES]:
            (root / name / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:IMAGES]:
                (root / name / folder.name / image.name).symlink_to(image.resolve())
    return root


def real_backbone(federation: str) -> str:
    """Return settings with MobileNetV2 from ImageNet, at 64 pixels; as they are without weights."""
    weights = real_folder() / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not weights.is_file():
        return federation
    for old, new in (
        ('"shufflenet_v2_x0_5"', '"mobilenet_v2"'),
        ('weights = "none"', f'weights = "{weights.resolve()}"'),
        ("image_size = 32", "image_size = 64"),  # at 32 its features die, and no update moves
        ("local_steps = 40", "local_steps = 8"),
    ):
        assert old in federation, old
        federation = federation.replace(old, new)
    return federation
