"""distillvq from Python, with psycopg 3 and pgvector's adapter.

    pip install -r docs/clients/requirements.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/psycopg_example.py

It creates the table "psycopg_items", which must not exist.
"""

import os

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

DIMENSIONS = 64
random = np.random.default_rng(5)


def embeddings(centers, rows):
    """Vectors around some centers, in place of those of a language model."""
    return [(c, centers[c] + random.normal(size=DIMENSIONS)) for c in random.integers(len(centers), size=rows)]


centers = random.normal(size=(50, DIMENSIONS))

with psycopg.connect(os.environ.get("DATABASE_URL", ""), autocommit=True) as db:
    db.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
    db.execute(
        f"CREATE TABLE psycopg_items (id bigserial PRIMARY KEY, category integer, embedding vector({DIMENSIONS}))"
    )

    # Registers the type vector, so that parameters can be numpy arrays.
    register_vector(db)

    with db.cursor().copy("COPY psycopg_items (category, embedding) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["integer", "vector"])
        for category, embedding in embeddings(centers, 5000):
            copy.write_row((int(category), embedding))

    # Insert the rows before the index is created: it is trained on them.
    db.execute("CREATE INDEX ON psycopg_items USING distillvq (embedding vector_cosine_ops)")
    db.execute("ANALYZE psycopg_items")

    # For all searches of this connection.
    db.execute("SET distillvq.target_recall = 0.98")

    (category, query), = embeddings(centers, 1)
    nearest = db.execute(
        "SELECT id, embedding <=> %(query)s AS distance FROM psycopg_items WHERE category = %(category)s "
        "ORDER BY embedding <=> %(query)s LIMIT 5",
        {"query": query, "category": int(category)},
    ).fetchall()
    for id, distance in nearest:
        print(f"item {id} at {distance:.3f}")
    assert len(nearest) == 5

    # For one search: SET LOCAL ends with the transaction.
    with db.transaction():
        db.execute("SET LOCAL distillvq.target_recall = 0.9")
        first = db.execute("SELECT id FROM psycopg_items ORDER BY embedding <=> %s LIMIT 1", (query,)).fetchone()
    print(f"the nearest of all: item {first[0]}")

    recall, low, high = db.execute(
        "SELECT recall, recall_low, recall_high FROM distillvq_recall('psycopg_items_embedding_idx')"
    ).fetchone()
    print(f"recall@10 is {recall:.3f}, by 95 % between {low:.3f} and {high:.3f}")
    assert recall > 0.9
