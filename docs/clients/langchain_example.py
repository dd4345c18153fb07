"""distillvq from LangChain, with the vector stores PGVector and PGVectorStore of langchain-postgres.

    pip install -r docs/clients/requirements-frameworks.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/langchain_example.py

It creates the stores' tables "langchain_pg_embedding" and "langchain_items", which must not exist.
"""

import os
from dataclasses import dataclass

import sample
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.indexes import BaseIndex, QueryOptions
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


class SampleEmbeddings(Embeddings):
    """In place of a language model."""

    def embed_documents(self, texts):
        return [sample.embed(text) for text in texts]

    def embed_query(self, text):
        return sample.embed(text)


documents = [
    Document(text, metadata={"id": id, "topic": topic})
    for id, (text, topic) in enumerate(zip(sample.texts, sample.topics))
]
url = make_url(os.environ.get("DATABASE_URL", "postgresql://")).set(drivername="postgresql+psycopg")
engine = create_engine(url)
with engine.begin() as connection:
    connection.execute(text("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE"))

# PGVector: without embedding_length, the column has no dimensions and cannot be indexed.
store = PGVector(SampleEmbeddings(), connection=engine, embedding_length=sample.DIMENSIONS)
store.add_documents(documents)
with engine.begin() as connection:
    connection.execute(
        text("CREATE INDEX langchain_idx ON langchain_pg_embedding USING distillvq (embedding vector_cosine_ops)")
    )
    connection.execute(text("ANALYZE langchain_pg_collection, langchain_pg_embedding"))

sample.check([document.metadata["id"] for document in store.similarity_search(sample.question, k=10)])
of_topic = store.similarity_search(sample.question, k=10, filter={"topic": sample.query_topic})
sample.check([document.metadata["id"] for document in of_topic], topic=sample.query_topic)


# PGVectorStore: an index class and, for settings of searches, a class of options.
@dataclass
class DistillvqIndex(BaseIndex):
    index_type: str = "distillvq"
    target_recall: float = 0.95

    def index_options(self):
        return f"(target_recall = {self.target_recall})"  # must not be empty


@dataclass
class DistillvqQueryOptions(QueryOptions):
    target_recall: float = 0.95

    def to_parameter(self):
        return [f"distillvq.target_recall = {self.target_recall}"]

    def to_string(self):
        return self.to_parameter()[0]


pg_engine = PGEngine.from_connection_string(url)
pg_engine.init_vectorstore_table("langchain_items", sample.DIMENSIONS)
store = PGVectorStore.create_sync(
    pg_engine,
    SampleEmbeddings(),
    "langchain_items",
    index_query_options=DistillvqQueryOptions(target_recall=0.98),
)
store.add_documents(documents)
store.apply_vector_index(DistillvqIndex())

sample.check([document.metadata["id"] for document in store.similarity_search(sample.question, k=10)])
