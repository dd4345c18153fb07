"""distillvq in a Django migration: django_project/ has the settings, the index class, the model, and the migration.

    pip install -r docs/clients/requirements.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/django_example.py

The migration creates the index on an empty table. VACUUM trains the index once the table has rows. The table
"notes_note" must not exist.
"""

import os

import django
import sample

os.environ["DJANGO_SETTINGS_MODULE"] = "django_project.settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django_project.notes.models import Note  # noqa: E402
from pgvector.django import CosineDistance  # noqa: E402

call_command("migrate", verbosity=0)
# Exits with an error if the migrations do not contain all of the models.
call_command("makemigrations", check=True, dry_run=True)

rows = zip(sample.topics, sample.vectors)
Note.objects.bulk_create(
    [Note(id=id, topic=topic, embedding=vector) for id, (topic, vector) in enumerate(rows)], batch_size=1000
)

with connection.cursor() as cursor:
    # Autovacuum does this too, within a minute by default.
    cursor.execute("VACUUM ANALYZE notes_note")
    cursor.execute("SELECT lists, exact_rows FROM distillvq_index_info('notes_embedding_idx')")
    lists, exact_rows = cursor.fetchone()
print(f"the index is trained: {lists} lists, {exact_rows} rows without a code")
assert lists > 0 and exact_rows == 0

nearest = Note.objects.order_by(CosineDistance("embedding", sample.query))[:10]
sample.check([note.id for note in nearest])

of_topic = Note.objects.filter(topic=sample.query_topic).order_by(CosineDistance("embedding", sample.query))[:10]
sample.check([note.id for note in of_topic], topic=sample.query_topic)
