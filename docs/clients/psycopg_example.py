"""distillvq from Python, with psycopg 3 and pgvector's adapter.

    pip install -r docs/clients/requirements.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/psycopg_example.py

It creates the table "psycopg_items", which must not exist.
"""

import os

import psycopg
import sample
from pgvector.psycopg import register_vector

with psycopg.connect(os.environ.get("DATABASE_URL", ""), autocommit=True) as db:
    db.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
    db.execute(
        f"CREATE TABLE psycopg_items (id bigint PRIMARY KEY, topic integer, embedding vector({sample.DIMENSIONS}))"
    )

    # Registers the type vector, so that parameters can be numpy arrays.
    register_vector(db)

    with db.cursor().copy("COPY psycopg_items (id, topic, embedding) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["bigint", "integer", "vector"])
        for id, (topic, embedding) in enumerate(zip(sample.topics, sample.vectors)):
            copy.write_row((id, topic, embedding))

    # Insert the rows before the index is created: it is trained on them.
    db.execute("CREATE INDEX ON psycopg_items USING distillvq (embedding vector_cosine_ops)")
    db.execute("ANALYZE psycopg_items")

    # For all searches of this connection.
    db.execute("SET distillvq.target_recall = 0.98")

    nearest = db.execute(
        "SELECT id, embedding <=> %(query)s AS distance FROM psycopg_items WHERE topic = %(topic)s "
        "ORDER BY embedding <=> %(query)s LIMIT 10",
        {"query": sample.query, "topic": sample.query_topic},
    ).fetchall()
    for id, distance in nearest:
        print(f"item {id} at {distance:.3f}")
    sample.check([id for id, _ in nearest], topic=sample.query_topic)

    # For one search: SET LOCAL ends with the transaction.
    with db.transaction():
        db.execute("SET LOCAL distillvq.target_recall = 0.9")
        nearest = db.execute(
            "SELECT id FROM psycopg_items ORDER BY embedding <=> %s LIMIT 10", (sample.query,)
        ).fetchall()
    sample.check([id for id, in nearest])

    recall, low, high = db.execute(
        "SELECT recall, recall_low, recall_high FROM distillvq_recall('psycopg_items_embedding_idx')"
    ).fetchone()
    print(f"recall@10 is {recall:.3f}, 95 % confidence interval {low:.3f} to {high:.3f}")
    assert recall > 0.9
