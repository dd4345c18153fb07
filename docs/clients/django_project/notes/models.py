from django.db import models
from pgvector.django import VectorField

from .indexes import DistillvqIndex


class Note(models.Model):
    topic = models.IntegerField()
    embedding = VectorField(dimensions=64)

    class Meta:
        indexes = [
            DistillvqIndex(
                name="notes_embedding_idx", fields=["embedding"], opclasses=["vector_cosine_ops"], target_recall=0.98
            )
        ]
