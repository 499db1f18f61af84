"""The gathering that sums under masks: what the centre does in a round of secure aggregation.

The protocol is `common.secagg`; here it is tied to rounds. In the steady state a round is two
exchanges: order and ciphertexts out, masked updates and the next round's keys back; then the
request to unmask and the next round's set-up out, shares back. A third, who is left, comes between
them if somebody dropped out. Two more come first where no set-up is ready: in the first round,
after a restart of the centre or a round that was broken off, and when the cohort is another.

Whatever is missing or wrong costs its plant this sum, or ends the sum: the round is skipped with
the reason, the model unchanged. A number of attempt is stored before it is used, so that no session
is ever held twice, whoever is killed when.

What the centre can no longer check one by one: values, norms and weights. What is left: each masked
update is signed, counts once and has its size; the sum's lanes must be those of so many plants, its
weight and each field within what they can reach (`common.secagg.encoding.decode`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from common.config import FederationConfig
from common.errors import AggregationError, IdentityError, TransferlineError
from common.forms import Linear, Turn, linear_of
from common.orders import Kind, Reply
from common.pki import read_certificate
from common.secagg.coordinator import Coordinator
from common.secagg.encoding import Encoding, Total
from common.secagg.messages import Beside, Call, Masked, Said, Setup
from common.secagg.roster import Advert, Roster, read_advert
from common.secagg.terms import Terms
from common.secagg.transcript import SessionId
from common.update import Vector
from server.admission import Rejected
from server.gathering import Asking, Fleet, Plain, collect
from server.seals import Papers
from server.state.tables import utcnow
from server.tally import Tally

log = logging.getLogger(__name__)

#: Seconds that plants keep a session: so many deadlines of rounds, and of stages.
ROUNDS, STAGES = 3, 6


@dataclass(frozen=True, kw_only=True)
class SumMean:
    """The mean that a secure sum says (`server.tally.Average`)."""

    total: Total
    form: Linear
    scale: None = None

    def result(self) -> Vector:
        """Return the sum over its weight, float32, lifted out of the form that was summed in."""
        mean: Vector = (self.total.vector / self.total.weight).astype(np.float32)
        return self.form.lift(mean)


@dataclass(kw_only=True)
class Keys:
    """Adverts for a session that is not set up yet, by plant."""

    sid: SessionId
    adverts: dict[str, Advert] = field(default_factory=dict)


class Summing:
    """Secure sums over a fleet (`server.gathering.Gathering`).

    Parameters
    ----------
    papers : the release key and the CAs in force; read anew for each round.
    attempts : stores and returns the next number of attempt of a round
        (`server.state.tenure.Tenure.next_attempt`).
    plain : for orders that ask for no update.
    now : the time, aware.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        config: FederationConfig,
        papers: Callable[[], Papers],
        attempts: Callable[[int], int],
        plain: Plain,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._fleet, self._config = fleet, config
        self._papers, self._attempts = papers, attempts
        self._plain, self._now = plain, now
        self._ready: Coordinator | None = None

    def hold(self, asking: Asking) -> Tally:
        """Sum the updates that an order asks for."""
        if asking.order.kind is not Kind.TRAIN:
            return self._plain.hold(asking)
        ready, self._ready = self._ready, None
        sum_ = Sum(
            asking,
            fleet=self._fleet,
            config=self._config,
            papers=self._papers(),
            attempts=self._attempts,
            now=self._now,
        )
        tally = sum_.hold(ready)
        self._ready = sum_.ready
        return tally


