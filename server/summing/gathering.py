"""The gathering that sums under masks (`server.gathering.Gathering`).

It holds one thing from round to round: the session that the plants set up on the way of the last.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from common.config import FederationConfig
from common.orders import Kind
from common.secagg.coordinator import Coordinator
from server.gathering import Asking, Fleet, Plain
from server.seals import Papers
from server.state.tables import utcnow
from server.summing.contact import Contact
from server.summing.keys import KeyExchange
from server.summing.one_sum import Sum
from server.tally import Tally


class Summing:
    """Secure sums over a fleet.

    Parameters
    ----------
    papers : the release key and the CAs in force; read anew for each round.
    attempts : stores and returns the next number of attempt of a round
        (`server.state.tenure.Tenure.next_attempt`).
    plain : for orders that ask for no update.
    now : the time, aware.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        config: FederationConfig,
        papers: Callable[[], Papers],
        attempts: Callable[[int], int],
        plain: Plain,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._fleet, self._config = fleet, config
        self._papers, self._attempts = papers, attempts
        self._plain, self._now = plain, now
        self._ready: Coordinator | None = None

    def hold(self, asking: Asking) -> Tally:
        """Sum the updates that an order asks for."""
        if asking.order.kind is not Kind.TRAIN:
            return self._plain.hold(asking)
        ready, self._ready = self._ready, None
        contact = Contact(asking, fleet=self._fleet, config=self._config)
        keys = KeyExchange(contact, papers=self._papers(), attempts=self._attempts, now=self._now)
        one = Sum(contact, keys=keys)
        tally = one.hold(ready)
        self._ready = one.ready
        return tally
