"""The rows of the centre's state; how they come to be on disk is `server.migrations`' business.

Runs, rounds, replies and releases are what the round loop leaves; plants, nodes and tokens are who
takes part (`server.state.registry`); entries are the signed log (`server.state.journal`).

Times that are compared are `Moment`; those that are only shown are ISO 8601 text.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, ForeignKey, ForeignKeyConstraint, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

#: The revision of `server.migrations` that makes these tables.
REVISION = "0003"

#: What becomes of a round.
OPEN, COMMITTED, SKIPPED = "open", "committed", "skipped"

#: What becomes of a run. ``running`` and ``stopping`` hold the centre; one run at a time does.
QUEUED, RUNNING, STOPPING = "queued", "running", "stopping"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
HOLDING = (RUNNING, STOPPING)
ACTIVE = (QUEUED, *HOLDING)
ENDED = (FINISHED, FAILED, STOPPED)

#: What becomes of a plant.
ENROLLED, REVOKED = "enrolled", "revoked"

#: A plant that was heard within this time counts as connected.
LATELY = timedelta(seconds=30)

#: What becomes of a node: ``leaving`` until the engine has forgotten it. None comes back.
REGISTERED, LEAVING, GONE = "registered", "leaving", "gone"


class Moment(TypeDecorator[datetime]):
    """An aware time, as UTC text of fixed width: the order of texts is the order of times."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a time must have a zone"
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class Ident(TypeDecorator[int]):
    """An identifier of Flower's: 64 bits without a sign, which no integer column holds."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        list[str]: JSON,
        datetime: Moment,
    }


class RunRow(Base):
    """A federation from its source weights to its last release.

    Attributes
    ----------
    number : place in the queue, ascending.
    source : hash of the release that it starts from; "" until its first program says so.
    base : number of that release; None until then.
    fence : how many programs have held the run; the last one may write.
    state : ``queued``, ``running``, ``stopping``, ``finished``, ``failed`` or ``stopped``.
    reason : why it did not finish, or changed nothing.
    taken_at : when its last program was to start.
    heartbeat : when that program last said that it lives; None before.
    flower_run : Flower's id of the run that holds it.
    """

    __tablename__ = "runs"

    name: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(unique=True)
    config: Mapped[dict[str, Any]]
    source: Mapped[str] = mapped_column(default="")
    travelling: Mapped[list[str]] = mapped_column(default=list)
    base: Mapped[int | None]
    fence: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default=QUEUED)
    reason: Mapped[str] = mapped_column(default="")
    taken_at: Mapped[datetime | None]
    heartbeat: Mapped[datetime | None]
    flower_run: Mapped[int | None] = mapped_column(Ident)
    created: Mapped[str]


class RoundRow(Base):
    """One order and what came of it.

    Attributes
    ----------
    result : hash of the release in force after it.
    summed : what became of its secure sum (`server.summing`); empty without one.
    """

    __tablename__ = "rounds"

    run: Mapped[str] = mapped_column(ForeignKey("runs.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    release: Mapped[str]
    cohort: Mapped[list[str]]
    outcome: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    result: Mapped[str] = mapped_column(default="")
    seconds: Mapped[float] = mapped_column(default=0.0)
    refused: Mapped[dict[str, Any]] = mapped_column(default=dict)
    summed: Mapped[dict[str, Any]] = mapped_column(default=dict)
    started: Mapped[str]
    replies: Mapped[list[ReplyRow]] = relationship(lazy="selectin", order_by="ReplyRow.plant")


class AttemptRow(Base):
    """How many sessions of a secure sum were begun for a round; stored before one is used."""

    __tablename__ = "attempts"

    run: Mapped[str] = mapped_column(ForeignKey("runs.name"), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    begun: Mapped[int]


class ReplyRow(Base):
    """What one plant answered.

    Attributes
    ----------
    weight : what it counted for; 0 if it was not counted, or its weight was under a mask.
    """

    __tablename__ = "replies"
    __table_args__ = (ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),)

    run: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    plant: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    reason: Mapped[str]
    weight: Mapped[int] = mapped_column(BigInteger, default=0)
    scores: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seconds: Mapped[dict[str, Any]] = mapped_column(default=dict)
    notes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    bytes_up: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_down: Mapped[int] = mapped_column(BigInteger, default=0)


class ReleaseRow(Base):
    """A release that counts: one chain for all runs.

    Attributes
    ----------
    round : the round that made it; None for source weights and rollbacks.
    restores : number of the release whose content a rollback brought back.
    """

    __tablename__ = "releases"
    __table_args__ = (ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run: Mapped[str] = mapped_column(ForeignKey("runs.name"))
    round: Mapped[int | None]
    hash: Mapped[str]
    parent: Mapped[str | None]
    restores: Mapped[int | None]
    created: Mapped[str]


class PlantRow(Base):
    """A plant that has joined.

    Attributes
    ----------
    state : ``enrolled`` or ``revoked``.
    fingerprint : SHA-256 of its identity's raw public key, hex.
    certificate, serial, not_after : the newest one, PEM.
    link_key : public key of its SuperNode, OpenSSH format.
    node_id : Flower's id of that SuperNode.
    reason : why it was revoked.
    """

    __tablename__ = "plants"

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    fingerprint: Mapped[str]
    certificate: Mapped[str]
    serial: Mapped[str]
    not_after: Mapped[datetime]
    link_key: Mapped[str]
    node_id: Mapped[int] = mapped_column(Ident)
    enrolled_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(default="")
    last_seen: Mapped[datetime | None]

    def is_connected(self, now: datetime) -> bool:
        """Whether it takes part and was heard lately."""
        seen = self.last_seen is not None and now - self.last_seen <= LATELY
        return seen and self.state == ENROLLED


class NodeRow(Base):
    """A SuperNode that the engine knows, or knew."""

    __tablename__ = "nodes"

    node_id: Mapped[int] = mapped_column(Ident, primary_key=True)
    plant: Mapped[str] = mapped_column(ForeignKey("plants.name"))
    link_key: Mapped[str]
    state: Mapped[str]


class TokenRow(Base):
    """An invitation; the newest one of a plant.

    Attributes
    ----------
    digest : SHA-256 of the secret, hex.
    used_at : when a plant first showed it; from then on it is good for these keys only.
    fingerprint, link_key : the keys that it was used for; "" before.
    """

    __tablename__ = "tokens"

    plant: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    issued_at: Mapped[datetime]
    expires: Mapped[datetime]
    used_at: Mapped[datetime | None]
    fingerprint: Mapped[str] = mapped_column(default="")
    link_key: Mapped[str] = mapped_column(default="")


class EntryRow(Base):
    """One entry of the log (`server.state.journal`)."""

    __tablename__ = "journal"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str]
    kind: Mapped[str]
    body: Mapped[str]
    previous: Mapped[str]
    hash: Mapped[str]
    seal: Mapped[str]


def utcnow() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def timestamp() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return utcnow().isoformat(timespec="seconds")
