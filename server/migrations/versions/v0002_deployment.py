"""Several runs in one store, plants, tokens and the signed log: the state of a centre.

Runs gain what their programs say of them, and releases become one chain over all runs. A store of
the first revision holds one run; it is taken for finished if its last order was answered, and else
for one that stopped.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the new tables, and the old ones wider."""
    _widen_runs()
    _chain_releases()
    op.create_table(
        "plants",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("not_after", sa.String(), nullable=False),
        sa.Column("link_key", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("enrolled_at", sa.String(), nullable=False),
        sa.Column("revoked_at", sa.String()),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("last_seen", sa.String()),
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.String(), primary_key=True),
        sa.Column("plant", sa.String(), sa.ForeignKey("plants.name"), nullable=False),
        sa.Column("link_key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("plant", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False, unique=True),
        sa.Column("issued_at", sa.String(), nullable=False),
        sa.Column("expires", sa.String(), nullable=False),
        sa.Column("used_at", sa.String()),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("link_key", sa.String(), nullable=False),
    )
    op.create_table(
        "journal",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("seal", sa.String(), nullable=False),
    )


def _widen_runs() -> None:
    """Add the columns one by one: other tables refer to this one, so it must stay in place."""
    for column in (
        sa.Column("number", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("base", sa.Integer()),
        sa.Column("state", sa.String(), nullable=False, server_default="stopped"),
        sa.Column("reason", sa.String(), nullable=False, server_default=""),
        sa.Column("taken_at", sa.String()),
        sa.Column("heartbeat", sa.String()),
        sa.Column("flower_run", sa.String()),
    ):
        op.add_column("runs", column)
    op.create_index("runs_number", "runs", ["number"], unique=True)
    op.execute("UPDATE runs SET base = 0 WHERE name IN (SELECT run FROM releases)")
    op.execute(
        "UPDATE runs SET state = 'finished' WHERE name IN "
        "(SELECT run FROM rounds WHERE kind = 'adopt' AND outcome <> 'open')"
    )


def _chain_releases() -> None:
    """Copy the releases to a table whose key is the number alone."""
    op.create_table(
        "chain",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("run", sa.String(), sa.ForeignKey("runs.name"), nullable=False),
        sa.Column("round", sa.Integer()),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("parent", sa.String()),
        sa.Column("restores", sa.Integer()),
        sa.Column("created", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
    )
    op.execute(
        "INSERT INTO chain (number, run, round, hash, parent, created) "
        "SELECT number, run, round, hash, parent, created FROM releases"
    )
    op.drop_table("releases")
    op.rename_table("chain", "releases")
