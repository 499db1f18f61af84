"""What the plant's commands say of its folder: facts for scripts, and lines of 80 columns.

Read from ``ledger.db`` and ``personal/`` alone, so that it is the same whether the daemon runs or
not, and without torch, so that it is there at once.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.desk.ledger import Answer, Ledger
from client.desk.spending import Spending, Spent
from client.identity import IDENTITY, Identity
from client.layout import LOCK
from client.link.files import LinkStatus, read_status
from client.personal import ROUND, Deployment, PersonalStore, Version
from common.config import PlantConfig
from common.errors import TransferlineError
from common.orders import Outcome
from common.pki import Certificate
from common.tasks import told

MEGABYTE = 1e6

#: The stage of a score that says most, by what was asked.
_STAGE = {"train": "trained", "adopt": "deployed"}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A whole model at the plant.

    Attributes
    ----------
    made : when its tensors were written, UTC.
    deployed : it inspects parts now.
    why : why it does; "" if it does not.
    """

    version: Version
    made: datetime
    deployed: bool
    why: str

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        version = self.version
        if version.kind == "federated":
            return f"a release of run {version.run}"
        return "trained at this plant alone" if version.kind == "local" else version.kind

    def facts(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        about = asdict(self.version)
        return about | {"made": _iso(self.made), "deployed": self.deployed, "why": self.why}


def models(store: PersonalStore) -> list[Model]:
    """Return the whole models at a plant, oldest first.

    Raises
    ------
    StateError
        If a manifest is damaged.
    """
    now = store.deployed() or Deployment(version=0, source="", why="")
    return [
        Model(
            version=version,
            made=_written(store.folder / str(version.number)),
            deployed=version.number == now.version,
            why=now.why if version.number == now.version else "",
        )
        for version in store.versions()
        if version.kind != ROUND
    ]


@dataclass(frozen=True, kw_only=True)
class Received:
    """A release that came to the plant.

    Attributes
    ----------
    first : when it came first.
    run, round : of the order that it came with.
    incoming : score of the release with the plant's own part, before training; None at first.
    deployed : the model that inspects parts was made from it.
    """

    release: str
    first: datetime
    run: str
    round: int
    kind: str
    incoming: float | None
    deployed: bool

    def facts(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self) | {"first": _iso(self.first)}


def received(answers: Iterable[Answer], *, deployed: Version | None) -> list[Received]:
    """Return the releases behind answers, oldest first."""
    found: dict[str, Received] = {}
    for answer in sorted(answers, key=lambda one: one.number):
        known = found.setdefault(answer.release, _arrival(answer))
        if deployed is not None and _made_from(deployed, answer):
            found[answer.release] = replace(known, deployed=True)
    return list(found.values())


def running(folder: Path, *, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the ledger says of the daemon, if it is alive.

    A process of its number must live, and the folder's lock must be held: the ledger of a plant
    that lost power still names one.
    """
    daemon: dict[str, Any] | None = facts.get("daemon")
    if daemon is None or not Path(f"/proc/{daemon.get('pid')}").exists():
        return None
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return daemon
    except OSError:
        return None
    return None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """How a plant is.

    Attributes
    ----------
    now : local time, aware.
    daemon : pid, version, address and start of the daemon; None if it does not run.
    link : what the link says of itself; None if it says nothing.
    work : run, round, kind and start of the order in hand; None if there is none.
    queue : orders that wait.
    certificate : the plant's; None if it cannot be used, and ``trouble`` says why.
    privacy : what rounds with noise have cost.
    score : of the newest answer, also where it did not leave the plant; None if there is none.
    """

    now: datetime
    settings: PlantConfig
    daemon: dict[str, Any] | None
    link: LinkStatus | None
    work: dict[str, Any] | None
    queue: int
    last: Answer | None
    model: Model | None
    certificate: Certificate | None
    trouble: str
    privacy: tuple[Spent, ...] = ()
    score: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        until = None if self.certificate is None else _iso(self.certificate.not_after)
        return {
            "plant": self.settings.name,
            "federation": self.settings.centre.federation,
            "daemon": self.daemon,
            "link": None if self.link is None else asdict(self.link),
            "work": self.work,
            "queue": self.queue,
            "last": None if self.last is None else report(self.last),
            "model": None if self.model is None else self.model.facts(),
            "certificate": until,
            "privacy": [spent.facts() for spent in self.privacy],
            "privacy_budget": self.settings.policy.privacy_budget,
            "trouble": self.trouble,
        }


def overview(folder: Path, *, settings: PlantConfig, now: datetime) -> Overview:
    """Look at a plant.

    Raises
    ------
    StateError
        If the ledger or the personal store is damaged.
    """
    ledger = Ledger(folder)
    facts, last = ledger.facts(), ledger.last()
    daemon = running(folder, facts=facts)
    certificate, trouble = None, ""
    try:
        identity = Identity(folder / IDENTITY, name=settings.name, at=now)
        certificate = identity.papers.certificate
    except TransferlineError as error:
        trouble = str(error)
    deployed = [model for model in models(PersonalStore(folder / "personal")) if model.deployed]
    return Overview(
        now=now,
        settings=settings,
        daemon=daemon,
        link=read_status(folder),
        work=facts.get("work") if daemon else None,
        queue=facts.get("queue", 0) if daemon else 0,
        last=last,
        model=deployed[0] if deployed else None,
        certificate=certificate,
        trouble=trouble,
        privacy=tuple(Spending(folder).summary(delta=settings.policy.privacy_delta)),
        score=_newest_score(folder, last, facts),
    )


def _newest_score(folder: Path, last: Answer | None, facts: Mapping[str, Any]) -> float | None:
    if last is None or last.outcome != Outcome.DONE:
        return None
    scores = last.scores
    if last.run in private_runs(folder):
        scores = facts.get("scores") or {}
    return best_known(scores.get(_STAGE.get(last.kind, ""), {}))


def private_runs(folder: Path) -> frozenset[str]:
    """Return the runs in which noise hides something, so that no score leaves the plant."""
    return frozenset(charge.run for charge in Spending(folder).charges())


def report(answer: Answer) -> dict[str, Any]:
    """Return an answer ready for JSON, without what only the daemon needs."""
    return {
        "number": answer.number,
        "at": _iso(answer.at),
        "run": answer.run,
        "round": answer.round,
        "kind": answer.kind,
        "release": answer.release,
        "outcome": answer.outcome,
        "reason": answer.reason,
        "repeated": answer.repeated,
        "scores": answer.scores,
        "phases": answer.phases,
        "seconds": answer.seconds,
        "received": answer.received,
        "sent": answer.sent,
    }


def score(answer: Answer) -> float | None:
    """Return the score that says most about an answer; None where there is none."""
    return best_known(answer.scores.get(_STAGE.get(answer.kind, ""), {}))


def best_known(scores: Mapping[str, float]) -> float | None:
    """Return the score that a task is judged by; None where there is none."""
    found = told(scores)
    return None if found is None else found[1]


def moment(at: datetime) -> str:
    """Write a moment in local time, without the year: ``11-20 18:42``."""
    return f"{at.astimezone():%m-%d %H:%M}"


def number(value: float | None) -> str:
    """Write a score, ``-`` for none."""
    return "-" if value is None else f"{value:.3f}"


def size(count: int) -> str:
    """Write bytes in the unit that fits: ``9.0 MB``, ``12 kB``."""
    if count >= MEGABYTE:
        return f"{count / MEGABYTE:.1f} MB"
    return f"{count / 1000:.1f} kB" if count >= 1000 else f"{count} B"


def _arrival(answer: Answer) -> Received:
    return Received(
        release=answer.release,
        first=answer.at,
        run=answer.run,
        round=answer.round,
        kind=answer.kind,
        incoming=best_known(answer.scores.get("incoming", {})),
        deployed=False,
    )


def _made_from(version: Version, answer: Answer) -> bool:
    """Whether a model is the candidate of an order to adopt."""
    same = (version.run, version.round) == (answer.run, answer.round)
    return same and version.kind == "federated" and answer.kind == "adopt"


def _written(folder: Path) -> datetime:
    return datetime.fromtimestamp((folder / "manifest.json").stat().st_mtime, UTC)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
