"""What the operator's listings say, as plain values: for a table or for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.table import Table
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.orders import Kind
from server.centre import SERVER, Centre
from server.engine.edge import find_nginx
from server.seals import CA, RELEASE
from server.state.tables import (
    ACTIVE,
    COMMITTED,
    ENROLLED,
    OPEN,
    SKIPPED,
    PlantRow,
    RoundRow,
    RunRow,
    TokenRow,
    utcnow,
)
from server.state.tenure import newest_release

SOON = timedelta(days=14)  #: before its end a certificate is a warning

Facts = dict[str, Any]


def run_facts(session: Session, row: RunRow) -> Facts:
    """Return where a run stands."""
    count = dict(
        session.execute(
            select(RoundRow.outcome, func.count())
            .where(RoundRow.run == row.name, RoundRow.kind == str(Kind.TRAIN))
            .group_by(RoundRow.outcome)
        ).all()
    )
    return {
        "run": row.name,
        "state": row.state,
        "reason": row.reason,
        "rounds": row.config["rounds"],
        "committed": count.get(COMMITTED, 0),
        "skipped": count.get(SKIPPED, 0),
        "open": count.get(OPEN, 0),
        "method": row.config["method"],
        "backbone": row.config["backbone"],
        "created": row.created,
    }


def plant_facts(row: PlantRow, *, now: datetime, up: bool) -> Facts:
    """Return how a plant is; to a centre that is not up nobody is connected."""
    return {
        "plant": row.name,
        "state": row.state,
        "connected": up and row.is_connected(now),
        "last_seen": _time(row.last_seen),
        "enrolled": _time(row.enrolled_at),
        "certificate_until": _time(row.not_after),
        "fingerprint": row.fingerprint,
        "node": row.node_id,
        "reason": row.reason,
    }


def invitation_facts(row: TokenRow) -> Facts:
    """Return an invitation that is open."""
    return {"plant": row.plant, "state": "invited", "until": _time(row.expires)}


def status_facts(centre: Centre) -> Facts:
    """Return how a centre is.

    Raises
    ------
    TransferlineError
        If its folder or its state cannot be read.
    """
    now, registry = utcnow(), centre.registry
    plants = registry.plants()
    enrolled = [plant for plant in plants if plant.state == ENROLLED]
    up = centre.is_up
    connected = [plant for plant in enrolled if up and plant.is_connected(now)]
    with centre.store().reading() as session:
        rows = session.scalars(select(RunRow).order_by(RunRow.number)).all()
        runs = [run_facts(session, row) for row in rows if row.state in ACTIVE]
        newest = newest_release(session)
    ends = {CA: centre.authority().certificate.not_valid_after_utc}
    ends |= {name: centre.ends(name) for name in (SERVER, RELEASE)}
    return {
        "federation": centre.config.name,
        "up": up,
        "address": centre.config.address,
        "enrolment": centre.config.enrolment,
        "runs": runs,
        "release": None
        if newest is None
        else {"number": newest.number, "hash": newest.hash, "created": newest.created},
        "plants": {
            "enrolled": len(enrolled),
            "connected": sorted(plant.name for plant in connected),
            "invited": sorted(token.plant for token in registry.invitations()),
            "revoked": sorted(plant.name for plant in plants if plant.state != ENROLLED),
        },
        "certificates": {name: _time(end) for name, end in ends.items()},
        "warnings": [
            *_warnings(centre, runs, len(enrolled)),
            *(
                f"{name} ends {end:%Y-%m-%d}; run `transferline-server rotate`"
                for name, end in ends.items()
                if end - now < SOON
            ),
            *(
                f"the certificate of {plant.name} ends {plant.not_after:%Y-%m-%d}; is it connected?"
                for plant in enrolled
                if plant.not_after - now < SOON / 4
            ),
        ],
    }


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """Return a plain table of some of the facts."""
    found = Table(box=None, pad_edge=False)
    for column in columns:
        found.add_column(column.replace("_", " "))
    for row in rows:
        found.add_row(*(_cell(row.get(column)) for column in columns))
    return found


def _warnings(centre: Centre, runs: Sequence[Facts], enrolled: int) -> list[str]:
    found = []
    if not centre.is_up:
        found.append(f"the centre is not up; transferline-server up {centre.folder}")
    if find_nginx(centre.config.nginx) is None:
        found.append(
            "nginx is not installed, so `up` serves this machine only; apt install nginx-light, or "
            "set `nginx` in centre.toml to its path, and start `up` again"
        )
    if runs and enrolled < 1:
        found.append("no plant is enrolled; transferline-server invite")
    return found


def _time(value: datetime | None) -> str:
    return "" if value is None else value.isoformat(timespec="seconds")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and len(value) > 18 and value[10:11] == "T":
        return value[:19].replace("T", " ")
    return "" if value is None else str(value)
