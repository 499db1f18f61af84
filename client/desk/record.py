"""What goes on record of each order before its answer is given: the ledger's entry, the log's line.

An answer that cannot be recorded is not given. A refusal is an answer too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from client.desk.ledger import Answer, Ledger
from client.desk.worker import StoppedError
from common.errors import AggregationError, PolicyError, StateError, TransferlineError, UpdateError
from common.orders import Order, Outcome, Reply
from common.tasks import told
from common.wire.parts import Parts

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Job:
    """One order that is worked out, for all who ask for it.

    Attributes
    ----------
    parts : the order as it came; None once it is not needed any more.
    beside : what came with it for a secure sum; "" without one.
    arrived : seconds on the monotonic clock.
    seconds : that it may take from there on.
    why : reason for which it is not to be worked out any more.
    reply : its answer, an update in the clear.
    sent : what goes out, the update under the masks of ``beside``.
    """

    order: Order
    digest: str
    parts: Parts | None
    beside: str
    received: int
    arrived: float
    seconds: float
    why: str = ""
    reply: Reply | None = None
    sent: Reply | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Record:
    """Puts a plant's answers on record.

    Parameters
    ----------
    now : local time, aware.
    """

    def __init__(self, *, plant: str, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._plant = plant
        self._ledger, self._now = ledger, now

    def put(
        self,
        job: Job,
        reply: Reply,
        *,
        repeated: bool = False,
        facts: dict[str, Any] | None = None,
    ) -> Reply:
        """Put an answer on record and in the log; one that cannot be recorded is not given.

        Parameters
        ----------
        reply : as it leaves the plant, under masks if it does so.
        repeated : it was given before, and nothing was trained for it.
        """
        order = job.order
        entry = Answer(
            at=self._now(),
            run=order.run,
            round=order.round,
            kind=str(order.kind),
            release=order.release,
            digest=job.digest,
            repeated=repeated and reply.outcome is Outcome.DONE,
            outcome=str(reply.outcome),
            reason=reply.reason,
            head=replace(reply, beside="").head(),
            received=job.received,
            sent=len(reply.head()) + len(reply.payload or b""),
            seconds=round(time.monotonic() - job.arrived, 3),
        )
        try:
            if not self._told(entry):
                self._ledger.add(entry, facts=facts)
        except StateError as error:
            return self.refusal(order, error)
        _tell(entry, facts or {})
        return reply

    def _told(self, entry: Answer) -> bool:
        """Whether the newest entry says the same refusal: who asks again and again adds nothing."""
        last = self._ledger.last()
        return (
            entry.outcome == Outcome.DECLINED
            and last is not None
            and (last.digest, last.outcome, last.reason)
            == (entry.digest, entry.outcome, entry.reason)
        )

    def refusal(self, order: Order, error: TransferlineError) -> Reply:
        """Return the answer that an error is: what the policy says in words, else a code."""
        log.warning("round %d of %s: %s", order.round, order.run, error)
        told = isinstance(error, PolicyError | StoppedError | AggregationError)
        declined = isinstance(error, PolicyError | UpdateError | AggregationError)
        return Reply(
            plant=self._plant,
            run=order.run,
            round=order.round,
            release=order.release,
            outcome=Outcome.DECLINED if declined else Outcome.FAILED,
            reason=_words(error) if told else error.code,
        )


def _words(error: TransferlineError) -> str:
    """Return what the operator reads: of a sum with its code, by which the centre counts it."""
    return f"{error.code}: {error}" if isinstance(error, AggregationError) else str(error)


def _tell(entry: Answer, facts: dict[str, Any]) -> None:
    """Write the round's line into the log."""
    what = "answered again" if entry.repeated else entry.outcome
    line = f"round {entry.round} of {entry.run}: {what} after {entry.seconds:.1f} s"
    if training := facts.get("training"):
        line += (
            f", trained {training['seconds']:.1f} s at {training['images_per_second']:g} examples/s"
        )
    stages = ("incoming", "trained", "tuned", "deployed")
    found = {stage: told(entry.scores.get(stage, {})) for stage in stages}
    shown = [f"{stage} {score[1]:.3f}" for stage, score in found.items() if score is not None]
    if shown:
        word = next(score[0].word for score in found.values() if score is not None)
        line += f", {word} {', '.join(shown)}"
    log.info("%s, sent %.1f MB", line, entry.sent / 1e6)
