"""One round's secure sum: what the centre asks, counts and unmasks.

In the steady state a round is two exchanges: order and ciphertexts out, masked updates and the next
round's keys back; then the request to unmask and the next round's set-up out, shares back. A third,
who is left, comes between them if somebody dropped out. (`server.summing.keys`: two more where no
session is ready.)

Whatever is missing or wrong costs its plant this sum, or ends the sum: the round is skipped with
the reason, the model unchanged.

What the centre can no longer check one by one: values, norms and weights. What is left: each masked
update is signed, counts once and has its size; the sum's lanes must be those of so many plants, its
weight and each field within what they can reach (`common.secagg.encoding.decode`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from common.errors import AggregationError, IdentityError, TransferlineError
from common.forms import Linear, Turn, linear_of
from common.orders import Outcome, Reply
from common.secagg.coordinator import Coordinator
from common.secagg.encoding import Encoding, Total
from common.secagg.messages import Beside, Call, Masked, Setup
from common.secagg.terms import Terms
from common.update import Vector
from server.admission import Rejected
from server.gathering import collect
from server.summing.contact import Contact
from server.summing.keys import KeyExchange, Keys, names
from server.tally import Tally

log = logging.getLogger(__name__)

#: Steps of the fixed point that the largest value should be: with a hundred about a hundredth of an
#: update is lost (benchmarks/rounding.py).
COARSE = 100


@dataclass(frozen=True, kw_only=True)
class SumMean:
    """The mean that a secure sum says (`server.tally.Average`)."""

    total: Total
    form: Linear
    scale: None = None

    def result(self) -> Vector:
        """Return the sum over its weight, float32, lifted out of the form that was summed in."""
        total, mean = self.total, np.empty(self.total.vector.shape, np.float32)
        np.divide(total.vector, total.weight, out=mean, casting="same_kind")
        return self.form.lift(mean)


class Sum:
    """One round's sum; `hold` once.

    Attributes
    ----------
    ready : the session of the next round, set up; None if there is none.
    """

    def __init__(self, contact: Contact, *, keys: KeyExchange) -> None:
        self._contact, self._keys = contact, keys
        self._asking, self._order = contact.asking, contact.asking.order
        self._config = contact.config
        self._form = linear_of(
            self._config.update,
            schema=self._asking.schema,
            turn=Turn(run=self._order.run, round=self._order.round),
        )
        self._next: Keys | None = None
        self.ready: Coordinator | None = None

    def hold(self, ready: Coordinator | None) -> Tally:
        """Sum; the tally has the mean, or the reason for none.

        Parameters
        ----------
        ready : a session that was set up on the way of the round before.
        """
        try:
            centre = self._keys.session(ready)
        except AggregationError as error:
            why = f"{AggregationError.code}: {error}"
            tally = self._tally(lambda reply, update: 0, words=1, asked=(), why=why)
            return self._broken(tally, "set-up", error)
        return self._hold(centre)

    def _hold(self, centre: Coordinator) -> Tally:
        terms = self._terms(centre)
        centre.order(terms)
        if self._order.round < self._config.rounds:
            self._next = self._keys.new(self._order.round + 1)
        tally = self._tally(
            lambda reply, update: self._count(centre, reply),
            words=terms.encoding.words,
            asked=names(centre, centre.cohort),
            why="revoked: it takes part no more",
        )
        stage = "masking"
        try:
            self._collect(centre, terms, tally)
            self._check_survivors(centre)
            stage = "who is left"
            self._confirm(centre)
            request = centre.unmask_request()
            stage = "unmasking"
            self._unmask(centre, request)
            total = centre.total()
            self._check_grid(total, plants=len(centre.survivors))
        except AggregationError as error:
            self._note(centre, tally)
            return self._broken(tally, stage, error)
        tally.mean = SumMean(total=total, form=self._form)
        self._note(centre, tally)
        tally.summed |= {"weight": total.weight, "clipped": total.clipped, "steps": total.steps}
        log.info(
            "round %d: sum of %d plants, %d dropped out, %d exchanges, %d values clipped",
            self._order.round, len(centre.survivors), len(centre.dropped),
            self._contact.exchanges, total.clipped,
        )  # fmt: skip
        return tally

    def _terms(self, centre: Coordinator) -> Terms:
        settings = self._config.secure_aggregation
        return Terms(
            sid=centre.roster.sid,
            roster=centre.roster.hash,
            cohort=centre.cohort,
            release=self._order.release,
            task=self._order.task,
            encoding=Encoding(
                size=self._form.kept,
                bits=settings.bits,
                bound=settings.bound,
                max_weight=self._config.server.max_weight,
                plants=len(centre.cohort),
            ),
        ).sealed(self._keys.signer)

    def _collect(self, centre: Coordinator, terms: Terms, tally: Tally) -> None:
        """Send the order with each plant's ciphertexts, and add what comes."""
        following = self._contact.following() if self._next else set()
        beside = {
            plant: Beside(
                terms=terms.text,
                boxes=dict(centre.boxes_for(one)),
                hello=self._next.sid if self._next and plant in following else None,
                life=self._contact.life,
            )
            for plant, one in zip(names(centre, centre.cohort), centre.cohort, strict=True)
        }
        collect(self._contact.order(beside), into=tally, asking=self._asking)

    def _count(self, centre: Coordinator, reply: Reply) -> int:
        """Add a masked update to the sum; its weight is under the masks."""
        try:
            masked = Masked.from_json(reply.beside)
            by = next(a.plant for a in centre.roster.adverts if a.name == reply.plant)
            words = np.frombuffer(reply.payload or b"", "<u8").astype(np.uint64, copy=False)
            centre.take_masked(masked.text, words, by=by)
        except (AggregationError, IdentityError) as error:
            raise Rejected("sum", str(error)) from error
        if self._next is not None and masked.advert:
            self._keys.take_advert(self._next, reply.plant, masked.advert)
        return 0

    def _check_survivors(self, centre: Coordinator) -> None:
        """Unmask no sum that would not count."""
        fewest = self._keys.fewest
        if len(centre.survivors) < fewest:
            raise AggregationError(
                f"{len(centre.survivors)} of {fewest} updates arrived; nothing was unmasked"
            )

    def _check_grid(self, total: Total, *, plants: int) -> None:
        """Say where the fixed point is too coarse for these updates; end the sum if all is lost."""
        advice = (
            "lower secure_aggregation.bound or server.max_weight, or raise secure_aggregation.bits"
        )
        if total.steps == 0:
            raise AggregationError(
                f"nothing is left of the updates, each value is below half a step; {advice}"
            )
        # Other forms keep what is rounded away for the next round.
        if total.steps < COARSE * plants and self._config.update.form == "fp32":
            log.warning(
                "round %d: the largest value of the sum is %.1f steps a plant, so that rounding "
                "takes more than a hundredth of the updates; %s",
                self._order.round, total.steps / plants, advice,
            )  # fmt: skip

    def _confirm(self, centre: Coordinator) -> None:
        """If somebody dropped out, let the others sign who is left; greet who gave no keys."""
        sid = self._next.sid if self._next is not None else None
        new = self._contact.following() - self._next.adverts.keys() if self._next else set()
        request = centre.confirm_request() if centre.dropped else ""
        survivors = set(names(centre, centre.survivors)) if request else set()
        calls = {
            plant: Call(
                hello=sid if plant in new else None,
                confirm=request if plant in survivors else "",
                life=self._contact.life,
            )
            for plant in sorted(new | survivors)
        }
        for plant, said in self._contact.exchange(calls):
            if self._next is not None and plant in new:
                self._keys.take_advert(self._next, plant, said.advert, said.reason)
            if said.confirmed:
                with self._contact.losing(plant):
                    centre.take_confirmation(said.confirmed)
            elif plant in survivors:
                self._contact.lose(plant, said.reason or "no confirmation")

    def _unmask(self, centre: Coordinator, request: str) -> None:
        """Ask survivors for their shares, and set the next round up on the way."""
        ready = self._set_next_up()
        setup = None
        if ready is not None:
            setup = Setup(sid=ready.roster.sid, adverts=ready.setup)
        survivors = names(centre, centre.survivors)
        joining = set(names(ready, ready.roster.plants)) if ready is not None else set()
        calls = {
            plant: Call(
                unmask=request if plant in survivors else "",
                setup=setup if plant in joining else None,
                life=self._contact.life,
            )
            for plant in sorted(joining.union(survivors))
        }
        for plant, said in self._contact.exchange(calls):
            if ready is not None and said.shares:
                with self._contact.losing(plant):
                    ready.take_shares(said.shares)
            if plant in survivors and said.unmasked:
                with self._contact.losing(plant):
                    centre.take_unmasked(said.unmasked)
            if said.reason:
                self._contact.lose(plant, said.reason)
        if ready is not None and len(ready.cohort) >= ready.roster.threshold:
            self.ready = ready

    def _set_next_up(self) -> Coordinator | None:
        """Fix the roster of the next round; None if that must begin with a set-up of its own."""
        if self._next is None:
            return None
        try:
            return self._keys.coordinator(self._next)
        except AggregationError as error:  # of the next round; this one's sum is sound
            log.info("round %d is set up when it begins: %s", self._order.round + 1, error)
            return None

    def _tally(
        self,
        count: Callable[[Reply, Vector | None], int],
        *,
        words: int,
        asked: Collection[str],
        why: str,
    ) -> Tally:
        """Return the round's tally, with a row for each plant that gets no order.

        Parameters
        ----------
        asked : plants that get it.
        why : the reason of those that get none and were not lost.
        """
        tally = Tally(
            self._order,
            self._asking.release,
            schema=self._asking.schema,
            config=self._config,
            count=count,
            words=words,
        )
        for plant in sorted(set(self._order.cohort).difference(asked)):
            if reason := self._contact.lost.get(plant):
                tally.lost(plant, reason)
                self._asking.tell(plant, (tally.rows[plant].outcome, reason), 0.0)
            else:
                tally.unasked(plant, why)
        return tally

    def _note(self, centre: Coordinator, tally: Tally) -> None:
        """Keep for the record what became of the sum."""
        tally.summed = {
            "attempt": centre.roster.sid.attempt,
            "plants": len(centre.roster.plants),
            "threshold": centre.roster.threshold,
            "cohort": len(centre.cohort),
            "dropped": names(centre, centre.dropped),
            "liars": sorted(centre.liars),
            "exchanges": self._contact.exchanges,
        }
        if centre.liars:
            log.warning("round %d: wrong shares of %s", self._order.round, sorted(centre.liars))

    def _broken(self, tally: Tally, stage: str, error: TransferlineError) -> Tally:
        tally.reason = f"secure sum broken off at {stage}: {error}"
        # Who was lost before has a row that says so; these have one that says that they masked.
        masked = {row.plant for row in tally.rows.values() if row.outcome == Outcome.DONE}
        if late := sorted(masked & self._contact.lost.keys()):
            tally.reason += f"; lost after masking: {', '.join(late)}; the log says why"
        tally.summed |= {"broken": stage}
        return tally
