"""What privacy has cost this plant, in ``ledger.db``: rounds are charged before they are trained.

A charge is a row that is never taken back, whatever becomes of the round at the centre: what was
sent may have been seen. An order that is asked again after a crash is not charged again, unless its
answer was already on its way: fresh noise on the same data is a second look at it.

Covered: budgets over all runs and restarts. Not covered: updates that were sent without noise,
which the ledger's answers tell; and another federation that learns from the same images at another
plant's folder.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.desk.ledger import Ledger
from client.desk.outbox import order_digest
from common.config import PolicySection
from common.errors import PolicyError
from common.orders import Kind, Order
from common.privacy import UNITS, Cost, Epsilon, cost_of, epsilon

_TABLE = """
CREATE TABLE IF NOT EXISTS charges (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL,
    run TEXT NOT NULL, round INTEGER NOT NULL, digest TEXT NOT NULL,
    unit TEXT NOT NULL, cost TEXT NOT NULL, sent INTEGER NOT NULL,
    contributions INTEGER NOT NULL DEFAULT 1
)
"""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One round's charge.

    Attributes
    ----------
    at : when, UTC.
    run, round : of the order.
    unit : whom the noise hides (`common.config.PrivacyConfig.unit`).
    sent : its answer was filed, and may have been seen.
    """

    at: datetime
    run: str
    round: int
    unit: str
    cost: Cost
    sent: bool


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one unit of privacy has paid so far.

    Attributes
    ----------
    rounds : charged, sent or not.
    delta : that goes with the bound.
    """

    unit: str
    rounds: int
    delta: float
    epsilon: Epsilon

    def facts(self) -> dict[str, Any]:
        """Return it ready for JSON; null where there is no bound worth the name."""
        bounds = {"epsilon": self.epsilon.value, "epsilon_rdp": self.epsilon.rdp}
        return {
            "unit": self.unit,
            "hides": UNITS[self.unit],
            "rounds": self.rounds,
            "delta": self.delta,
            **{name: value if math.isfinite(value) else None for name, value in bounds.items()},
        }


class Spending:
    """The charges of one plant; every call opens the file, as `client.desk.ledger.Ledger`."""

    def __init__(self, folder: Path) -> None:
        self._ledger = Ledger(folder)

    def charges(self) -> list[Charge]:
        """Return all charges, oldest first."""
        if not self._ledger.path.exists():
            return []
        with self._ledger.open() as database:
            return _read(database)

    def spent(self, unit: str, *, delta: float) -> Epsilon:
        """Return what one unit has paid.

        What hides all that a plant has hides each of its images too, so for *record* every charge
        counts; for *plant* those with that unit. One image more or less may turn a contribution of
        the clip's length into its opposite, twice as far as from no contribution at all: so for
        *record* a charge for the plant counts with half its noise.
        """
        return epsilon(_costs(_paid(self.charges()), unit), delta=delta)

    def summary(self, *, delta: float) -> list[Spent]:
        """Return what each unit has paid that a round was held for."""
        charges = self.charges()
        return [
            Spent(
                unit=unit,
                rounds=sum(charge.unit == unit for charge in charges),
                delta=delta,
                epsilon=epsilon(_costs(_paid(charges), unit), delta=delta),
            )
            for unit in UNITS
            if any(charge.unit == unit for charge in charges)
        ]

    def objection(self, order: Order, policy: PolicySection) -> str:
        """Say in one clause what the budget has against an order; "" if nothing."""
        if order.kind is not Kind.TRAIN:
            return ""
        return _objection(self.charges(), order, policy)

    def charge(self, order: Order, policy: PolicySection) -> None:
        """Charge an order, before it is trained; the charge is on disk when this returns.

        Raises
        ------
        PolicyError
            If the budget does not allow it; nothing is charged, and the operator reads why.
        StateError
            If the ledger cannot be written.
        """
        cost = _cost(order, policy)
        if cost is None and policy.privacy_budget is None:
            return
        self._ledger.prepare()
        with self._ledger.open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            _prepare(database)
            digest = order_digest(order)
            if database.execute(
                "SELECT 1 FROM charges WHERE digest = ? AND NOT sent", (digest,)
            ).fetchone():
                return
            if why := _objection(_read(database), order, policy):
                raise PolicyError(why)
            assert cost is not None, "a budget refuses orders without noise"
            row = (_now(), order.run, order.round, digest, order.config.privacy.unit)
            database.execute(
                "INSERT INTO charges (at, run, round, digest, unit, cost, sent, contributions) "
                "VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                (*row, cost.to_json(), policy.contributions_per_release),
            )

    def contributions(self, order: Order) -> int | None:
        """Return into how many sums an order's update may go for what was charged.

        None where the charge does not go by it, or there is none yet. A limit that is raised later
        does not hold for an update that is kept: the charge counted on the noise of a sum.
        """
        if order.config.privacy.unit != "plant":
            return None
        with self._ledger.open() as database, database:
            _prepare(database)
            found = database.execute(
                "SELECT contributions FROM charges WHERE digest = ? ORDER BY number DESC LIMIT 1",
                (order_digest(order),),
            ).fetchone()
        return None if found is None else int(found[0])

    def sending(self, order: Order) -> None:
        """Note that an order's answer is about to be filed: asked once more, it costs once more."""
        if order.config.private:
            with self._ledger.open() as database:
                database.execute(
                    "UPDATE charges SET sent = 1 WHERE digest = ?", (order_digest(order),)
                )


