"""distillvq from LlamaIndex, with its PGVectorStore.

    pip install -r docs/clients/requirements-frameworks.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/llamaindex_example.py

It creates the store's table "data_llamaindex_items", which must not exist.
"""

import os

import sample
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.postgres import PGVectorStore
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

url = make_url(os.environ.get("DATABASE_URL", "postgresql://"))
store = PGVectorStore.from_params(
    connection_string=url.set(drivername="postgresql+psycopg2"),
    async_connection_string=url.set(drivername="postgresql+asyncpg"),
    table_name="llamaindex_items",
    embed_dim=sample.DIMENSIONS,
    use_jsonb=True,
)
# The embeddings are in the nodes, in place of those of a language model.
store.add(
    [
        TextNode(id_=str(id), text=sample.texts[id], embedding=sample.vectors[id].tolist(), metadata={"topic": topic})
        for id, topic in enumerate(sample.topics)
    ]
)

# The store prefixes the name of its table with "data_".
with create_engine(url.set(drivername="postgresql+psycopg2")).begin() as connection:
    connection.execute(text("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE"))
    connection.execute(
        text("CREATE INDEX llamaindex_idx ON data_llamaindex_items USING distillvq (embedding vector_cosine_ops)")
    )
    connection.execute(text("ANALYZE data_llamaindex_items"))

query = VectorStoreQuery(query_embedding=sample.embed(sample.question), similarity_top_k=10)
sample.check([int(id) for id in store.query(query).ids])

query.filters = MetadataFilters(filters=[ExactMatchFilter(key="topic", value=sample.query_topic)])
sample.check([int(id) for id in store.query(query).ids], topic=sample.query_topic)
