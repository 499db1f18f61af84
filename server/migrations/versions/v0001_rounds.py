"""Runs, rounds, replies and releases: the state of a simulation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("travelling", sa.JSON(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("created", sa.String(), nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(), sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("cohort", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("refused", sa.JSON(), nullable=False),
        sa.Column("started", sa.String(), nullable=False),
    )
    op.create_table(
        "replies",
        sa.Column("run", sa.String(), primary_key=True),
        sa.Column("round", sa.Integer(), primary_key=True),
        sa.Column("plant", sa.String(), primary_key=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("weight", sa.BigInteger(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.JSON(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("bytes_up", sa.BigInteger(), nullable=False),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
    )
    op.create_table(
        "releases",
        sa.Column("run", sa.String(), sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("round", sa.Integer()),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("parent", sa.String()),
        sa.Column("created", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.number"]),
    )