def _objection(charges: list[Charge], order: Order, policy: PolicySection) -> str:
    budget, delta = policy.privacy_budget, policy.privacy_delta
    if budget is None:
        return ""
    cost = _cost(order, policy)
    if cost is None:
        return (
            f"privacy.unit must be record or plant at a plant with a privacy budget (epsilon "
            f"{budget:g}), got none"
        )
    unit, paid = order.config.privacy.unit, _paid(charges)
    # A round for the whole plant adds to what its images have paid, if there were rounds for them.
    for counted in {unit, *(("record",) if any(of == "record" for of, _ in paid) else ())}:
        after = epsilon(_costs([*paid, (unit, cost)], counted), delta=delta).value
        if after > budget:
            before = epsilon(_costs(paid, counted), delta=delta).value
            return (
                f"privacy spent must be at most epsilon {budget:g} at delta {delta:g} (unit "
                f"{counted}), got {before:.3g} before and {after:.3g} with this round; raise "
                "privacy.noise_multiplier or go on without this plant"
            )
    return ""


def _cost(order: Order, policy: PolicySection) -> Cost | None:
    return cost_of(order.config, contributions=policy.contributions_per_release)


def _paid(charges: list[Charge]) -> list[tuple[str, Cost]]:
    return [(charge.unit, charge.cost) for charge in charges]


def _costs(paid: list[tuple[str, Cost]], unit: str) -> list[Cost]:
    """Return what counts for a unit; see `Spending.spent`."""
    own = [cost for of, cost in paid if of == unit]
    if unit != "record":
        return own
    plant = [cost for of, cost in paid if of == "plant"]
    return own + [replace(cost, noise_multiplier=cost.noise_multiplier / 2) for cost in plant]


def _prepare(database: sqlite3.Connection) -> None:
    """Make the table, or give one of an older program the column that it lacks."""
    database.execute(_TABLE)
    columns = database.execute("SELECT name FROM pragma_table_info('charges')").fetchall()
    if ("contributions",) not in columns:
        added = "ALTER TABLE charges ADD COLUMN contributions INTEGER NOT NULL DEFAULT 1"
        database.execute(added)


def _read(database: sqlite3.Connection) -> list[Charge]:
    known = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'charges'").fetchone()
    if known is None:
        return []
    rows = database.execute("SELECT at, run, round, unit, cost, sent FROM charges ORDER BY number")
    return [_charge(*row) for row in rows.fetchall()]


def _charge(*row: Any) -> Charge:
    at, run, number, unit, cost, sent = row
    return Charge(
        at=datetime.fromisoformat(at),
        run=run,
        round=number,
        unit=unit,
        cost=Cost.from_json(cost),
        sent=bool(sent),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