class Sum:
    """One round's sum; `hold` once.

    Attributes
    ----------
    ready : the session of the next round, set up; None if there is none.
    """

    def __init__(
        self,
        asking: Asking,
        *,
        fleet: Fleet,
        config: FederationConfig,
        papers: Papers,
        attempts: Callable[[int], int],
        now: Callable[[], datetime],
    ) -> None:
        self._asking, self._order = asking, asking.order
        self._fleet, self._config, self._papers = fleet, config, papers
        self._attempts, self._now = attempts, now
        self._federation = read_certificate(papers.signer.certificate).federation
        self._fewest = config.min_plants
        self._form = linear_of(
            config.update,
            schema=asking.schema,
            turn=Turn(run=self._order.run, round=self._order.round),
        )
        self._lost: dict[str, str] = {}
        self._next: Keys | None = None
        self._exchanges = 0
        self.ready: Coordinator | None = None

    def hold(self, ready: Coordinator | None) -> Tally:
        """Sum; the tally has the mean, or the reason for none.

        Parameters
        ----------
        ready : a session that was set up on the way of the round before.
        """
        try:
            centre = self._session(ready)
        except AggregationError as error:
            tally = self._tally(lambda reply, update: 0, words=1)
            self._write_down(tally)
            tally.close()
            return self._broken(tally, "set-up", error)
        return self._hold(centre)

    def _hold(self, centre: Coordinator) -> Tally:
        terms = self._terms(centre)
        centre.order(terms)
        if self._order.round < self._config.rounds:
            self._next = Keys(sid=self._sid(self._order.round + 1))
        tally = self._tally(
            lambda reply, update: self._count(centre, reply), words=terms.encoding.words
        )
        self._write_down(tally)
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
        except AggregationError as error:
            self._note(centre, tally)
            return self._broken(tally, stage, error)
        tally.mean = SumMean(total=total, form=self._form)
        self._note(centre, tally)
        tally.summed |= {"weight": total.weight, "clipped": total.clipped}
        log.info(
            "round %d: sum of %d plants, %d dropped out, %d exchanges, %d values clipped",
            self._order.round, len(centre.survivors), len(centre.dropped), self._exchanges,
            total.clipped,
        )  # fmt: skip
        return tally

    # Set-up.

    def _session(self, ready: Coordinator | None) -> Coordinator:
        """Return a session that the whole cohort shares: the one that is ready, or a new one."""
        wanted = [plant for plant in self._order.cohort if self._asking.takes_part(plant)]
        if ready is not None and self._fits(ready, wanted):
            return ready
        centre = self._set_up(wanted)
        if len(centre.cohort) < centre.roster.threshold:
            # Some were lost between their keys and their shares: once more without them.
            centre = self._set_up(self._names(centre, centre.cohort))
        if len(centre.cohort) < max(centre.roster.threshold, self._fewest):
            raise AggregationError(
                f"{len(centre.cohort)} of {len(centre.roster.plants)} plants shared their keys, "
                f"at least {max(centre.roster.threshold, self._fewest)} must"
            )
        return centre

    def _fits(self, ready: Coordinator, wanted: list[str]) -> bool:
        same_round = ready.roster.sid.round == self._order.round
        return same_round and sorted(self._names(ready, ready.cohort)) == wanted

    def _set_up(self, plants: Iterable[str]) -> Coordinator:
        keys = Keys(sid=self._sid(self._order.round))
        calls = {plant: Call(hello=keys.sid, life=self._life) for plant in plants}
        for plant, said in self._exchange(calls):
            self._take_advert(keys, plant, said.advert, said.reason)
        self._miss(calls, keys.adverts, "no keys")
        centre = self._coordinator(keys)
        setup = Setup(sid=keys.sid, adverts=centre.setup)
        for plant, said in self._exchange(
            {plant: Call(setup=setup, life=self._life) for plant in keys.adverts}
        ):
            self._take_shares(centre, plant, said)
        self._miss(keys.adverts, self._names(centre, centre.cohort), "no shares")
        return centre

    def _coordinator(self, keys: Keys) -> Coordinator:
        """Fix the roster of a session."""
        if len(keys.adverts) < self._fewest:
            raise AggregationError(
                f"{len(keys.adverts)} plants sent keys, at least {self._fewest} must"
            )
        adverts = sorted(keys.adverts.values(), key=lambda advert: advert.plant)
        roster = Roster.read(
            [advert.text for advert in adverts],
            sid=keys.sid,
            trust=self._papers.trust,
            at=self._now(),
        )
        return Coordinator(
            roster, signer=self._papers.signer, trust=self._papers.trust, now=self._now
        )

    def _take_advert(self, keys: Keys, plant: str, text: str, reason: str = "") -> None:
        """Keep a plant's keys, if they are its own."""
        if not text:
            self._lose(plant, reason or "no keys")
            return
        try:
            advert = read_advert(text, sid=keys.sid, trust=self._papers.trust, at=self._now())
            enrolled = self._asking.standing.get(plant, advert.plant.hex())
            if (advert.name, advert.plant.hex()) != (plant, enrolled):
                raise IdentityError(f"keys of {plant} must be signed by the identity enrolled")
        except (AggregationError, IdentityError) as error:
            self._lose(plant, str(error))
        else:
            keys.adverts[plant] = advert
            self._lost.pop(plant, None)

    def _take_shares(self, centre: Coordinator, plant: str, said: Said) -> None:
        if not said.shares:
            self._lose(plant, said.reason or "no shares")
            return
        with self._losing(plant):
            centre.take_shares(said.shares)
            self._lost.pop(plant, None)

    # Masking.

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
        ).sealed(self._papers.signer)

    def _collect(self, centre: Coordinator, terms: Terms, tally: Tally) -> None:
        """Send the order with each plant's ciphertexts, and add what comes."""
        names = self._names(centre, centre.cohort)
        beside = {
            plant: Beside(
                terms=terms.text,
                boxes=dict(centre.boxes_for(one)),
                hello=self._next.sid if self._next else None,
                life=self._life,
            ).to_json()
            for plant, one in zip(names, centre.cohort, strict=True)
        }
        self._exchanges += 1
        replies = self._fleet.ask(self._order, self._asking.release, beside=beside)
        collect(replies, into=tally, asking=self._asking)

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
            self._take_advert(self._next, reply.plant, masked.advert)
        return 0

    def _check_survivors(self, centre: Coordinator) -> None:
        """Unmask no sum that would not count."""
        if len(centre.survivors) < self._fewest:
            raise AggregationError(
                f"{len(centre.survivors)} of {self._fewest} updates arrived; nothing was unmasked"
            )

    # Unmasking.

    def _confirm(self, centre: Coordinator) -> None:
        """If somebody dropped out, let the others sign who is left; greet who is new meanwhile."""
        calls = {}
        if self._next is not None:
            new = set(self._fleet.plants()) - self._next.adverts.keys()
            calls = {
                plant: Call(hello=self._next.sid, life=self._life)
                for plant in sorted(new)
                if self._asking.takes_part(plant)
            }
        survivors = self._names(centre, centre.survivors)
        if centre.dropped:
            request = centre.confirm_request()
            calls |= {plant: Call(confirm=request, life=self._life) for plant in survivors}
        for plant, said in self._exchange(calls):
            if plant not in survivors:
                assert self._next is not None
                self._take_advert(self._next, plant, said.advert, said.reason)
            elif said.confirmed:
                with self._losing(plant):
                    centre.take_confirmation(said.confirmed)
            else:
                self._lose(plant, said.reason or "no confirmation")

    def _unmask(self, centre: Coordinator, request: str) -> None:
        """Ask survivors for their shares, and set the next round up on the way."""
        ready = self._set_next_up()
        setup = None
        if ready is not None:
            setup = Setup(sid=ready.roster.sid, adverts=ready.setup)
        survivors = self._names(centre, centre.survivors)
        joining = set(self._names(ready, ready.roster.plants)) if ready is not None else set()
        calls = {
            plant: Call(
                unmask=request if plant in survivors else "",
                setup=setup if plant in joining else None,
                life=self._life,
            )
            for plant in sorted(joining.union(survivors))
        }
        for plant, said in self._exchange(calls):
            if ready is not None and said.shares:
                with self._losing(plant):
                    ready.take_shares(said.shares)
            if plant in survivors and said.unmasked:
                with self._losing(plant):
                    centre.take_unmasked(said.unmasked)
            if said.reason:
                self._lose(plant, said.reason)
        if ready is not None and len(ready.cohort) >= ready.roster.threshold:
            self.ready = ready

    def _set_next_up(self) -> Coordinator | None:
        """Fix the roster of the next round; None if too few sent keys."""
        if self._next is None or len(self._next.adverts) < self._fewest:
            return None
        return self._coordinator(self._next)

    # Small things.

    @property
    def _life(self) -> float:
        settings = self._config.secure_aggregation
        return ROUNDS * self._config.round_deadline + STAGES * settings.stage_deadline

    def _sid(self, number: int) -> SessionId:
        """Return a session that was never held; its number is stored first."""
        return SessionId(
            federation=self._federation,
            run=self._order.run,
            round=number,
            attempt=self._attempts(number),
        )

    def _exchange(self, calls: Mapping[str, Call]) -> Iterator[tuple[str, Said]]:
        if not calls:
            return
        self._exchanges += 1
        seconds = self._config.secure_aggregation.stage_deadline
        for plant, said in self._fleet.exchange(calls, run=self._order.run, seconds=seconds):
            if plant in calls and self._asking.takes_part(plant):
                yield plant, said

    def _names(self, centre: Coordinator, plants: Iterable[bytes]) -> list[str]:
        return [centre.roster.advert(plant).name for plant in plants]

    def _losing(self, plant: str) -> _Losing:
        return _Losing(lambda error: self._lose(plant, str(error)))

    def _lose(self, plant: str, reason: str) -> None:
        log.warning("round %d: %s: %s", self._order.round, plant, reason)
        self._lost[plant] = f"{AggregationError.code}: {reason}"

    def _miss(self, asked: Iterable[str], came: Iterable[str], what: str) -> None:
        seconds = self._config.secure_aggregation.stage_deadline
        for plant in sorted(set(asked) - set(came) - self._lost.keys()):
            self._lose(plant, f"{what} within {seconds:g} s")

    def _tally(self, count: Callable[[Reply, Vector | None], int], *, words: int) -> Tally:
        asking = self._asking
        return Tally(
            self._order,
            asking.release,
            schema=asking.schema,
            config=self._config,
            count=count,
            words=words,
        )

    def _write_down(self, tally: Tally) -> None:
        """Give a row to each plant of the cohort that was lost before the order went out."""
        for plant in self._order.cohort:
            if reason := self._lost.get(plant):
                tally.lost(plant, reason)
                self._asking.tell(plant, (tally.rows[plant].outcome, reason), 0.0)

    def _note(self, centre: Coordinator, tally: Tally) -> None:
        """Keep for the record what became of the sum."""
        dropped = self._names(centre, centre.dropped)
        tally.summed = {
            "attempt": centre.roster.sid.attempt,
            "plants": len(centre.roster.plants),
            "threshold": centre.roster.threshold,
            "cohort": len(centre.cohort),
            "dropped": dropped,
            "liars": sorted(centre.liars),
            "exchanges": self._exchanges,
        }
        if centre.liars:
            log.warning("round %d: wrong shares of %s", self._order.round, sorted(centre.liars))

    def _broken(self, tally: Tally, stage: str, error: TransferlineError) -> Tally:
        tally.reason = f"secure sum broken off at {stage}: {error}"
        tally.summed |= {"broken": stage}
        return tally


class _Losing:
    """Turns an error in what a plant sent into the loss of that plant."""

    def __init__(self, lose: Callable[[Exception], None]) -> None:
        self._lose = lose

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, AggregationError | IdentityError):
            self._lose(error)
            return True
        return False
