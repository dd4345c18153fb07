"""distillvq from Python, with asyncpg and pgvector's codecs.

    pip install -r docs/clients/requirements.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/asyncpg_example.py

It creates the table "asyncpg_items", which must not exist.
"""

import asyncio
import os

import asyncpg
import sample
from pgvector.asyncpg import register_vector


async def set_up(connection):
    """Runs once per connection of the pool."""
    await register_vector(connection)


async def main():
    url = os.environ.get("DATABASE_URL", "postgresql://")
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
    await connection.close()

    # server_settings holds for all searches of all connections.
    settings = {"distillvq.target_recall": "0.98"}
    async with asyncpg.create_pool(url, min_size=1, init=set_up, server_settings=settings) as pool:
        await pool.execute(
            f"CREATE TABLE asyncpg_items (id bigint PRIMARY KEY, topic integer, embedding vector({sample.DIMENSIONS}))"
        )
        async with pool.acquire() as connection:
            rows = zip(range(sample.ROWS), sample.topics, sample.vectors)
            await connection.copy_records_to_table("asyncpg_items", records=rows)

        # Insert the rows before the index is created: it is trained on them.
        await pool.execute("CREATE INDEX ON asyncpg_items USING distillvq (embedding vector_cosine_ops)")
        await pool.execute("ANALYZE asyncpg_items")

        nearest = await pool.fetch(
            "SELECT id, embedding <=> $1 AS distance FROM asyncpg_items ORDER BY embedding <=> $1 LIMIT 10",
            sample.query,
        )
        for row in nearest:
            print(f"item {row['id']} at {row['distance']:.3f}")
        sample.check([row["id"] for row in nearest])


asyncio.run(main())
