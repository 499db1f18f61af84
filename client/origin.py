"""Where a model comes from, as numbers that are the same at every start of the process.

The seed of everything random at a plant comes from (seed, moment, plant), never from a clock or
a node's number. A model's *basis* names all that it was made from, so that a stored one need not
be trained again, and a change of settings or data is not missed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from client.selection import judged, labelled
from client.tasks.images import ImageData
from common.config import FederationConfig
from common.orders import Release

#: Settings that change the bytes of a model, given the release that it starts from.
_USED: dict[str, Any] = {
    **dict.fromkeys(("backbone", "image_size", "mean", "std", "seed", "threads", "training"), True),
    "methods": {"l2sp", "personal_fine_tune"},
}
_ROUNDS_ONLY: dict[str, Any] = {"training": {"round_learning_rate"}}


def seed_of(config: FederationConfig, *, moment: int | str, plant: str) -> int:
    """Return the seed of one moment: a round, ``adopt``, or a method of a plant alone."""
    return int.from_bytes(_digest(f"{config.seed}/{moment}/{plant}")[:4], "little")


def basis(kind: str, *, release: Release, config: FederationConfig, data: ImageData) -> str:
    """Name what a whole model is made from: nothing else changes its bytes."""
    settings = config.model_dump_json(include=_USED, exclude=_ROUNDS_ONLY)
    names = [data.files[index] for index in labelled(data).tolist()]
    return _digest(f"{kind}/{release.hash}/{settings}/{names}/{judged_images(data)}").hex()[:16]


def judged_images(data: ImageData) -> str:
    """Name the labelled images that evidence is about; only equal ones can be compared."""
    indices = judged(data)
    names = [data.files[index] for index in indices.tolist()]
    return _digest(f"{data.classes}/{names}/{data.labels[indices].tolist()}").hex()[:16]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
