"""The round loop: ask a cohort, count its replies, step to the next release, commit.

It knows plants only through a `Fleet` (Flower's Grid, worker processes, whatever comes), how their
answers are summed only through a `Gathering` (in the clear, under masks), and
state only through `server.state` and `server.releases`. A kill at any moment loses at most the
round in progress: its order was stored before it went out, a resumed run asks the same again,
and plants answer the same order with the same bytes. A round that counted a plant which is revoked
before its commit is held again without it, with the same order.

Releases depend on the configuration, the source and the plants' answers alone, not on who
answers first.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from common.config import FederationConfig
from common.errors import ConfigError, UpdateError
from common.orders import Kind, Order, Outcome, Release
from common.tasks import KINDS
from server.chain import Chain, Place
from server.events import Event, ReplyArrived, RoundClosed, RoundStarted, Waiting
from server.gathering import Asking, Fleet, Gathering
from server.gatherings import gathering_for
from server.state.tables import (
    COMMITTED,
    FINISHED,
    OPEN,
    SKIPPED,
    STOPPED,
    RoundRow,
    timestamp,
)
from server.state.tenure import Revoked
from server.tally import Tally

log = logging.getLogger(__name__)

#: Seconds between two looks at who is connected.
POLL = 0.2
RETURN = 300.0  #: seconds that a resumed round waits for those of its cohort beyond the quorum


class Federation:
    """A run, from its source weights to the order to adopt its last release.

    Parameters
    ----------
    home : the run folder, or a `server.chain.Place`. If it holds this run already, the run
        continues.
    config : with ``mean`` and ``std`` resolved, so that a release says how images are prepared.
    source : the weights to start from; release 0 of an empty folder.
    travelling : names of the source's tensors that updates cover.
    run : name of the run.
    clock : monotonic seconds.
    events : told what happens, as it happens.

    Raises
    ------
    ConfigError
        If the configuration cannot be run.
    StateError
        If the folder cannot be used, or holds another run, or this one with another
        configuration or source.
    UpdateError
        If ``travelling`` names no tensor, or one that the source has not.
    """

    def __init__(
        self,
        home: Path | Place,
        *,
        fleet: Fleet,
        config: FederationConfig,
        source: Release,
        travelling: frozenset[str],
        run: str,
        clock: Callable[[], float] = time.monotonic,
        events: Callable[[Event], None] = lambda event: None,
    ) -> None:
        _check(config, source, travelling)
        self._fleet, self._config, self._run = fleet, config, run
        self._clock, self._events = clock, events
        place = home if isinstance(home, Place) else Place(home=home)
        self._chain = Chain(place, config=config, source=source, travelling=travelling, run=run)
        self._gathering: Gathering = gathering_for(
            config,
            fleet=fleet,
            attempts=self._chain.tenure.next_attempt,
            papers=place.papers,
            clock=clock,
        )

    @property
    def release(self) -> Release:
        """The release in force."""
        return self._chain.release

    def run(self) -> Release:
        """Hold the rounds that are left, then ask every plant to adopt the last release.

        Ends early if the operator wishes it (`server.state.runs.Runs.request_stop`): after the
        round in progress, also one that a killed program began, without the order to adopt.

        Returns
        -------
        Release
            The last one.

        Raises
        ------
        StateError
            If state cannot be written, or another program took the run. Continue by making a new
            `Federation` on the same folder.
        AggregationError
            If the server's numbers leave no sound sum or step.
        """
        tenure = self._chain.tenure
        rounds = tenure.rounds()
        for number in range(1, self._config.rounds + 2):
            row = rounds.get(number)
            if row is None or row.outcome == OPEN:
                kind = Kind.TRAIN if number <= self._config.rounds else Kind.ADOPT
                if not self._hold(row or self._round(number, kind)):
                    tenure.finish(STOPPED, "stopped by the operator")
                    log.info("run %s stopped before round %d", self._run, number)
                    return self._chain.release
        tenure.finish(FINISHED, _in_vain(tenure.rounds().values()))
        return self._chain.release

    def tell_missed(self, told: Collection[int]) -> None:
        """Tell of rounds that are over and that nobody was told of.

        A program that is killed right after a commit has told nobody; the next one does.

        Parameters
        ----------
        told : rounds whose end was told.
        """
        for number, row in sorted(self._chain.tenure.rounds().items()):
            if row.outcome != OPEN and number not in told:
                counted = [reply for reply in row.replies if reply.outcome == Outcome.DONE]
                self._tell_closed(row, counted=len(counted), release=row.result or row.release)

    def _round(self, number: int, kind: Kind) -> RoundRow:
        return RoundRow(
            run=self._run,
            number=number,
            kind=str(kind),
            release=self._chain.hash,
            cohort=[],
            outcome=OPEN,
            started=timestamp(),
        )

    def _hold(self, row: RoundRow) -> bool:
        """Hold one round, which may have been begun before; return False if the run is to stop."""
        started = self._clock()
        connected = self._gather(row)
        if connected is None:
            return False
        needed = self._needed(row)
        if len(connected) < needed:
            row.reason = f"{len(connected)} of {needed} plants connected"
            self._close(row, None, started)
            return True
        if not row.cohort:
            row.cohort = self._cohort(row.number, Kind(row.kind), connected)
            self._chain.tenure.begin(row)
        while True:
            standing = self._chain.tenure.standing()
            tally = self._ask(row, standing)
            row.replies, row.refused = list(tally.rows.values()), dict(tally.refused)
            done = len(tally.done)
            row.summed, row.reason = tally.summed, tally.reason
            if not row.reason and done < needed:
                row.reason = f"{done} of {needed} replies counted"
            try:
                self._close(row, tally, started, standing=standing)
            except Revoked as error:
                log.warning("round %d is held again: revoked %s", row.number, error.plants)
            else:
                return True

    def _needed(self, row: RoundRow) -> int:
        return self._config.min_plants if row.kind == Kind.TRAIN else 1

    def _gather(self, row: RoundRow) -> list[str] | None:
        """Wait for plants; return who of those asked is connected, None if the run is to stop.

        A round that was begun before is held also if the run is to stop. It waits some minutes for
        its whole cohort, since plants find the way back one by one after a restart of the centre;
        then it goes on with the quorum.
        """
        tenure = self._chain.tenure
        started = self._clock()
        until = started + self._config.round_deadline
        told = -1
        while row.cohort or not tenure.to_stop():
            here, standing = set(self._fleet.plants()), tenure.standing()
            asked = set(row.cohort) or here
            if standing:
                asked = {plant for plant in asked if standing.get(plant)}
            connected = sorted(asked & here)
            wanted = len(asked) if row.cohort else self._needed(row)
            left = until - self._clock()
            if self._clock() - started >= RETURN:
                wanted = min(wanted, self._needed(row))
            if len(connected) >= wanted or left <= 0:
                return connected
            if len(connected) != told:
                told = len(connected)
                self._events(Waiting(round=row.number, connected=told, needed=wanted))
            time.sleep(min(POLL, left))
        return None

    def _cohort(self, number: int, kind: Kind, connected: list[str]) -> list[str]:
        """Choose by seed and round, the same on every machine and in whatever order they came."""
        size = len(connected)
        if kind is Kind.TRAIN:
            size = max(self._config.min_plants, math.ceil(self._config.fraction * size))

        def lot(plant: str) -> bytes:
            return hashlib.sha256(f"{self._config.seed}/{number}/{plant}".encode()).digest()

        return sorted(sorted(connected, key=lot)[:size])

    def _ask(self, row: RoundRow, standing: Mapping[str, str]) -> Tally:
        """Send the order and take what comes; ``standing`` as `Tenure.standing`."""
        order = Order(
            run=self._run,
            round=row.number,
            kind=Kind(row.kind),
            release=self._chain.hash,
            cohort=tuple(row.cohort),
            deadline=self._config.round_deadline,
            config=self._config,
        )
        self._events(
            RoundStarted(
                round=row.number,
                rounds=self._config.rounds,
                kind=order.kind,
                cohort=order.cohort,
            )
        )
        asking = Asking(
            order=order,
            release=self.release,
            schema=self._chain.schema,
            standing=standing,
            takes_part=lambda plant: self._takes_part(plant, standing),
            following=lambda: self._following(row.number, standing),
            tell=lambda plant, said, seconds: self._tell(row.number, plant, said, seconds),
        )
        return self._gathering.hold(asking)

    def _following(self, number: int, standing: Mapping[str, str]) -> list[str]:
        """Return whom the round after this one would ask, if it began now."""
        if number >= self._config.rounds:
            return []
        here = [plant for plant in self._fleet.plants() if not standing or standing.get(plant)]
        return self._cohort(number + 1, Kind.TRAIN, here)

    def _takes_part(self, plant: str, standing: Mapping[str, str]) -> bool:
        """Whether a plant takes part, by the same key as when it was asked."""
        if not standing:
            return True
        now = self._chain.tenure.standing(plant).get(plant)
        return bool(now) and now == standing.get(plant)

    def _tell(self, number: int, plant: str, said: tuple[str, str], seconds: float) -> None:
        outcome, reason = said
        self._events(
            ReplyArrived(round=number, plant=plant, outcome=outcome, reason=reason, seconds=seconds)
        )
        if outcome != "done":
            log.warning("round %d: %s %s %s", number, plant, outcome, reason)

    def _close(
        self,
        row: RoundRow,
        tally: Tally | None,
        started: float,
        *,
        standing: Mapping[str, str] | None = None,
    ) -> None:
        """Step if the round may, commit it, tell."""
        row.outcome = SKIPPED if row.reason else COMMITTED
        row.seconds = self._clock() - started
        done = tally.done if tally is not None else []
        counted_by = {plant: standing.get(plant, "") for plant in done} if standing else None
        if row.outcome == COMMITTED and tally is not None and tally.mean is not None:
            weights = {plant: tally.rows[plant].weight for plant in done}
            self._chain.advance(row, tally.mean, weights=weights, standing=counted_by)
        else:
            row.result = self._chain.hash
            self._chain.tenure.close(row, counted=counted_by)
        self._tell_closed(row, counted=len(done), release=self._chain.hash)

    def _tell_closed(self, row: RoundRow, *, counted: int, release: str) -> None:
        """Tell that a round is over, and write its line."""
        closed = RoundClosed(
            round=row.number,
            rounds=self._config.rounds,
            kind=Kind(row.kind),
            outcome=row.outcome,
            reason=row.reason,
            release=release,
            seconds=row.seconds,
            counted=counted,
        )
        self._events(closed)
        log.info(
            "round %d of %d (%s) %s: %d of %d replies, release %s, %.1f s%s",
            closed.round, closed.rounds, closed.kind, closed.outcome, counted, len(row.cohort),
            release[:12], closed.seconds, f"; {row.reason}" if row.reason else "",
        )  # fmt: skip


def _in_vain(rows: Iterable[RoundRow]) -> str:
    """Say so in one clause if rounds of training were held and none was committed."""
    trained = [row for row in rows if row.kind == Kind.TRAIN]
    if not trained or any(row.outcome == COMMITTED for row in trained):
        return ""
    last = max(trained, key=lambda row: row.number)
    return f"no round was committed, the model is as it was; the last was skipped: {last.reason}"


def _check(config: FederationConfig, source: Release, travelling: frozenset[str]) -> None:
    unknown = sorted(travelling - source.schema.shapes.keys())
    if unknown or not travelling:
        raise UpdateError(f"travelling must name tensors of the source, got {unknown or 'none'}")
    of_images = KINDS[config.task].images
    if of_images and (config.mean is None or config.std is None):
        raise ConfigError(
            "mean and std must be those of the source weights, got none; take them from the "
            "loaded source, so that a release says how images are prepared for it"
        )
    if (
        config.server.optimiser != "mean"
        and config.norm_travels
        and config.training.batch_norm != "frozen"
    ):
        raise ConfigError(
            f"training.batch_norm must be 'frozen' under server.optimiser "
            f"{config.server.optimiser!r}, got {config.training.batch_norm!r}: its steps would "
            "take running variances below zero; or set methods.personal_norm"
        )
