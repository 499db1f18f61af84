"""What the closed rounds of a centre add up to.

A closed round never changes, so each is read once; the sums are the same after a restart, because
they begin again with the first row. Should rows be gone (a backup was put back), all is read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, tuple_
from sqlalchemy.orm import Session

from common.errors import IdentityError
from common.metrics import OTHER, Family, code, known_phases, known_scores
from common.orders import Kind, Outcome
from server.metrics import families as m
from server.state.tables import OPEN, ReplyRow, RoundRow, RunRow
from server.tally import LATE

#: Rounds that are looked up by name; more are read with all others.
_FEW = 200

Key = tuple[str, int]
Place = tuple[int, int]
Sums = dict[tuple[str, ...], float]


class Totals:
    """Counters and last values of the closed rounds.

    Attributes
    ----------
    sums : by family, then by label values; a plant's label is its name.
    scores : last value by plant, stage and metric, with the place of its round.
    adopted : last answer by plant, with the place of its round.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._seen: set[Key] = set()
        self.sums: dict[Family, Sums] = {}
        self.scores: dict[tuple[str, str, str], tuple[Place, float]] = {}
        self.adopted: dict[str, tuple[Place, bool]] = {}

    @property
    def plants(self) -> set[str]:
        """Names of the plants that were ever asked."""
        return {plant for plant, *_ in self.sums.get(m.REPLIES, ())}

    def update(self, session: Session) -> None:
        """Read the rounds that have closed since the last time."""
        closed = {
            (run, number)
            for run, number in session.execute(
                select(RoundRow.run, RoundRow.number).where(RoundRow.outcome != OPEN)
            )
        }
        if not self._seen <= closed:
            self._clear()
        new = closed - self._seen
        if not new:
            return
        runs = dict(session.execute(select(RunRow.name, RunRow.number)).all())
        rounds = {(row.run, row.number): row for row in session.execute(_rounds(new))}
        replies: dict[Key, list[Row[Any]]] = {key: [] for key in new}
        for reply in session.execute(_replies(new)):
            if (reply.run, reply.round) in replies:
                replies[reply.run, reply.round].append(reply)
        for key in new:
            place = (runs[key[0]], key[1])
            self._add_round(rounds[key], replies[key])
            for reply in replies[key]:
                self._add_reply(reply, place=place, kind=rounds[key].kind)
        self._seen = closed

    def _count(self, family: Family, *labels: str, by: float = 1) -> None:
        sums = self.sums.setdefault(family, {})
        sums[labels] = sums.get(labels, 0) + by

    def _add_round(self, row: Row[Any], replies: Iterable[Row[Any]]) -> None:
        kind = code(row.kind, m.KINDS)
        self._count(m.ROUNDS, kind, code(row.outcome, m.ROUND_OUTCOMES))
        if row.reason:
            self._count(m.SKIPPED_ROUNDS, skip_reason(row.reason))
        for reason, count in row.refused.items():
            self._count(m.REFUSED, code(reason, m.REASONS), by=count)
        if row.summed:
            self._add_sum(row.summed)
        phases = max((known_phases(reply.seconds) for reply in replies), default={}, key=_total)
        for phase, seconds in phases.items():
            self._count(m.ROUND_PHASES, kind, phase, by=seconds)
        rest = max(0.0, row.seconds - _total(phases))
        self._count(m.ROUND_PHASES, kind, m.EXCHANGE, by=rest)

    def _add_sum(self, said: Mapping[str, Any]) -> None:
        """Count what became of a secure sum (`server.summing.one_sum.Sum`)."""
        self._count(m.SUMS, code(str(said.get("broken", "opened")), m.SUM_ENDS))
        for family, names in ((m.SUM_DROPOUTS, "dropped"), (m.SUM_LIARS, "liars")):
            for plant in said.get(names, ()):
                self._count(family, plant)
        self._count(m.SUM_CLIPPED, by=said.get("clipped", 0))

    def _add_reply(self, row: Row[Any], *, place: Place, kind: str) -> None:
        plant, outcome = row.plant, code(row.outcome, m.REPLY_OUTCOMES)
        reason = reply_reason(outcome, row.reason)
        self._count(m.REPLIES, plant, outcome, reason)
        if reason == IdentityError.code:  # refused before it is counted as anybody's
            self._count(m.REFUSED, reason)
        self._count(m.BYTES, plant, "up", by=row.bytes_up)
        self._count(m.BYTES, plant, "down", by=row.bytes_down)
        for phase, seconds in known_phases(row.seconds).items():
            self._count(m.PLANT_PHASES, plant, phase, by=seconds)
        if outcome != Outcome.DONE:
            return
        for (stage, metric), value in known_scores(row.scores).items():
            last, _ = self.scores.get((plant, stage, metric), (place, 0.0))
            if place >= last:
                self.scores[plant, stage, metric] = (place, value)
        if kind == Kind.ADOPT:
            adopted = bool(row.notes.get("adopted"))
            self._count(m.ADOPTIONS, plant, "adopted" if adopted else "kept")
            if place >= self.adopted.get(plant, (place, False))[0]:
                self.adopted[plant] = (place, adopted)


def reply_reason(outcome: str, reason: str) -> str:
    """Return a reply's reason as one of few words.

    A plant declines in words where its policy forbids something; everything else is a code, with
    words for the operator after a colon.
    """
    if not reason:
        return "none"
    if outcome == LATE:
        return LATE
    word = code(reason.partition(":")[0].strip(), m.REASONS)
    return "policy" if word == OTHER and outcome == Outcome.DECLINED else word


def skip_reason(reason: str) -> str:
    """Return why a round was skipped as one of few words."""
    if reason.endswith("plants connected"):
        return "connected"
    if reason.startswith("secure sum broken off"):
        return "sum"
    return "replies" if reason.endswith("replies counted") else OTHER


def seconds_of(text: str) -> float:
    """Return an ISO 8601 time as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def _total(phases: Mapping[str, float]) -> float:
    return sum(phases.values())


def _rounds(keys: set[Key]) -> Any:
    query = select(
        RoundRow.run,
        RoundRow.number,
        RoundRow.kind,
        RoundRow.outcome,
        RoundRow.reason,
        RoundRow.seconds,
        RoundRow.refused,
        RoundRow.summed,
    )
    place = tuple_(RoundRow.run, RoundRow.number)
    return query.where(place.in_(keys)) if len(keys) <= _FEW else query


def _replies(keys: set[Key]) -> Any:
    query = select(*ReplyRow.__table__.columns)
    place = tuple_(ReplyRow.run, ReplyRow.round)
    return query.where(place.in_(keys)) if len(keys) <= _FEW else query
