import pgvector.django
from django.contrib.postgres.operations import CreateExtension
from django.db import migrations, models

import django_project.notes.indexes


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        # Written by hand; makemigrations writes the rest.
        CreateExtension("vector"),
        CreateExtension("distillvq"),
        migrations.CreateModel(
            name="Note",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("topic", models.IntegerField()),
                ("embedding", pgvector.django.VectorField(dimensions=64)),
            ],
            options={
                "indexes": [
                    django_project.notes.indexes.DistillvqIndex(
                        fields=["embedding"],
                        name="notes_embedding_idx",
                        opclasses=["vector_cosine_ops"],
                        target_recall=0.98,
                    )
                ],
            },
        ),
    ]
