"""What a plant remembers of secure sums over a restart: sessions begun, contributions sent.

Kept in ``ledger.db`` and synced before anything is sent, so that a plant that is killed at any
moment never takes part in a session twice, and never sends an update of one release more often than
`policy.contributions_per_release` allows. Secrets are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.desk.ledger import Ledger
from common.errors import AggregationError
from common.secagg.transcript import SessionId


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """The record of one plant (`common.secagg.limits.Record`)."""

    ledger: Ledger

    def begin(self, sid: SessionId) -> None:
        """Store that a session was begun.

        Raises
        ------
        AggregationError
            If it is not later than the last attempt at its round, or its round is long over.
        StateError
            If it cannot be stored.
        """
        place = (sid.federation, sid.run)
        with self.ledger.writing() as database:
            (newest,) = database.execute(
                "SELECT max(round) FROM sessions WHERE federation = ? AND run = ?", place
            ).fetchone()
            found = database.execute(
                "SELECT attempt FROM sessions WHERE federation = ? AND run = ? AND round = ?",
                (*place, sid.round),
            ).fetchone()
            # The session of the next round may be there already when one is held again.
            if newest is not None and sid.round < newest - 1:
                raise AggregationError(f"round must be {newest - 1} or later, got {sid.round}")
            if found is not None and sid.attempt <= found[0]:
                raise AggregationError(
                    f"attempt at round {sid.round} must be later than {found[0]}, got {sid.attempt}"
                )
            database.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)",
                (*place, sid.round, sid.attempt),
            )
            database.execute(
                "DELETE FROM sessions WHERE federation = ? AND run = ? AND round < ?",
                (*place, sid.round - 2),
            )

    def check(self, release: str, *, most: int) -> None:
        """See that one more update may go out for a release.

        Raises
        ------
        AggregationError
            If so many did already.
        """
        if self.sent(release) >= most:
            raise AggregationError(
                f"contributions for release {release[:12]} must be at most {most}, got one "
                "more; policy.contributions_per_release in plant.toml"
            )

    def contribute(self, release: str, *, most: int) -> None:
        """Store that one more update goes out for a release.

        Raises
        ------
        AggregationError
            If so many did already.
        StateError
            If it cannot be stored.
        """
        with self.ledger.writing() as database:
            self.check(release, most=most)
            row = (release, self.sent(release) + 1)
            database.execute("INSERT OR REPLACE INTO contributions VALUES (?, ?)", row)

    def sent(self, release: str) -> int:
        """Return how often an update of a release was sent."""
        with self.ledger.reading() as database:
            found = database.execute(
                "SELECT sent FROM contributions WHERE release = ?", (release,)
            ).fetchone()
        return 0 if found is None else int(found[0])
