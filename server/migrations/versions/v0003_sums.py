"""Secure sums: what became of a round's sum, and how many sessions were begun for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a column to rounds, and a table."""
    op.add_column("rounds", sa.Column("summed", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "attempts",
        sa.Column("run", sa.String(), sa.ForeignKey("runs.name"), primary_key=True),
        sa.Column("round", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("begun", sa.Integer(), nullable=False),
    )
