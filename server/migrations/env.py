"""What alembic runs to reach the database: the connection that `server.migrations` was given."""

from __future__ import annotations

from alembic import context

from server.state.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
