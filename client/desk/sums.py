"""The plant's part in secure sums: sessions in memory, from a call of the centre to the answer.

A session (`common.secagg.member.Session`) lives here, in the process that lives long, and nowhere
else: not on disk, not in the training process. That one gives its update in the clear; the masks
are added here, after it. At most two sessions are alive, that of the round and that of the next.

The same question gets the same answer, a masked update too, as long as its session is remembered:
messages get lost. A new attempt at a round is a new session with new keys, in which the kept update
may be sent again; how often, for one release, the plant says (`client.desk.contributions`).

Covered: a restart forgets every session, so the plant has dropped out of the open sum and answers
nothing of it; a call that names no session of this plant changes nothing; a session whose time is
over is erased. Not covered: a snapshot of this process's memory.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from common.config import PolicySection
from common.errors import AggregationError, PolicyError, TransferlineError
from common.orders import Kind, Order, Outcome, Reply
from common.pki import Trust
from common.secagg.limits import Limits, Record
from common.secagg.member import CONFIRM, UNMASK, Session
from common.secagg.messages import Beside, Call, Masked, Said, Setup
from common.secagg.roster import FEWEST, Roster
from common.secagg.terms import Terms
from common.secagg.transcript import SessionId
from common.signing import Signer

log = logging.getLogger(__name__)

ALIVE = 2  #: sessions: of the round, and of the next
THREADS = min(2, os.cpu_count() or 1)  #: that make masks, while training waits
LONGEST = 7 * 86400.0  #: seconds that a session may live, whatever the centre says


def limits_of(policy: PolicySection, *, accepted: frozenset[str], own: str) -> Limits:
    """Return what a plant demands of a sum.

    Parameters
    ----------
    accepted : fingerprints of the identities that it sums with, hex.
    own : its own.
    """
    known = len(accepted | {own})
    fewest = policy.sum_cohort or max(FEWEST, 2 * known // 3 + 1)
    return Limits(
        accepted=accepted,
        minimum_cohort=max(fewest, policy.minimum_cohort),
        bound=policy.sum_bound,
        bits=policy.sum_bits,
        max_weight=policy.sum_weight,
        contributions=policy.contributions_per_release,
    )


@dataclass(kw_only=True)
class Seat:
    """One session, and what was answered in it.

    Attributes
    ----------
    until : monotonic seconds at which it is erased.
    timer : erases it then, also if nobody calls.
    shared : the set-up that was answered, and the answer.
    masked : the terms that an update was masked for, and what was sent.
    """

    session: Session
    until: float
    timer: threading.Timer
    shared: tuple[Setup, str] | None = None
    masked: tuple[str, Reply] | None = None


@dataclass(kw_only=True)
class Sums:
    """One plant's sessions; may be called from several threads.

    Attributes
    ----------
    name : the plant's.
    federation : that the plant joined.
    papers : its key and the CAs that it trusts, in force now.
    limits : what it demands of a sum, in force now.
    record : what it remembers over a restart.
    charged : contributions of an order's update that the privacy ledger counted on; None where it
        does not matter (`client.desk.spending`).
    strangers : told (fingerprint, name) of identities in a set-up that are not accepted.
    clock : monotonic seconds.
    """

    name: str
    federation: str
    papers: Callable[[], tuple[Signer, Trust]]
    limits: Callable[[], Limits]
    record: Record
    now: Callable[[], datetime]
    charged: Callable[[Order], int | None] = lambda order: None
    strangers: Callable[[str, str], None] = lambda fingerprint, name: None
    clock: Callable[[], float] = time.monotonic
    _seats: dict[SessionId, Seat] = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def call(self, call: Call) -> Said:
        """Answer the centre's questions; what is refused is left out, and why is said."""
        given: dict[str, str] = {}
        refused: list[str] = []
        steps: list[tuple[str, Callable[[], str]]] = []
        # To unmask comes first: what it erases is not there any more when the next is set up.
        if call.confirm:
            steps.append(("confirmed", lambda: self._signed(call.confirm, CONFIRM)))
        if call.unmask:
            steps.append(("unmasked", lambda: self._signed(call.unmask, UNMASK)))
        if (hello := call.hello) is not None:
            steps.append(("advert", lambda: self.advertise(hello, life=call.life)))
        if (setup := call.setup) is not None:
            steps.append(("shares", lambda: self._share(setup)))
        with self._lock:
            self._forget()
            for name, step in steps:
                try:
                    given[name] = step()
                except TransferlineError as error:
                    log.warning("secure sum: %s", error)
                    refused.append(_told(error))
        return Said(**given, reason="; ".join(refused)[:500])

    def advertise(self, sid: SessionId, *, life: float) -> str:
        """Draw keys for a session and return the advert; the same one if it is asked again."""
        with self._lock:
            if (seat := self._seats.get(sid)) is None:
                if sid.federation != self.federation:
                    raise AggregationError(
                        f"session must be of federation {self.federation}, got {sid.federation}"
                    )
                signer, trust = self.papers()
                session = Session(
                    sid,
                    signer=signer,
                    trust=trust,
                    limits=self.limits(),
                    record=self.record,
                    now=self.now,
                )
                self._make_room(sid)
                seat = self._seats[sid] = self._seat(session, life=min(life, LONGEST))
            return seat.session.advert

    def examine(self, order: Order, beside: str) -> None:
        """Look at an order before anything is trained for it.

        Raises
        ------
        PolicyError, AggregationError, IdentityError
            If it asks for an update in another way than the order's settings say, or its terms are
            not those of a session of this plant.
        """
        secure = order.config.secure_aggregation.enabled and order.kind is Kind.TRAIN
        if secure != bool(beside):
            raise PolicyError(
                "an order to train must come with the terms of a secure sum exactly where "
                "secure_aggregation.enabled is set"
            )
        if not secure:
            return
        said = Beside.from_json(beside)
        with self._lock:
            self._forget()
            seat, terms = self._seat_for(order, said)
            if seat.masked is None:
                seat.session.examine(terms.text, boxes=said.boxes)
            elif seat.masked[0] != terms.text:
                raise AggregationError("one vector is sent in a session, this is another order")

    def mask(self, order: Order, beside: str, reply: Reply) -> Reply:
        """Return what is sent in place of an update: the same under masks, its weight too.

        Raises
        ------
        AggregationError, IdentityError, UpdateError
            If a check fails; the session is closed then, and nothing is sent.
        """
        if not beside or reply.outcome is not Outcome.DONE or reply.payload is None:
            return reply
        said = Beside.from_json(beside)
        with self._lock:
            self._forget()
            seat, terms = self._seat_for(order, said)
            if seat.masked is not None and seat.masked[0] == terms.text:
                return seat.masked[1]
            words, text = seat.session.mask(
                terms.text,
                boxes=said.boxes,
                vector=np.frombuffer(reply.payload, "<f4").astype(np.float32, copy=False),
                weight=min(reply.weight, terms.encoding.max_weight),
                threads=THREADS,
            )
            advert = ""
            if said.hello is not None:
                try:
                    advert = self.advertise(said.hello, life=said.life)
                except TransferlineError as error:
                    log.warning("secure sum: no keys for the next round: %s", error)
            masked = Masked(text=text, advert=advert).to_json()
            sent = replace(
                reply, payload=words.astype("<u8", copy=False).tobytes(), weight=0, beside=masked
            )
            seat.masked = (terms.text, sent)
            return sent

    def close(self) -> None:
        """Erase every session."""
        with self._lock:
            for sid in list(self._seats):
                self._drop(sid)

    def _seat_for(self, order: Order, said: Beside) -> tuple[Seat, Terms]:
        """Return the session that an order is for, if the order and its terms agree.

        Noise is sized by the order: for the fixed point that its settings say, and for the fewest
        plants that they allow. So no other sum is taken part in.
        """
        _, trust = self.papers()
        terms = Terms.read(said.terms, trust=trust, at=self.now())
        wanted = (order.run, order.round, order.release, order.task)
        if (terms.sid.run, terms.sid.round, terms.release, terms.task) != wanted:
            raise AggregationError("terms of the sum must be for this very order, got others")
        sums, encoding = order.config.secure_aggregation, terms.encoding
        agreed = (sums.bits, sums.bound, order.config.server.max_weight)
        if (got := (encoding.bits, encoding.bound, encoding.max_weight)) != agreed:
            raise AggregationError(
                f"encoding.bits, bound and max_weight must be those of the order {agreed}, got "
                f"{got}; both sides must run the same version"
            )
        seat = self._seats.get(terms.sid)
        if seat is None:
            raise AggregationError(
                "no keys for this sum are left here: the plant was restarted or the session is "
                "over; it takes part in the next"
            )
        limits = self.limits()
        seat.session.limits = replace(
            limits,
            minimum_cohort=max(limits.minimum_cohort, order.config.min_plants),
            contributions=min(limits.contributions, self.charged(order) or limits.contributions),
        )
        return seat, terms

    def _share(self, setup: Setup) -> str:
        seat = self._seats.get(setup.sid)
        if seat is None:
            raise AggregationError("set-up must be of a session that this plant has keys for")
        if seat.shared is not None and seat.shared[0] == setup:
            return seat.shared[1]
        self._tell_strangers(seat.session, setup)
        seat.session.limits = self.limits()
        text = seat.session.share(setup.adverts)
        seat.shared = (setup, text)
        return text

    def _tell_strangers(self, session: Session, setup: Setup) -> None:
        """Note who would be summed with and is not accepted, for the engineer to decide."""
        _, trust = self.papers()
        roster = Roster.read(setup.adverts, sid=setup.sid, trust=trust, at=self.now())
        known = session.limits.accepted | {self.papers()[0].fingerprint}
        for advert in roster.adverts:
            if advert.plant.hex() not in known:
                self.strangers(advert.plant.hex(), advert.name)

    def _signed(self, request: str, kind: str) -> str:
        """Answer a request to confirm or unmask, in the session that it is for."""
        for sid, seat in self._seats.items():
            if seat.session.concerns(request, kind=kind):
                answer = seat.session.confirm if kind == CONFIRM else seat.session.unmask
                text = answer(request)
                if kind == UNMASK:
                    self._seats[sid].masked = None
                return text
        raise AggregationError("request must be for a session of this plant, got another")

    def _make_room(self, sid: SessionId) -> None:
        """Forget what a new session takes the place of."""
        for old in list(self._seats):
            same_round = (old.run, old.round) == (sid.run, sid.round)
            if same_round or old.run != sid.run:
                self._drop(old)
        for old in sorted(self._seats)[: max(0, len(self._seats) - ALIVE + 1)]:
            self._drop(old)

    def _forget(self) -> None:
        for sid, seat in list(self._seats.items()):
            if self.clock() >= seat.until:
                log.info("secure sum: session of round %d is over, its keys are erased", sid.round)
                self._drop(sid)

    def _seat(self, session: Session, *, life: float) -> Seat:
        """Seat a session for so many seconds, after which it is erased."""

        def erase() -> None:
            with self._lock:
                self._forget()

        timer = threading.Timer(life + 1.0, erase)
        timer.daemon = True
        timer.start()
        return Seat(session=session, until=self.clock() + life, timer=timer)

    def _drop(self, sid: SessionId) -> None:
        seat = self._seats.pop(sid)
        seat.timer.cancel()
        seat.session.close()


def _told(error: TransferlineError) -> str:
    """Return what the operator may read: words about the protocol, else a code."""
    return str(error) if isinstance(error, AggregationError) else error.code
