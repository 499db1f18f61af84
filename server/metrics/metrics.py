"""``/metrics`` of a centre, read from its state at each scrape, so that counters survive restarts.

What the names mean is in `server.metrics.families`, the sums of closed rounds in
`server.metrics.totals`. Only the supervised programs are asked in this process; everything else
comes from rows, from certificates on disk and from the disk itself. So several processes, or a
centre that was restored from a backup, tell the same.

Covered: the number of series is bounded, whatever plants send; no label holds free text, a hash,
a key or a count of images. Not covered: who may read them; see `common.endpoint`.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.endpoint import Endpoint, serve
from common.metrics import OTHER, Family, Sheet, expiry
from common.orders import Kind
from common.version import program_version
from server.metrics import families as m
from server.metrics.totals import Sums, Totals, seconds_of
from server.state.store import Store
from server.state.tables import (
    ENROLLED,
    HOLDING,
    OPEN,
    EntryRow,
    PlantRow,
    ReleaseRow,
    RoundRow,
    RunRow,
    TokenRow,
    utcnow,
)

__all__ = ["CentreMetrics", "Endpoint", "registry", "serve"]

#: Certificates of the centre, by role.
PKI = {"ca": "ca.pem", "server": "server.pem", "release": "release.pem"}

#: Series that are there before their first event.
ZEROS: dict[Family, tuple[tuple[str, ...], ...]] = {
    m.ROUNDS: tuple((kind, outcome) for kind in m.KINDS for outcome in m.ROUND_OUTCOMES),
    m.SKIPPED_ROUNDS: tuple((reason,) for reason in m.SKIP_REASONS),
    m.SUMS: tuple((end,) for end in m.SUM_ENDS),
    m.REFUSED: tuple((reason,) for reason in m.REASONS),
}

#: Counters by plant alone that an alert watches: each known plant begins at zero.
ZEROS_BY_PLANT = (m.SUM_DROPOUTS, m.SUM_LIARS)


class Process(Protocol):
    """What a supervisor says of a program (`common.supervise.Status`)."""

    @property
    def pid(self) -> int | None: ...
    @property
    def restarts(self) -> int: ...


def registry(
    store: Store,
    *,
    home: Path,
    processes: Callable[[], Mapping[str, Process]] = dict,
    clock: Callable[[], datetime] = utcnow,
) -> CollectorRegistry:
    """Return a registry with the metrics of one centre; parameters as in `CentreMetrics`."""
    found = CollectorRegistry()
    found.register(CentreMetrics(store, home=home, processes=processes, clock=clock))
    return found


class CentreMetrics(Collector):
    """Reads a centre's state when it is scraped.

    Parameters
    ----------
    home : the centre's folder, for its certificates and its disk.
    processes : by name, the programs that the centre supervises.
    """

    def __init__(
        self,
        store: Store,
        *,
        home: Path,
        processes: Callable[[], Mapping[str, Process]] = dict,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._store, self._home = store, home
        self._processes, self._clock = processes, clock
        self._totals = Totals()
        self._lock = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples."""
        return iter(Sheet(m.FAMILIES))

    def collect(self) -> Iterator[Metric]:
        """Read everything in one transaction.

        Raises
        ------
        StateError, IdentityError
            If the database or a certificate cannot be read.
        """
        sheet = Sheet(m.FAMILIES)
        with self._lock, self._store.reading() as session:
            self._totals.update(session)
            plants = session.scalars(
                select(PlantRow).order_by(PlantRow.enrolled_at, PlantRow.name)
            ).all()
            labels = _labels([plant.name for plant in plants], self._totals.plants)
            self._put_totals(sheet, labels)
            self._put_plants(sheet, [plant for plant in plants if labels[plant.name] != OTHER])
            _put_states(sheet, session, now=self._clock())
            _put_run(sheet, session)
            _put_releases(sheet, session)
        self._put_here(sheet)
        return iter(sheet)

    def _put_totals(self, sheet: Sheet, labels: Mapping[str, str]) -> None:
        totals = self._totals
        # From zero: an increase is not seen in a series that begins with the event.
        zeros = ZEROS | dict.fromkeys(ZEROS_BY_PLANT, tuple((one,) for one in labels.values()))
        for family in (*zeros, *(totals.sums.keys() - zeros.keys())):
            merged: Sums = dict.fromkeys(zeros.get(family, ()), 0)
            for values, value in totals.sums.get(family, {}).items():
                to = (labels[values[0]], *values[1:]) if "plant" in family.labels else values
                merged[to] = merged.get(to, 0) + value
            for values, value in merged.items():
                sheet.put(family, value, *values)
        for (plant, stage, metric), (_, value) in totals.scores.items():
            if labels[plant] != OTHER:
                sheet.put(m.SCORE, value, plant, stage, metric)
        for plant, (_, adopted) in totals.adopted.items():
            if labels[plant] != OTHER:
                sheet.put(m.ADOPTED, adopted, plant)

    def _put_plants(self, sheet: Sheet, plants: Sequence[PlantRow]) -> None:
        now = self._clock()
        for plant in plants:
            if plant.last_seen is not None:
                sheet.put(m.LAST_SEEN, plant.last_seen.timestamp(), plant.name)
            if plant.state == ENROLLED:
                sheet.put(m.CONNECTED, plant.is_connected(now), plant.name)
                sheet.put(m.CERTIFICATES, plant.not_after.timestamp(), "plant", plant.name)

    def _put_here(self, sheet: Sheet) -> None:
        """Put what this machine knows: version, processes, certificates, disk."""
        sheet.put(m.BUILD, 1, program_version())
        for name, status in self._processes().items():
            sheet.put(m.PROCESS_UP, status.pid is not None, name)
            sheet.put(m.PROCESS_RESTARTS, status.restarts, name)
        for role, file in PKI.items():
            path = self._home / "pki" / file
            if path.exists():
                sheet.put(m.CERTIFICATES, expiry(path), role, role)
        disk = shutil.disk_usage(self._home)
        sheet.put(m.DISK_FREE, disk.free)
        sheet.put(m.DISK_SIZE, disk.total)


