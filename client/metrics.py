"""``/metrics`` of a plant's daemon, read at each scrape from what is on disk.

From ``ledger.db`` (`client.desk.ledger`: answers and the facts of the moment), the personal store,
the certificates and the disk. So counters survive restarts, and nothing here runs in the training
process. What the names mean is in `client.metric_families`.

Covered: the number of series is fixed; no label holds free text, a class, a file or a hash. Not
covered: who may read them; see `common.endpoint`.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from client import metric_families as m
from client.desk.ledger import Answer, Ledger
from client.desk.spending import Spending
from client.identity import AUTHORITY, CERTIFICATE, IDENTITY
from client.layout import open_settings
from client.personal import PersonalStore
from common.endpoint import Endpoint, serve
from common.metrics import Scores, Sheet, code, expiry, known_phases, known_scores

__all__ = ["Endpoint", "PlantMetrics", "registry", "serve"]

DAY = timedelta(hours=24)


def utcnow() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def registry(folder: Path, *, clock: Callable[[], datetime] = utcnow) -> CollectorRegistry:
    """Return a registry with the metrics of the plant in a folder.

    Raises
    ------
    ConfigError
        If the folder holds no plant.
    """
    found = CollectorRegistry()
    found.register(PlantMetrics(folder, clock=clock))
    return found


class PlantMetrics(Collector):
    """Reads a plant's folder when it is scraped."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = utcnow) -> None:
        self._folder, self._clock = folder, clock
        self._name = open_settings(folder).name
        self._ledger = Ledger(folder)
        self._answers = Answers()
        self._lock = threading.Lock()

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples."""
        return iter(Sheet(m.FAMILIES))

    def collect(self) -> Iterator[Metric]:
        """Read everything.

        Raises
        ------
        StateError, IdentityError
            If ledger, personal store or a certificate cannot be read.
        """
        sheet = Sheet(m.FAMILIES)
        facts = self._ledger.facts()
        with self._lock:
            self._answers.update(self._ledger)
            scores = dict(self._answers.scores)
            self._put_answers(sheet)
        self._put_totals(sheet)
        _put_facts(sheet, facts)
        self._put_privacy(sheet)
        # What noise kept out of an answer is in the facts.
        scores |= known_scores(facts.get("scores") or {})
        scores |= self._put_models(sheet)
        for (stage, metric), value in scores.items():
            sheet.put(m.SCORE, value, stage, metric)
        self._put_here(sheet, facts)
        return iter(sheet)

    def _put_totals(self, sheet: Sheet) -> None:
        orders: dict[tuple[str, str, str, str], float] = {}
        seconds: dict[str, float] = {}
        sent = received = 0
        for total in self._ledger.totals():
            kind = code(total.kind, m.KINDS)
            reason = code(total.reason, m.REASONS) if total.reason else "none"
            repeated = "yes" if total.repeated else "no"
            labels = (kind, code(total.outcome, m.OUTCOMES), reason, repeated)
            orders[labels] = orders.get(labels, 0) + total.answers
            seconds[kind] = seconds.get(kind, 0) + total.seconds
            sent, received = sent + total.sent, received + total.received
        for labels, count in orders.items():
            sheet.put(m.ORDERS, count, *labels)
        for kind, value in seconds.items():
            sheet.put(m.ORDER_SECONDS, value, kind)
        sheet.put(m.BYTES, sent, "up")
        sheet.put(m.BYTES, received, "down")
        sheet.put(m.DAY_ROUNDS, self._ledger.rounds_since(self._clock() - DAY))

    def _put_privacy(self, sheet: Sheet) -> None:
        """Put what rounds with noise have cost; the settings are those in force now."""
        policy = open_settings(self._folder).policy
        sheet.put(m.DELTA, policy.privacy_delta)
        if policy.privacy_budget is not None:
            sheet.put(m.BUDGET, policy.privacy_budget)
        for spent in Spending(self._folder).summary(delta=policy.privacy_delta):
            sheet.put(m.CHARGED, spent.rounds, spent.unit)
            sheet.put(m.EPSILON, spent.epsilon.rdp, spent.unit, "rdp")
            sheet.put(m.EPSILON, spent.epsilon.pld, spent.unit, "pld")

    def _put_answers(self, sheet: Sheet) -> None:
        for phase, seconds in self._answers.phases.items():
            sheet.put(m.PHASE_SECONDS, seconds, phase)
        if self._answers.last is not None:
            sheet.put(m.LAST_ORDER, self._answers.last.timestamp())

    def _put_models(self, sheet: Sheet) -> Scores:
        """Put the personal store's state; return the scores of the models in it."""
        store = PersonalStore(self._folder / "personal")
        versions, deployed = store.versions(), store.deployed()
        counts = dict.fromkeys(m.MODELS, 0)
        for version in versions:
            kind = code(version.kind, m.MODELS)
            counts[kind] = counts.get(kind, 0) + 1
        for kind, count in counts.items():
            sheet.put(m.VERSIONS, count, kind)
        scores: Scores = {}
        for version in versions:
            if version.kind == "local":
                scores |= known_scores({"local": version.scores})
        if deployed is not None:
            sheet.put(m.DEPLOYED, deployed.version)
            sheet.put(m.SOURCE, 1, code(deployed.source, m.MODELS))
            for version in versions:
                if version.number == deployed.version:
                    scores |= known_scores({"deployed": version.scores})
        return scores

    def _put_here(self, sheet: Sheet, facts: Mapping[str, Any]) -> None:
        """Put what the machine knows: version, certificates, disk."""
        daemon = facts.get("daemon") or {}
        sheet.put(m.BUILD, 1, self._name, str(daemon.get("version", "")))
        for role, file in (("plant", CERTIFICATE), ("ca", AUTHORITY)):
            path = self._folder / IDENTITY / file
            if path.exists():
                sheet.put(m.CERTIFICATES, expiry(path), role)
        disk = shutil.disk_usage(self._folder)
        sheet.put(m.DISK_FREE, disk.free)
        sheet.put(m.DISK_SIZE, disk.total)


