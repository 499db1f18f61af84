"""The plants of one round, spoken to stage by stage; who is lost to its sum, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from common.config import FederationConfig
from common.errors import AggregationError, IdentityError
from common.orders import Reply
from common.secagg.messages import Beside, Call, Said
from server.gathering import Asking, Fleet

log = logging.getLogger(__name__)

#: Seconds that plants keep a session: so many deadlines of rounds, and of stages.
ROUNDS, STAGES = 3, 6


class Contact:
    """Sends what a sum needs and returns what plants say.

    Attributes
    ----------
    asking, config : of this round.
    life : seconds that plants keep a session.
    exchanges : how often something was sent to plants; the order counts too.
    lost : the reason, by plant.
    """

    def __init__(self, asking: Asking, *, fleet: Fleet, config: FederationConfig) -> None:
        self.asking, self.config = asking, config
        self._fleet = fleet
        self._patience = config.secure_aggregation.stage_deadline
        self.life = ROUNDS * config.round_deadline + STAGES * self._patience
        self.exchanges = 0
        self.lost: dict[str, str] = {}

    def following(self) -> set[str]:
        """Return the plants that the next round would ask and that take part."""
        asked = self.asking.following()
        return {plant for plant in asked if self.asking.takes_part(plant)}

    def order(self, beside: Mapping[str, Beside]) -> Iterator[Reply]:
        """Send the order, to each plant what goes beside it, and return replies as they arrive."""
        self.exchanges += 1
        texts = {plant: message.to_json() for plant, message in beside.items()}
        return self._fleet.ask(self.asking.order, self.asking.release, beside=texts)

    def exchange(self, calls: Mapping[str, Call]) -> Iterator[tuple[str, Said]]:
        """Send each plant a small message and yield what those that still take part answer."""
        if not calls:
            return
        self.exchanges += 1
        run = self.asking.order.run
        for plant, said in self._fleet.exchange(calls, run=run, seconds=self._patience):
            if plant in calls and self.asking.takes_part(plant):
                yield plant, said

    def lose(self, plant: str, reason: str) -> None:
        """Note that a plant is lost to this sum."""
        log.warning("round %d: %s: %s", self.asking.order.round, plant, reason)
        self.lost[plant] = f"{AggregationError.code}: {reason}"

    @contextmanager
    def losing(self, plant: str) -> Iterator[None]:
        """Turn an error in what a plant sent into the loss of that plant."""
        try:
            yield
        except (AggregationError, IdentityError) as error:
            self.lose(plant, str(error))

    def miss(self, asked: Iterable[str], came: Iterable[str], what: str) -> None:
        """Lose the plants that were asked and said nothing."""
        for plant in sorted(set(asked) - set(came) - self.lost.keys()):
            self.lose(plant, f"{what} within {self._patience:g} s")
