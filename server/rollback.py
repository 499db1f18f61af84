"""Going back to an earlier release: a new one with its content, so that the chain stays whole.

Between two runs only: a run's next step would otherwise follow from what nobody holds any more.
Plants hear of it with the next run, which starts from the release in force.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.errors import StateError
from common.version import program_version
from server.chain import Place, noted
from server.releases import Releases
from server.state.journal import Journal
from server.state.store import Store
from server.state.tables import ACTIVE, ReleaseRow, RunRow, timestamp
from server.state.tenure import check_next, newest_release, release_body


def roll_back(place: Place, number: int) -> ReleaseRow:
    """Make the content of an earlier release the one in force again, and return the new release.

    Raises
    ------
    StateError
        If there is no such release, it is in force already or damaged, or a run waits or goes on.
    """
    store = Store(place.home, place.database)
    journal = Journal(store, signer=place.signer)
    releases = Releases(place.home, signer=place.signer)
    with store.reading() as session:
        _check_idle(session)
        newest, old = newest_release(session), session.get(ReleaseRow, number)
    if newest is None or old is None:
        last = "none" if newest is None else f"0 to {newest.number}"
        raise StateError(f"release must be one that was made, {last}, got {number}")
    if old.hash == newest.hash:
        raise StateError(f"release must not be in force already, got {number}; choose another")
    content = replace(releases.read(number), number=newest.number + 1)
    if content.hash != old.hash:
        raise StateError(
            f"{releases.path(number)} is not the release that {store.name} knows; restore the "
            "folder from a backup"
        )
    row = ReleaseRow(
        number=content.number,
        run=old.run,
        round=None,
        hash=old.hash,
        parent=newest.hash,
        restores=number,
        created=timestamp(),
    )
    manifest = releases.manifest(number).model_copy(
        update={
            "transferline": program_version(),
            "number": row.number,
            "parent": row.parent,
            "restores": number,
            "optimiser": "",
            "created": row.created,
        }
    )
    staged = releases.write(content, noted(manifest, journal), {})
    try:
        with store.writing() as session:
            _check_idle(session)
            check_next(session, row)
            releases.publish(staged, row.number)
            session.add(row)
            journal.append(session, "rollback", release_body(row))
    except StateError:
        releases.discard(staged)
        raise
    return row


def _check_idle(session: Session) -> None:
    query = select(RunRow).where(RunRow.state.in_(ACTIVE)).order_by(RunRow.number)
    run = session.scalars(query).first()
    if run is not None:
        raise StateError(
            f"run {run.name} must have ended before a rollback, it is {run.state}; stop it, or "
            "wait for its end"
        )
