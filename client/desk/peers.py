"""The accepted list: the identities that a plant's engineer agreed to sum with.

Whoever holds the CA's key could certify plants of his own, and a sum with them would hide nothing.
So a certificate is not enough: an identity counts once the engineer of this plant has accepted its
fingerprint, best compared over the telephone. Who turned up in a set-up and is not accepted is kept
as waiting, so that the engineer sees whom to ask about. Kept in ``ledger.db``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from client.desk.ledger import Ledger
from common.errors import ConfigError

ACCEPTED, WAITING = "accepted", "waiting"
_MOST_WAITING = 200  #: a centre may turn up with as many names as it likes
_PREFIX = 8  #: hexadecimal digits, at least, that name one who waits


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An identity.

    Attributes
    ----------
    name : as its certificate said, or as the engineer calls it.
    since : ISO 8601, UTC.
    """

    fingerprint: str
    name: str
    state: str
    since: str


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The list of one plant."""

    ledger: Ledger

    def all(self) -> list[Peer]:
        """Return accepted and waiting identities, by state and name."""
        with self.ledger.reading() as database:
            rows = database.execute(
                "SELECT fingerprint, name, state, since FROM peers ORDER BY state, name"
            ).fetchall()
        return [
            Peer(fingerprint=fingerprint, name=name, state=state, since=since)
            for fingerprint, name, state, since in rows
        ]

    def accepted(self) -> frozenset[str]:
        """Return the fingerprints of those accepted."""
        return frozenset(peer.fingerprint for peer in self.all() if peer.state == ACCEPTED)

    def accept(self, fingerprint: str, *, name: str = "") -> Peer:
        """Accept an identity.

        Parameters
        ----------
        fingerprint : 64 hexadecimal digits; 8 or more of one who waits do too.
        name : to call it by; by default that of its certificate.

        Raises
        ------
        ConfigError
            If it is no fingerprint, or names nobody or several who wait.
        """
        known = self._find(fingerprint)
        whole = known.fingerprint if known is not None else fingerprint.strip().lower()
        if not re.fullmatch("[0-9a-f]{64}", whole):
            raise ConfigError(
                f"fingerprint must be 64 hexadecimal digits, or {_PREFIX} or more of one who "
                f"waits, got {fingerprint!r}; see `transferline-plant peers PLANT list`"
            )
        peer = Peer(
            fingerprint=whole,
            name=name or (known.name if known is not None else ""),
            state=ACCEPTED,
            since=_now(),
        )
        self._put(peer)
        return peer

    def remove(self, fingerprint: str) -> Peer:
        """Take an identity off the list: no sum with it any more.

        Raises
        ------
        ConfigError
            If it is not on it.
        """
        known = self._find(fingerprint)
        if known is None:
            raise ConfigError(
                f"fingerprint must be on the list, got {fingerprint!r}; see `transferline-plant "
                "peers PLANT list`"
            )
        with self.ledger.writing() as database:
            database.execute("DELETE FROM peers WHERE fingerprint = ?", (known.fingerprint,))
        return known

    def wait(self, fingerprint: str, name: str) -> None:
        """Note one who turned up and is not accepted; a name that is known changes nothing."""
        found = self.all()
        if any(peer.fingerprint == fingerprint for peer in found) or len(found) >= _MOST_WAITING:
            return
        self._put(Peer(fingerprint=fingerprint, name=name, state=WAITING, since=_now()))

    def _find(self, text: str) -> Peer | None:
        """Return the one on the list that a fingerprint, its beginning or a name means."""
        wanted = text.strip().lower()
        found = [
            peer
            for peer in self.all()
            if peer.fingerprint == wanted
            or (len(wanted) >= _PREFIX and peer.fingerprint.startswith(wanted))
        ]
        if len(found) > 1:
            raise ConfigError(f"fingerprint must name one identity, got {text!r}; give more of it")
        return found[0] if found else None

    def _put(self, peer: Peer) -> None:
        with self.ledger.writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?)",
                (peer.fingerprint, peer.name, peer.state, peer.since),
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
