"""distillvq from Haystack, with the PgvectorDocumentStore of pgvector-haystack.

    pip install -r docs/clients/requirements-frameworks.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/haystack_example.py

It creates the store's table "haystack_documents", which must not exist.
"""

import os

import psycopg
import sample
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

# With the default search_strategy, "exact_nearest_neighbor", the store creates no index, but its searches use one.
store = PgvectorDocumentStore(
    connection_string=Secret.from_env_var("DATABASE_URL"), embedding_dimension=sample.DIMENSIONS
)
# The embeddings are in the documents, in place of those of a language model.
store.write_documents(
    [
        Document(id=str(id), content=sample.texts[id], embedding=sample.vectors[id].tolist(), meta={"topic": topic})
        for id, topic in enumerate(sample.topics)
    ]
)

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
    db.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
    db.execute("CREATE INDEX haystack_idx ON haystack_documents USING distillvq (embedding vector_cosine_ops)")
    db.execute("ANALYZE haystack_documents")

retriever = PgvectorEmbeddingRetriever(document_store=store, top_k=10)
found = retriever.run(query_embedding=sample.embed(sample.question))["documents"]
sample.check([int(document.id) for document in found])

filters = {"field": "meta.topic", "operator": "==", "value": sample.query_topic}
found = retriever.run(query_embedding=sample.embed(sample.question), filters=filters)["documents"]
sample.check([int(document.id) for document in found], topic=sample.query_topic)