class Answers:
    """What the answers in a ledger add up to; one never changes, so each is read once.

    Attributes
    ----------
    phases : seconds of work.
    scores : the last of each stage and metric.
    last : when the last order was answered.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._read = 0
        self.phases: dict[str, float] = {}
        self.scores: Scores = {}
        self.last: datetime | None = None

    def update(self, ledger: Ledger) -> None:
        """Read the answers since the last time; all of them if the ledger was put back."""
        newest = ledger.history(limit=1, repeated=True)
        if not newest or newest[0].number < self._read:
            self._clear()
        if not newest or newest[0].number == self._read:
            return
        for answer in reversed(ledger.history(limit=newest[0].number - self._read, repeated=True)):
            if answer.number > self._read:
                self._add(answer)
                self._read = answer.number

    def _add(self, answer: Answer) -> None:
        self.last = answer.at
        if answer.repeated:
            return
        for phase, seconds in known_phases(answer.phases).items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        self.scores |= known_scores(answer.scores)


def _put_facts(sheet: Sheet, facts: Mapping[str, Any]) -> None:
    """Put what is so now, by the daemon's own account."""
    daemon, worker = facts.get("daemon") or {}, facts.get("worker") or {}
    if since := daemon.get("since"):
        sheet.put(m.STARTED, datetime.fromisoformat(since).timestamp())
    sheet.put(m.BUSY, facts.get("work") is not None)
    sheet.put(m.WAITING, facts.get("queue") or 0)
    sheet.put(m.WORKER_STARTS, worker.get("starts", 0))
    sheet.put(m.WORKER_KILLS, worker.get("killed", 0))
    training = facts.get("training") or {}
    for family, name in ((m.SPEED, "images_per_second"), (m.TRAINING, "seconds"), (m.LOSS, "loss")):
        if (value := training.get(name)) is not None:
            sheet.put(family, value)
    for split, count in (facts.get("data") or {}).items():
        if split in m.SPLITS:
            sheet.put(m.IMAGES, count, split)
    gpu = facts.get("gpu") or {}
    for kind in ("used", "total"):
        if kind in gpu:
            sheet.put(m.GPU, gpu[kind], kind)
