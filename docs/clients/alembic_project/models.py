from pgvector.sqlalchemy import VECTOR
from sqlalchemy import Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "alembic_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[int]
    embedding: Mapped[list[float]] = mapped_column(VECTOR(64))

    __table_args__ = (
        Index(
            "alembic_notes_embedding_idx",
            "embedding",
            postgresql_using="distillvq",
            postgresql_ops={"embedding": "vector_cosine_ops"},
            postgresql_with={"target_recall": 0.98},
        ),
    )
