"""What the plant refuses, as pure functions: the order, the settings and the plant as it is now.

The policy is the plant's last word. An order outside it is declined with every objection in one
line, which the operator of the centre sees: it names the rule and what the order asked for, and
nothing of the data. The privacy budget, which needs the ledger, is in `client.desk.spending`.

Covered: who takes part, what is trained and how, when, how often, for how long, with how much disk
and how fast between daemon and link. Not covered: who sent the order (`common.wire.seals`), and the
share of GPU memory, which the worker sets for its process (`client.desk.worker_plant`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from common.config import FederationConfig, PolicySection
from common.errors import PolicyError
from common.orders import Kind, Order

DAY = timedelta(hours=24)  #: what `rounds_per_day` looks back
GIGABYTE = 1e9
MEGABYTE = 1e6
SECURE = "secure-aggregation"  #: the protection that demands sums under masks

PRIVACY = {"record-privacy", "plant-privacy"}  #: the protections that demand noise

#: What an order can ask for under ``protection``, and whether it does.
PROTECTION: dict[str, Callable[[FederationConfig], bool]] = {
    "validate": lambda config: True,  # always on: nothing that is not finite leaves the plant
    "record-privacy": lambda config: config.privacy.unit == "record",
    "plant-privacy": lambda config: config.privacy.unit == "plant",
    SECURE: lambda config: config.secure_aggregation.enabled,
}


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The plant as an order finds it.

    Attributes
    ----------
    now : local time.
    rounds : rounds that were trained in the last 24 hours.
    disk : bytes free on the disk of the plant's folder.
    needed : bytes that the answer takes there.
    """

    now: datetime
    rounds: int
    disk: int
    needed: int


def hides(config: FederationConfig, policy: PolicySection) -> bool:
    """Whether scores, durations and verdicts stay at the plant.

    They follow from the images as an update does, and have no noise. So it is enough that the plant
    asks for privacy: an order to adopt has no noise either, and may come as often as the centre
    likes.
    """
    demanded = PRIVACY & set(policy.protection)
    return config.private or policy.privacy_budget is not None or bool(demanded)


def allow(order: Order, policy: PolicySection, *, situation: Situation) -> None:
    """Let an order pass.

    Raises
    ------
    PolicyError
        If the policy forbids it; the message is for the operator.
    """
    if found := objections(order, policy, situation=situation):
        raise PolicyError("; ".join(found))


def objections(order: Order, policy: PolicySection, *, situation: Situation) -> list[str]:
    """Return what the policy has against an order, one clause each; empty if nothing."""
    config = order.config
    found = [
        _cohort(order, policy.minimum_cohort),
        _among("method", config.method, policy.methods),
        _among("backbone", config.backbone, policy.backbones),
        _protection(config, policy.protection),
        _hours(situation.now, policy.hours),
        _rounds(order, situation.rounds, policy.rounds_per_day),
        _disk(situation, policy.disk_free),
    ]
    return [objection for objection in found if objection]


def seconds_allowed(order: Order, policy: PolicySection, *, now: datetime) -> float:
    """Return how long training may take: what was asked, at most; never past the hours."""
    asked = min(order.deadline, policy.longest_round)
    if not policy.hours:
        return asked
    start, end = window(policy.hours)
    if start == end:
        return asked
    close = datetime.combine(now.date(), end, tzinfo=now.tzinfo)
    if close <= now:
        close += timedelta(days=1)
    return min(asked, (close - now).total_seconds())


def window(hours: str) -> tuple[time, time]:
    """Return the first and the last moment of ``22:00-06:00``."""
    start, end = hours.split("-")
    return time.fromisoformat(start), time.fromisoformat(end)


def within(hours: str, *, now: datetime) -> bool:
    """Whether a moment is in the hours; those that end before they begin go past midnight."""
    if not hours:
        return True
    (start, end), clock = window(hours), now.time()
    if start < end:
        return start <= clock < end
    return clock >= start or clock < end


def pause(done: int, *, elapsed: float, bandwidth: float | None) -> float:
    """Return the seconds to wait so that a transfer keeps to the bandwidth.

    Parameters
    ----------
    done : bytes sent or received so far.
    elapsed : seconds since the first of them.
    bandwidth : most megabytes a second; None for no limit.
    """
    if bandwidth is None:
        return 0.0
    return max(0.0, done / (bandwidth * MEGABYTE) - elapsed)


def _cohort(order: Order, least: int) -> str:
    size = len(set(order.cohort))
    return f"cohort must be at least {least} plants, got {size}" if size < least else ""


def _among(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if not allowed or value in allowed:
        return ""
    return f"{what} must be one of {', '.join(allowed)}, got {value}"


def _protection(config: FederationConfig, needed: tuple[str, ...]) -> str:
    """Object to protection that is missing; a name that nobody knows is missing too."""
    asked = [name for name, is_asked in PROTECTION.items() if is_asked(config)]
    missing = [name for name in needed if name not in asked]
    if not missing:
        return ""
    return f"protection must include {', '.join(missing)}, got {', '.join(asked)}"


def _hours(now: datetime, hours: str) -> str:
    if within(hours, now=now):
        return ""
    return f"time must be within {hours} at the plant, got {now:%H:%M}; ask again then"


def _rounds(order: Order, rounds: int, most: int | None) -> str:
    if most is None or order.kind is not Kind.TRAIN or rounds < most:
        return ""
    return f"rounds in 24 hours must be at most {most}, got {rounds} and one more; ask again later"


def _disk(situation: Situation, free: float) -> str:
    left = (situation.disk - situation.needed) / GIGABYTE
    if left >= free:
        return ""
    return f"disk left free at the plant must be at least {free:g} GB, got {max(left, 0):.1f} GB"
