"""Alembic's env.py, for a connection that the caller passes in the configuration."""

from alembic import context
from alembic_project.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
