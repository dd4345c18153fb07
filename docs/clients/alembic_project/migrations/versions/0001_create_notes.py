"""Create the table of notes and its index."""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR

revision = "0001"
down_revision = None


def upgrade():
    # Written by hand; --autogenerate writes the rest.
    op.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
    op.create_table(
        "alembic_notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("topic", sa.Integer(), nullable=False),
        sa.Column("embedding", VECTOR(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "alembic_notes_embedding_idx",
        "alembic_notes",
        ["embedding"],
        unique=False,
        postgresql_using="distillvq",
        postgresql_ops={"embedding": "vector_cosine_ops"},
        postgresql_with={"target_recall": 0.98},
    )


def downgrade():
    op.drop_index("alembic_notes_embedding_idx", table_name="alembic_notes")
    op.drop_table("alembic_notes")
