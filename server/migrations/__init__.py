"""How the tables of `server.state.tables` come to be on disk, step by step: alembic's revisions.

An old database is brought up to date when it is opened, in one transaction under the write lock: a
kill leaves it as it was. A database without a version that has tables is one of the first
simulations, and starts from the first revision.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect

from common.errors import StateError
from server.state.tables import REVISION

FOLDER = Path(__file__).parent

_FIRST = "0001"

#: Every revision, oldest first.
KNOWN = (_FIRST, "0002", REVISION)


def upgrade(connection: Connection, *, found: str | None, name: str) -> None:
    """Bring a database up to date; the caller holds the write lock and commits.

    Parameters
    ----------
    found : the revision that it is at; None if it has none.
    name : what errors call the database.

    Raises
    ------
    StateError
        If it was written by a later version.
    """
    if found is not None and found not in KNOWN:
        raise StateError(
            f"{name} was written by a later version of Transferline (state {found}, this one knows "
            f"{REVISION}); install that version, or restore a backup"
        )
    settings = Config()
    settings.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    settings.attributes["connection"] = connection
    if found is None and inspect(connection).has_table("runs"):
        command.stamp(settings, _FIRST)
    command.upgrade(settings, "head")
