"""The sum of a secure round without its masks: a control, which hides nothing.

The same fixed-point numbers are added, each update seen by the centre. A run under masks must give
the same releases bit for bit, whatever it was trained on; so what differs from a run in the clear
is the fixed point, and never the masks. `tests` and ``benchmarks/secure_sums.py`` hold it against
secure runs; nothing else asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from common.config import FederationConfig
from common.forms import Turn, linear_of
from common.orders import Kind, Reply
from common.secagg.encoding import Encoding, Packer, decode
from common.secagg.masks import add_masks
from common.update import Vector
from server import federation
from server.gathering import Asking, Fleet, Plain, collect
from server.summing.one_sum import SumMean
from server.tally import Tally


class Unmasked(Plain):
    """Adds what `server.summing.Summing` adds: no masks, no keys."""

    def hold(self, asking: Asking) -> Tally:
        if asking.order.kind is not Kind.TRAIN:
            return super().hold(asking)
        settings = self.config.secure_aggregation
        turn = Turn(run=asking.order.run, round=asking.order.round)
        form = linear_of(self.config.update, schema=asking.schema, turn=turn)
        encoding = Encoding(
            size=form.kept,
            bits=settings.bits,
            bound=settings.bound,
            max_weight=self.config.server.max_weight,
            plants=len(asking.order.cohort),
        )
        total = np.zeros(encoding.words, np.uint64)

        def count(reply: Reply, update: Vector | None) -> int:
            assert update is not None
            words = np.empty(encoding.words, np.uint64)
            packer = Packer(form.project(update), weight=reply.weight, encoding=encoding)
            add_masks(words, fill=packer.fill)
            np.add(total, words, out=total)
            return reply.weight

        tally = Tally(
            asking.order, asking.release, schema=asking.schema, config=self.config, count=count
        )
        collect(self.fleet.ask(asking.order, asking.release), into=tally, asking=asking)
        summed = decode(total, encoding=encoding, survivors=len(tally.done))
        tally.mean = SumMean(total=summed, form=form)
        return tally


@contextmanager
def unmasked() -> Iterator[None]:
    """Let runs of this process that ask for secure aggregation add without masks."""

    def gather(config: FederationConfig, *, fleet: Fleet, **_: object) -> Unmasked:
        return Unmasked(fleet=fleet, config=config)

    with mock.patch.object(federation, "gathering_for", gather):
        yield
