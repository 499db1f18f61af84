"""How the plants of a sum come to share keys: adverts first, then the shares of their secrets.

In the steady state both ride on the messages of the round before, and a session is ready when its
round begins. Two exchanges of their own come first where none is: in the first round, after a
restart of the centre or a round that was broken off, and when the cohort is another than expected.

A number of attempt is stored before it is used, so that no session is ever held twice, whoever is
killed when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from common.errors import AggregationError, IdentityError
from common.pki import read_certificate
from common.secagg.coordinator import Coordinator
from common.secagg.messages import Call, Said, Setup
from common.secagg.roster import Advert, Roster, read_advert, repeated
from common.secagg.transcript import SessionId
from server.seals import Papers
from server.summing.contact import Contact


@dataclass(kw_only=True)
class Keys:
    """Adverts for a session that is not set up yet, by plant."""

    sid: SessionId
    adverts: dict[str, Advert] = field(default_factory=dict)


class KeyExchange:
    """Sets sessions up.

    Parameters
    ----------
    papers, attempts, now : as for `server.summing.gathering.Summing`.

    Attributes
    ----------
    fewest : plants that a sum must have.
    """

    def __init__(
        self,
        contact: Contact,
        *,
        papers: Papers,
        attempts: Callable[[int], int],
        now: Callable[[], datetime],
    ) -> None:
        self._contact, self._papers = contact, papers
        self._attempts, self._now = attempts, now
        self._federation = read_certificate(papers.signer.certificate).federation
        self.signer = papers.signer
        self.fewest = contact.config.min_plants

    def session(self, ready: Coordinator | None) -> Coordinator:
        """Return a session that the whole cohort shares: the one that is ready, or a new one.

        Raises
        ------
        AggregationError
            If too few plants shared their keys.
        """
        order, takes_part = self._contact.asking.order, self._contact.asking.takes_part
        wanted = [plant for plant in order.cohort if takes_part(plant)]
        same_round = ready is not None and ready.roster.sid.round == order.round
        if ready is not None and same_round and sorted(names(ready, ready.cohort)) == wanted:
            return ready
        centre = self._set_up(wanted)
        if len(centre.cohort) < centre.roster.threshold:
            # Some were lost between their keys and their shares: once more without them.
            centre = self._set_up(names(centre, centre.cohort))
        fewest = max(centre.roster.threshold, self.fewest)
        if len(centre.cohort) < fewest:
            raise AggregationError(
                f"{len(centre.cohort)} of {len(centre.roster.plants)} plants shared their keys, "
                f"at least {fewest} must"
            )
        return centre

    def _set_up(self, plants: Iterable[str]) -> Coordinator:
        contact, keys = self._contact, self.new(self._contact.asking.order.round)
        calls = {plant: Call(hello=keys.sid, life=contact.life) for plant in plants}
        for plant, said in contact.exchange(calls):
            self.take_advert(keys, plant, said.advert, said.reason)
        contact.miss(calls, keys.adverts, "no keys")
        centre = self.coordinator(keys)
        setup = Setup(sid=keys.sid, adverts=centre.setup)
        for plant, said in contact.exchange(
            {plant: Call(setup=setup, life=contact.life) for plant in keys.adverts}
        ):
            self._take_shares(centre, plant, said)
        contact.miss(keys.adverts, names(centre, centre.cohort), "no shares")
        return centre

    def new(self, number: int) -> Keys:
        """Return empty keys for a session of that round that was never held."""
        sid = SessionId(
            federation=self._federation,
            run=self._contact.asking.order.run,
            round=number,
            attempt=self._attempts(number),
        )
        return Keys(sid=sid)

    def coordinator(self, keys: Keys) -> Coordinator:
        """Fix the roster of a session, and lose the plants whose keys do not count now.

        An advert may have come a round ago and its certificate have ended since. Of plants with the
        same key all are lost: who copied it cannot be told, and one that two know hides neither's
        update. Nobody is shut out so by a plant alone, which sees another's only in the set-up. The
        other plants would refuse a roster with either.

        Raises
        ------
        AggregationError
            If too few are left.
        """
        at, trust = self._now(), self._papers.trust
        for plant, advert in list(keys.adverts.items()):
            del keys.adverts[plant]
            with self._contact.losing(plant):
                keys.adverts[plant] = read_advert(advert.text, sid=keys.sid, trust=trust, at=at)
        for plant in repeated(keys.adverts.values()):
            del keys.adverts[plant]
            self._contact.lose(plant, "session keys must be its own, another plant sent the same")
        if len(keys.adverts) < self.fewest:
            raise AggregationError(
                f"{len(keys.adverts)} plants sent keys, at least {self.fewest} must"
            )
        adverts = sorted(keys.adverts.values(), key=lambda advert: advert.plant)
        roster = Roster.read([advert.text for advert in adverts], sid=keys.sid, trust=trust, at=at)
        return Coordinator(roster, signer=self.signer, trust=trust, now=self._now)

    def take_advert(self, keys: Keys, plant: str, text: str, reason: str = "") -> None:
        """Keep a plant's keys, if they are its own."""
        if not text:
            self._contact.lose(plant, reason or "no keys")
            return
        with self._contact.losing(plant):
            advert = read_advert(text, sid=keys.sid, trust=self._papers.trust, at=self._now())
            enrolled = self._contact.asking.standing.get(plant, advert.plant.hex())
            if (advert.name, advert.plant.hex()) != (plant, enrolled):
                raise IdentityError(f"keys of {plant} must be signed by the identity enrolled")
            keys.adverts[plant] = advert
            self._contact.lost.pop(plant, None)

    def _take_shares(self, centre: Coordinator, plant: str, said: Said) -> None:
        if not said.shares:
            self._contact.lose(plant, said.reason or "no shares")
            return
        with self._contact.losing(plant):
            centre.take_shares(said.shares)
            self._contact.lost.pop(plant, None)


def names(centre: Coordinator, plants: Iterable[bytes]) -> list[str]:
    """Return the names of plants that a session knows by fingerprint."""
    return [centre.roster.advert(plant).name for plant in plants]
