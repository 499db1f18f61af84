"""What the round loop tells whoever watches: progress display, log, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from common.orders import Kind


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A round waits for plants to connect; told again when their number changes."""

    round: int
    connected: int
    needed: int


@dataclass(frozen=True, kw_only=True)
class RoundStarted:
    """An order goes out.

    Attributes
    ----------
    rounds : how many rounds of training the run has; the order to adopt comes after them.
    """

    round: int
    rounds: int
    kind: Kind
    cohort: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReplyArrived:
    """A plant answered, was refused, or is late.

    Attributes
    ----------
    outcome : ``done``, ``declined``, ``failed``, ``rejected`` or ``late``.
    seconds : since the order went out.
    """

    round: int
    plant: str
    outcome: str
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoundClosed:
    """A round is committed or skipped; it will not be held again.

    Attributes
    ----------
    release : hash of the release that is in force now.
    counted : plants whose reply was counted.
    """

    round: int
    rounds: int
    kind: Kind
    outcome: str
    reason: str
    release: str
    seconds: float
    counted: int


Event: TypeAlias = Waiting | RoundStarted | ReplyArrived | RoundClosed
