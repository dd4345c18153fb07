"""distillvq from Python, with SQLAlchemy and pgvector's types.

    pip install -r docs/clients/requirements.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/sqlalchemy_example.py

It creates the table "sqlalchemy_items", which must not exist.
"""

import os

import sample
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import Index, create_engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "sqlalchemy_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    topic: Mapped[int]
    embedding: Mapped[list[float]] = mapped_column(VECTOR(sample.DIMENSIONS))


# Not an argument of the table: create_all() would create the index before there are rows to train on.
def index():
    return Index(
        "sqlalchemy_items_embedding_idx",
        Item.embedding,
        postgresql_using="distillvq",
        postgresql_ops={"embedding": "vector_cosine_ops"},
        postgresql_with={"target_recall": 0.98},
    )


url = make_url(os.environ.get("DATABASE_URL", "postgresql://")).set(drivername="postgresql+psycopg")
engine = create_engine(url)

with Session(engine) as session:
    session.execute(text("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE"))
    session.commit()

Base.metadata.create_all(engine)
with Session(engine) as session:
    rows = zip(sample.topics, sample.vectors)
    session.execute(
        insert(Item), [{"id": id, "topic": topic, "embedding": vector} for id, (topic, vector) in enumerate(rows)]
    )
    session.commit()

index().create(engine)

with Session(engine) as session:
    distance = Item.embedding.cosine_distance(sample.query)
    nearest = session.execute(
        select(Item.id, distance.label("distance"))
        .where(Item.topic == sample.query_topic)
        .order_by(distance)
        .limit(10)
    ).all()
    for id, how_far in nearest:
        print(f"item {id} at {how_far:.3f}")
    sample.check([row.id for row in nearest], topic=sample.query_topic)

    # Another target recall for this transaction.
    session.execute(text("SET LOCAL distillvq.target_recall = 0.9"))
    items = session.scalars(select(Item).order_by(distance).limit(10)).all()
    sample.check([item.id for item in items])

    recall = session.execute(text("SELECT recall FROM distillvq_recall('sqlalchemy_items_embedding_idx')")).scalar_one()
    print(f"recall@10 is {recall:.3f}")
    assert recall > 0.85
