"""distillvq in an Alembic migration: alembic_project/ has the models and the migration.

    pip install -r docs/clients/requirements.txt
    DATABASE_URL=postgresql://localhost/test python docs/clients/alembic_example.py

The migration creates the index on an empty table. VACUUM trains the index once the table has rows. The table
"alembic_notes" must not exist.
"""

import os
from pathlib import Path

import sample
from alembic import command
from alembic.config import Config
from alembic_project.models import Note
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

url = make_url(os.environ.get("DATABASE_URL", "postgresql://")).set(drivername="postgresql+psycopg")
engine = create_engine(url)

with engine.begin() as connection:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).with_name("alembic_project") / "migrations"))
    command.upgrade(config, "head")
    # Fails if the models differ from the database.
    command.check(config)

with Session(engine) as session:
    rows = zip(sample.topics, sample.vectors)
    session.execute(
        insert(Note), [{"id": id, "topic": topic, "embedding": vector} for id, (topic, vector) in enumerate(rows)]
    )
    session.commit()

# Autovacuum does this too, within a minute by default.
with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
    connection.execute(text("VACUUM ANALYZE alembic_notes"))

with Session(engine) as session:
    lists, exact_rows = session.execute(
        text("SELECT lists, exact_rows FROM distillvq_index_info('alembic_notes_embedding_idx')")
    ).one()
    print(f"the index is trained: {lists} lists, {exact_rows} rows without a code")
    assert lists > 0 and exact_rows == 0

    nearest = session.scalars(select(Note).order_by(Note.embedding.cosine_distance(sample.query)).limit(10)).all()
    sample.check([note.id for note in nearest])
