"""Answers that were given: the same order again gets the same bytes, without training.

An answer is filed under (run, round, kind) with the release that it belongs to. The last few are
kept, so that a resumed centre may ask again and a replay changes nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np

from common.errors import UpdateError
from common.files import load_tensors, save_tensors
from common.orders import Order, Reply

KEPT = 3


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
        """
        path = self._path(order)
        if not path.exists():
            return None
        tensors, metadata = load_tensors(path)
        if metadata["order"] != _digest(order):
            raise UpdateError(
                f"round {order.round} of run {order.run} was answered for another order; "
                "a round is answered once"
            )
        return Reply.of(metadata["head"], tensors.get("update"))

    def put(self, order: Order, reply: Reply) -> None:
        """File an answer, before it is sent."""
        tensors = {} if reply.vector is None else {"update": reply.vector}
        metadata = {"head": reply.head(), "order": _digest(order)}
        save_tensors(self._path(order), tensors or {"empty": np.zeros(1, np.float32)}, metadata)
        filed = sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
        for old in filed[:-KEPT]:
            old.unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, order: Order) -> Path:
        return self.folder / f"{order.key}.safetensors"


def _digest(order: Order) -> str:
    """What makes two orders the same: everything but the time they allow."""
    same = f"{order.run}/{order.round}/{order.kind}/{order.release}/{','.join(order.cohort)}"
    return hashlib.sha256(same.encode()).hexdigest()
