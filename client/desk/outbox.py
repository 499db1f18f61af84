"""Answers that were given: the same order again gets the same bytes, without training.

An answer is filed under (run, round, kind) with the order that it belongs to. The last few are
kept, so that a resumed centre may ask again and a replay changes nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from common.errors import StateError, UpdateError
from common.files import load_tensors, save_tensors
from common.orders import Order, Reply

KEPT = 3

#: Settings that only the centre uses: a resumed one may have changed them.
_CENTRE = {"name", "rounds", "min_plants", "fraction", "round_deadline", "server", "plants"}


class Outbox:
    """The answers of one plant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, order: Order) -> Reply | None:
        """Return the answer to this very order, or None if it was not answered yet.

        Raises
        ------
        UpdateError
            If another order was answered for the same run and round.
        StateError
            If the answer on disk is damaged.
        """
        path = self._path(order)
        if not path.exists():
            return None
        tensors, metadata = load_tensors(path)
        try:
            if metadata["order"] != order_digest(order):
                raise UpdateError(
                    f"round {order.round} of run {order.run} was answered for another order; "
                    "a round is answered once"
                )
            return Reply.of(metadata["head"], _bytes(tensors.get("update")))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"{path} is damaged: {error!r}; restore it from a backup") from error

    def put(self, order: Order, reply: Reply) -> None:
        """File an answer, before it is sent.

        Raises
        ------
        StateError
            If the folder cannot be written.
        """
        payload = reply.payload
        tensors = {} if payload is None else {"update": np.frombuffer(payload, np.uint8)}
        metadata = {"head": reply.head(), "order": order_digest(order)}
        save_tensors(self._path(order), tensors, metadata)
        filed = sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        for old in filed[:-KEPT]:
            old.unlink(missing_ok=True)

    def drop(self, order: Order) -> None:
        """Forget an answer that cannot be read; the order is then worked out again."""
        self._path(order).unlink(missing_ok=True)

    def _path(self, order: Order) -> Path:
        """Return the place of an answer; the run's name comes from outside and stays one name."""
        return self.folder / f"{quote(order.key, safe='')}.safetensors"


def _bytes(filed: npt.NDArray[Any] | None) -> bytes | None:
    """Return what was filed; before there were forms it was filed as float32 values."""
    return None if filed is None else filed.tobytes()


def order_digest(order: Order) -> str:
    """Digest what the answer depends on: all but the time allowed and the centre's own settings."""
    config = order.config.model_dump_json(exclude=_CENTRE)
    if order.config.privacy.unit == "plant":
        # By these the noise of an update that is kept was sized (`client.protection`).
        config += f"/{order.config.min_plants}/{order.config.server.max_weight}"
    same = (
        f"{order.run}/{order.round}/{order.kind}/{order.release}/{','.join(order.cohort)}/{config}"
    )
    return hashlib.sha256(same.encode()).hexdigest()
