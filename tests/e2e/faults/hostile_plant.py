"""``transferline-plant`` whose replies are spoiled just before they are signed.

What is wrong with the next reply is read from ``spoil`` in the plant's folder, so that it can be
changed while the plant runs. All else is the real program: a plant that is broken or hostile signs
its bad replies properly.

    python hostile_plant.py up FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import client.desk.desk as desk
from client.cli import main
from common.orders import Reply

FILE = "spoil"


def vector_of(reply: Reply) -> np.ndarray:
    assert reply.payload is not None
    return np.frombuffer(reply.payload, np.float32).copy()


def with_nan(reply: Reply) -> Reply:
    vector = vector_of(reply)
    vector[len(vector) // 2] = np.nan
    return replace(reply, payload=vector.tobytes())


def resized(reply: Reply, *, to: float) -> Reply:
    vector = vector_of(reply)
    return replace(reply, payload=np.resize(vector, int(len(vector) * to)).tobytes())


SPOILERS: dict[str, Callable[[Reply], Reply]] = {
    "nan": with_nan,
    "form": lambda reply: replace(reply, payload=vector_of(reply)[:-1].tobytes()),
    "names": lambda reply: replace(reply, schema="0" * 64),
    "negative": lambda reply: replace(reply, weight=-5),
    "huge": lambda reply: replace(reply, weight=10**15),
    "norm": lambda reply: replace(reply, payload=(vector_of(reply) * 1e6).tobytes()),
    "oversized": lambda reply: resized(reply, to=40.0),
    "other": lambda reply: replace(reply, plant="elm"),
}


def spoiled(reply: Reply) -> Reply:
    """Return the reply as the file says."""
    path = Path(sys.argv[2]) / FILE
    kind = path.read_text().strip() if path.exists() else ""
    return SPOILERS[kind](reply) if kind and reply.payload is not None else reply


def spoil() -> None:
    """Put ourselves between the desk and its signature."""
    pack, seal = desk.pack_reply, desk.seal_reply
    desk.pack_reply = lambda reply: pack(spoiled(reply))

    def sealed(parts: Any, reply: Reply, **how: Any) -> Any:
        return seal(parts, spoiled(reply), **how)

    desk.seal_reply = sealed


if __name__ == "__main__":
    spoil()
    main()