def _labels(enrolled: Sequence[str], asked: set[str]) -> dict[str, str]:
    """Return each plant's label: its name, for the first so many that joined."""
    names = [*enrolled, *sorted(asked - set(enrolled))]
    return {name: name if place < m.MOST_PLANTS else OTHER for place, name in enumerate(names)}


def _put_states(sheet: Sheet, session: Session, *, now: datetime) -> None:
    for family, column, states in (
        (m.RUNS, RunRow.state, m.RUN_STATES),
        (m.PLANTS, PlantRow.state, m.PLANT_STATES),
    ):
        rows = session.execute(select(column, func.count()).group_by(column))
        counts = dict.fromkeys(states, 0) | dict(rows.all())
        for state in states:
            sheet.put(family, counts[state], state)
    open_tokens = select(func.count()).where(TokenRow.used_at.is_(None), TokenRow.expires > now)
    sheet.put(m.TOKENS, session.scalar(open_tokens) or 0)
    sheet.put(m.JOURNAL, session.scalar(select(func.count()).select_from(EntryRow)) or 0)
    takeovers = select(func.sum(RunRow.fence - 1)).where(RunRow.fence > 0)
    sheet.put(m.RUN_TAKEOVERS, session.scalar(takeovers) or 0)


def _put_run(sheet: Sheet, session: Session) -> None:
    """Put the run in progress; there is one at most."""
    run = session.scalars(select(RunRow).where(RunRow.state.in_(HOLDING))).first()
    if run is None:
        return
    if run.heartbeat is not None:
        sheet.put(m.RUN_HEARTBEAT, run.heartbeat.timestamp())
    sheet.put(m.RUN_ROUNDS, run.config.get("rounds", 0))
    mine = select(RoundRow.number, RoundRow.outcome, RoundRow.kind, RoundRow.started)
    rows = session.execute(mine.where(RoundRow.run == run.name)).all()
    closed = [row for row in rows if row.outcome != OPEN and row.kind == Kind.TRAIN]
    sheet.put(m.RUN_CLOSED, len(closed))
    for row in rows:
        if row.outcome == OPEN:
            sheet.put(m.ROUND_STARTED, seconds_of(row.started))


def _put_releases(sheet: Sheet, session: Session) -> None:
    newest = select(ReleaseRow).order_by(ReleaseRow.number.desc()).limit(1)
    release = session.scalars(newest).first()
    if release is not None:
        sheet.put(m.RELEASE, release.number)
        sheet.put(m.RELEASE_CREATED, seconds_of(release.created))
    restored = select(func.count()).where(ReleaseRow.restores.is_not(None))
    sheet.put(m.ROLLBACKS, session.scalar(restored) or 0)
