"""How the answers to an order become a tally: the seam between the round loop and the plants.

A gathering is chosen once, from the configuration; the round loop hands each order to it and never
asks how it is summed. `Plain` counts updates as they come, one by one. `server.summing` sums them
under masks and sees none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.config import FederationConfig
from common.orders import Kind, Order, Release, Reply
from common.secagg.messages import Call, Said
from common.update import Schema, Vector
from server.aggregation import rule_for
from server.tally import LATE, Tally


class Fleet(Protocol):
    """The plants, however they are reached."""

    def plants(self) -> list[str]:
        """Return the names of the plants that are connected, sorted."""
        ...

    def ask(
        self, order: Order, release: Release, *, beside: Mapping[str, str] | None = None
    ) -> Iterator[Reply]:
        """Send the order to its cohort and yield replies as they arrive.

        Ends when all have answered, or ``order.deadline`` seconds after the call at the latest.

        Parameters
        ----------
        beside : by plant, what goes with the order to it alone; only these plants are asked then.
        """
        ...

    def exchange(
        self, calls: Mapping[str, Call], *, run: str, seconds: float
    ) -> Iterator[tuple[str, Said]]:
        """Send each plant a small message of a secure sum and yield (plant, answer) as they arrive.

        Who does not answer, or answers something else, is left out. Ends when all have answered, or
        after ``seconds``.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One order, as the round loop hands it over.

    Attributes
    ----------
    schema : of the update that is asked for.
    standing : by plant, the fingerprint of the identity that it takes part with ("" if revoked);
        empty where nobody is enrolled, as in simulation.
    takes_part : whether a plant still takes part, by that identity.
    following : says whom the next round would ask, if those who are connected now stay so.
    tell : told (plant, (outcome, reason), seconds since the order went out) as replies arrive.
    """

    order: Order
    release: Release
    schema: Schema
    standing: Mapping[str, str] = field(default_factory=dict)
    takes_part: Callable[[str], bool] = lambda plant: True
    following: Callable[[], Collection[str]] = tuple
    tell: Callable[[str, tuple[str, str], float], None] = lambda plant, said, seconds: None


class Gathering(Protocol):
    """Gets answers to an order."""

    def hold(self, asking: Asking) -> Tally:
        """Ask, and return what came: with a mean that counts, or with the reason for none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Counts each update as it arrives; the centre sees every one of them.

    Attributes
    ----------
    clock : monotonic seconds.
    """

    fleet: Fleet
    config: FederationConfig
    clock: Callable[[], float] = time.monotonic

    def hold(self, asking: Asking) -> Tally:
        order = asking.order
        rule = None
        if order.kind is Kind.TRAIN:
            rule = rule_for(self.config.server, size=asking.schema.size, plants=len(order.cohort))

        def count(reply: Reply, update: Vector | None) -> int:
            if rule is None or update is None:
                return 0
            return rule.add(update, plant=reply.plant, weight=reply.weight)

        tally = Tally(order, asking.release, schema=asking.schema, config=self.config, count=count)
        tally.mean = rule
        collect(self.fleet.ask(order, asking.release), into=tally, asking=asking, clock=self.clock)
        return tally


def collect(
    replies: Iterator[Reply],
    *,
    into: Tally,
    asking: Asking,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Take replies into a tally until the deadline; then write down who is late."""
    started = clock()
    try:
        for reply in replies:
            seconds = clock() - started
            if seconds > asking.order.deadline:
                break
            said = into.take(reply, enrolled=asking.takes_part(reply.plant))
            asking.tell(reply.plant, said, seconds)
    finally:
        # A generator's own clean-up runs now, not when memory is collected.
        close = getattr(replies, "close", None)
        if close is not None:
            close()
    for plant in into.close():
        asking.tell(plant, (LATE, into.rows[plant].reason), clock() - started)
