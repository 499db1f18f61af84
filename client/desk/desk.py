"""What the daemon does with an order, whatever carried it here: the heart of the plant's own say.

Seal first, then the terms of a secure sum (`client.desk.sums`), then the outbox (an order that was
answered gets the same bytes, at any hour; under fresh masks, if it is summed again), then the
ledger (an order from before the newest answered one of its run is a replay, and so is an answered
one of a run before the newest), then the policy, then the worker, then the masks. Everything
answered is on record before it is sent. One order is worked on at a time; who asks for the same
meanwhile waits for the same answer, and nobody has to wait for it to be worked out.

Covered: replays, also after a restart; orders outside the policy; training that hangs or dies; an
order that the centre has given up for a later one. Not covered: a link that withholds orders or
replies; the round closes without this plant.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from client.desk.contributions import Contributions
from client.desk.ledger import Ledger
from client.desk.outbox import Outbox, order_digest
from client.desk.peers import Peers
from client.desk.policy import DAY, Situation, allow, seconds_allowed
from client.desk.record import Job, Record
from client.desk.spending import Spending
from client.desk.sums import Sums, limits_of
from client.desk.worker import StoppedError, Worker
from client.identity import Identity
from common.config import load_plant
from common.errors import (
    EngineError,
    PolicyError,
    StateError,
    TransferlineError,
    UpdateError,
)
from common.orders import Order, Outcome, Reply
from common.secagg.limits import Limits
from common.wire.messages import pack_reply, pack_said, read_order, unpack_reply
from common.wire.parts import Parts
from common.wire.seals import open_call, open_order, seal_reply

log = logging.getLogger(__name__)

LOOK = 0.5  #: seconds between two looks whether the caller is still there
COPIES = 4  #: an answer takes at most so many times the release's bytes on disk, leftovers included


class ClosedError(EngineError):
    """The daemon is being stopped: the order is to be handed in again."""


class Desk:
    """Answers orders for one plant.

    Parameters
    ----------
    folder : the plant's.
    now : local time, aware.
    ended : called when the thread that works ends, for whatever reason.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: Identity,
        ledger: Ledger,
        worker: Worker,
        now: Callable[[], datetime],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._ledger = ledger
        self._worker = worker
        self._now = now
        self._ended = ended
        self._outbox = Outbox(folder / "outbox")
        self._settings = load_plant(folder / "plant.toml")
        self._plant = self._settings.name
        self._peers = Peers(ledger=ledger)
        self._sums = Sums(
            name=self._plant,
            federation=identity.papers.certificate.federation,
            papers=lambda: (identity.papers.signer, identity.papers.trust),
            limits=self._limits,
            record=Contributions(ledger=ledger),
            charged=Spending(folder).contributions,
            now=now,
            strangers=self._peers.wait,
        )
        self._record = Record(plant=self._plant, ledger=ledger, now=now)
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._current: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="desk", daemon=True)

    @property
    def bandwidth(self) -> float | None:
        """Most megabytes a second between daemon and link."""
        return self._settings.policy.bandwidth

    def start(self) -> None:
        """Begin to work; the training process is made warm."""
        self._thread.start()

    def close(self) -> None:
        """Stop working; who waits gets `ClosedError`."""
        with self._lock:
            self._closed = True
        self._sums.close()
        self._worker.close()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def answer(self, parts: Parts, *, listening: Callable[[], bool]) -> Parts | None:
        """Answer one order, signed.

        Parameters
        ----------
        listening : whether the caller still waits.

        Returns
        -------
        The reply, or None if the caller went away; what was begun goes on.

        Raises
        ------
        IdentityError, UpdateError
            If the centre did not sign this order, or it is none.
        ClosedError
            If the daemon is being stopped.
        """
        papers = self._identity.papers
        order, _, nonce = open_order(parts, trust=papers.trust, at=self._now())
        beside = read_order(parts.head)[1]
        reply = self._reply(order, beside, parts, listening)
        del parts
        if reply is None:
            return None
        return seal_reply(pack_reply(reply), reply, nonce=nonce, signer=papers.signer)

    def call(self, parts: Parts) -> Parts:
        """Answer a small message of a secure sum.

        Raises
        ------
        IdentityError, UpdateError, AggregationError
            If the centre did not sign this for this plant, or it is none.
        """
        trust = self._identity.papers.trust
        call = open_call(parts, plant=self._plant, trust=trust, at=self._now())
        self._settings = load_plant(self._folder / "plant.toml")
        return pack_said(self._sums.call(call))

    def _limits(self) -> Limits:
        papers = self._identity.papers
        return limits_of(
            self._settings.policy,
            accepted=self._peers.accepted(),
            own=papers.certificate.fingerprint,
        )

    def _masked(self, order: Order, beside: str, reply: Reply) -> Reply:
        """Return what is sent in place of an update; what is kept here stays in the clear."""
        try:
            return self._sums.mask(order, beside, reply)
        except TransferlineError as error:
            return self._record.refusal(order, error)

    def _reply(
        self, order: Order, beside: str, parts: Parts, listening: Callable[[], bool]
    ) -> Reply | None:
        """Return the answer: kept, a refusal, or of a job that is waited for."""
        with self._lock:
            if self._closed:
                raise ClosedError("the daemon is being stopped; hand the order in again")
            job = Job(
                order=order,
                digest=order_digest(order),
                parts=parts,
                beside=beside,
                received=len(parts.head) + len(parts.seal) + len(parts.vector or b""),
                arrived=time.monotonic(),
                seconds=0.0,
            )
            if (running := self._jobs.get(job.digest)) is not None:
                job = running
            elif (reply := self._at_once(job)) is not None:
                return reply
            else:
                self._give_way(order)
                self._jobs[job.digest] = job
                self._queue.put(job)
        del parts
        while not job.done.wait(LOOK):
            if not listening():
                return None
        if job.reply is None or job.sent is None:
            raise ClosedError("the daemon is being stopped; hand the order in again")
        if job.beside == beside:
            return job.sent
        # It was asked for again, for another sum: the same update under other masks.
        return self._record.put(job, self._masked(order, beside, job.reply), repeated=True)

    def _at_once(self, job: Job) -> Reply | None:
        """Return an answer that takes no work, on record; None if the order is to be worked out."""
        order = job.order
        try:
            self._sums.examine(order, job.beside)
            if (kept := self._kept(order)) is not None:
                known = self._ledger.digest_of(order.run, order.round, kind=str(order.kind))
                sent = self._masked(order, job.beside, kept)
                return self._record.put(job, sent, repeated=known is not None)
            self._settings = load_plant(self._folder / "plant.toml")
            self._check(order, job.digest)
            allow(order, self._settings.policy, situation=self._situation(job.received))
            if why := Spending(self._folder).objection(order, self._settings.policy):
                raise PolicyError(why)
            job.seconds = seconds_allowed(order, self._settings.policy, now=self._now())
        except TransferlineError as error:
            return self._record.put(job, self._record.refusal(order, error))
        return None

    def _kept(self, order: Order) -> Reply | None:
        """Return the answer in the outbox; one that cannot be read is worked out again."""
        try:
            return self._outbox.find(order)
        except StateError as error:
            log.warning("%s; it is worked out again", error)
            self._outbox.drop(order)
            return None

    def _check(self, order: Order, digest: str) -> None:
        """Refuse what is not for this plant, and what is a replay."""
        if self._plant not in order.cohort:
            raise UpdateError(f"order must name this plant in its cohort, got {order.cohort}")
        newest = self._ledger.newest_round(order.run)
        if newest is not None and order.round < newest:
            raise PolicyError(
                f"round must be {newest} or later in run {order.run}, got {order.round}, which is "
                "over at this plant"
            )
        known = self._ledger.digest_of(order.run, order.round, kind=str(order.kind))
        if known not in (None, digest):
            raise UpdateError(
                f"round {order.round} of run {order.run} was answered for another order; a round "
                "is answered once"
            )
        # Of the newest run the kept answer may have been lost, and is worked out again.
        if known is not None and order.run != self._ledger.newest_run():
            raise PolicyError(
                f"run must be the newest at this plant for a round that was answered, got "
                f"{order.run}, which is over here"
            )

    def _situation(self, received: int) -> Situation:
        now = self._now()
        return Situation(
            now=now,
            rounds=self._ledger.rounds_since(now - DAY),
            disk=shutil.disk_usage(self._folder).free,
            needed=COPIES * received,
        )

    def _give_way(self, order: Order) -> None:
        """Drop work that the centre has gone on from: a later round, or a run never seen here."""
        for job in self._jobs.values():
            same = job.order.run == order.run
            later = order.round > job.order.round
            if later if same else self._ledger.newest_round(order.run) is None:
                job.why = f"stopped for round {order.round} of run {order.run}"
                job.parts = None
                if job is self._current:
                    self._worker.stop(job.why)

    def _serve(self) -> None:
        """Work out jobs one after the other; this thread lives as long as the worker may."""
        try:
            self._worker.warm()
            while (job := self._queue.get()) is not None and not self._closed:
                self._work(job)
                del job  # and with it the vectors
                self._worker.warm()
        finally:
            with self._lock:
                self._closed = True
                for left in self._jobs.values():
                    left.done.set()
            self._worker.end()
            self._ended()

    def _work(self, job: Job) -> None:
        facts: dict[str, Any] = {}
        with self._lock:
            self._current = job
        try:
            reply, facts = self._ask(job)
        except TransferlineError as error:
            if self._closed:
                return
            reply = self._record.refusal(job.order, error)
        finally:
            job.parts = None
            with self._lock:
                self._current = None
        sent = self._masked(job.order, job.beside, reply)
        if reply.outcome is Outcome.DONE and sent.outcome is not Outcome.DONE:
            sent = replace(sent, outcome=Outcome.FAILED)  # it was trained, and counts for the day
        sent = self._record.put(job, sent, facts={**facts, **self._state(None)})
        with self._lock:
            job.reply, job.sent = reply, sent
            del self._jobs[job.digest]
        job.done.set()

    def _ask(self, job: Job) -> tuple[Reply, dict[str, Any]]:
        """Let the worker answer; if it dies, a fresh one once more, to the same bytes."""
        try:
            return self._attempt(job)
        except EngineError as error:
            log.warning("round %d of %s: %s; once more", job.order.round, job.order.run, error)
            return self._attempt(job)

    def _attempt(self, job: Job) -> tuple[Reply, dict[str, Any]]:
        """Let the worker answer, within what is left of the time."""
        left = job.arrived + job.seconds - time.monotonic()
        parts = job.parts
        if parts is None:
            raise StoppedError(job.why)
        if left <= 0:
            raise StoppedError(f"stopped after {job.seconds:.0f} s, waiting for another order")
        self._ledger.note(self._state(job), at=self._now())
        result = self._worker.work(
            parts,
            seconds=left,
            unwanted=lambda: job.why,
            gpu_memory_share=self._settings.policy.gpu_memory_share,
        )
        return unpack_reply(result.parts), result.facts

    def _state(self, job: Job | None) -> dict[str, Any]:
        """Return the facts of this moment."""
        disk = shutil.disk_usage(self._folder)
        work = None
        if job is not None:
            order = job.order
            work = {"run": order.run, "round": order.round, "kind": str(order.kind)}
            work["since"] = self._now().isoformat(timespec="seconds")
        worker = self._worker
        return {
            "work": work,
            "queue": self._queue.qsize(),
            "worker": {"pid": worker.pid, "starts": worker.starts, "killed": worker.killed},
            "disk": {"free": disk.free, "total": disk.total},
        }
