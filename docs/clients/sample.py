"""Sample data of the Python examples: embeddings in place of a language model's, and a check of search results."""

import numpy as np

DIMENSIONS = 64
TOPICS = 50
ROWS = 5000

_random = np.random.default_rng(5)
_centers = _random.normal(size=(TOPICS, DIMENSIONS))


def _embeddings(topics):
    """One vector per topic, around the center of the topic."""
    return (_centers[topics] + _random.normal(size=(len(topics), DIMENSIONS))).astype(np.float32)


topics = _random.integers(TOPICS, size=ROWS).tolist()
vectors = _embeddings(topics)
texts = [f"Text {id} about topic {topic}" for id, topic in enumerate(topics)]

query_topic = 7
query = _embeddings([query_topic])[0]
question = f"What is topic {query_topic}?"

_vector_of = {**dict(zip(texts, vectors)), question: query}


def embed(text):
    """The vector of a text or of the question, as a list."""
    return _vector_of[text].tolist()


def check(found, topic=None):
    """Fails unless the ids are the 10 nearest to the query by cosine distance, among the rows of a topic or all rows.

    An approximate search may miss two of them.
    """
    similarity = vectors @ query / np.linalg.norm(vectors, axis=1)
    by_distance = [id for id in np.argsort(-similarity).tolist() if topic is None or topics[id] == topic]
    assert len(found) == 10 and len(set(found) & set(by_distance[:10])) >= 8, (found, by_distance[:10])
    assert list(found) == sorted(found, key=by_distance.index), "not ordered by distance"
