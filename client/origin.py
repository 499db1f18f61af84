"""Where a model comes from, as numbers that are the same at every start of the process.

The seed of everything random at a plant comes from (seed, moment, plant), never from a clock or
a node's number. A model's *basis* names all that it was made from, so that a stored one need not
be trained again, and a change of settings or data is not missed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel

from client.selection import judged, labelled
from client.tasks.data import PlantData
from common.config import FederationConfig
from common.orders import Release
from common.tasks import KINDS

#: Settings that change the bytes of a model, given the release that it starts from.
_USED: dict[str, Any] = {
    **dict.fromkeys(("backbone", "image_size", "mean", "std", "seed", "threads", "training"), True),
    "methods": {"l2sp", "personal_fine_tune"},
}
_ROUNDS_ONLY: dict[str, Any] = {"training": {"round_learning_rate"}}


def seed_of(config: FederationConfig, *, moment: int | str, plant: str) -> int:
    """Return the seed of one moment: a round, ``adopt``, or a method of a plant alone."""
    return int.from_bytes(_digest(f"{config.seed}/{moment}/{plant}")[:4], "little")


def basis(kind: str, *, release: Release, config: FederationConfig, data: PlantData) -> str:
    """Name what a whole model is made from: nothing else changes its bytes."""
    settings = config.model_dump_json(include=_USED, exclude=_ROUNDS_ONLY)
    names = [data.names[index] for index in labelled(data).tolist()]
    own = f"/{_own(config)}/{data.fingerprint}" if KINDS[config.task].section else ""
    text = f"{kind}/{release.hash}/{settings}/{names}/{judged_examples(data)}{own}"
    return _digest(text).hex()[:16]


def judged_examples(data: PlantData) -> str:
    """Name the labelled examples that evidence is about; only equal ones can be compared."""
    indices = judged(data)
    names = [data.names[index] for index in indices.tolist()]
    return _digest(f"{data.classes}/{names}/{data.targets[indices].tolist()}").hex()[:16]


def _own(config: FederationConfig) -> str:
    """Return the settings of the task itself, which change its models too."""
    section: BaseModel = getattr(config, KINDS[config.task].section)
    return f"{config.task}/{section.model_dump_json()}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
