"""distillvq as an algorithm of ann-benchmarks.

The module loads a data set into the table `items`, builds an index, and searches with one prepared statement. The connection is
that of libpq's environment variables PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE. Without PGHOST the module starts the
server of the container and uses the database `ann` there.
"""

import os
import subprocess

import pgvector.psycopg
import psycopg

from ..base.module import BaseANN

OPERATORS = {"angular": ("cosine", "<=>"), "euclidean": ("l2", "<->")}


class DistillVQ(BaseANN):
    def __init__(self, metric, parameters):
        """`parameters`: the index parameters of `CREATE INDEX … WITH`, such as {"lists": 1000}; empty for the automatic ones."""
        if metric not in OPERATORS:
            raise ValueError(f"distillvq does not support the metric {metric}")
        self._ops, self._operator = OPERATORS[metric]
        self._parameters = parameters
        self._target_recall = None
        self._connection = None

    def _connect(self):
        if "PGHOST" in os.environ:
            return psycopg.connect(autocommit=True)
        subprocess.run(["service", "postgresql", "start"], check=True)
        return psycopg.connect(user="ann", password="ann", dbname="ann", autocommit=True)

    def fit(self, X):
        self._connection = connection = self._connect()
        connection.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
        pgvector.psycopg.register_vector(connection)
        connection.execute("DROP TABLE IF EXISTS items")
        connection.execute(f"CREATE TABLE items (id integer, embedding vector({X.shape[1]}))")
        with connection.cursor() as cursor, cursor.copy("COPY items FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "vector"])
            for row in enumerate(X):
                copy.write_row(row)
        parameters = ", ".join(f"{name} = {value}" for name, value in self._parameters.items())
        connection.execute(
            f"CREATE INDEX items_idx ON items USING distillvq (embedding vector_{self._ops}_ops)" + (f" WITH ({parameters})" if parameters else "")
        )
        connection.execute("VACUUM ANALYZE items")
        # Searches must use the index, and must not change it.
        connection.execute("SET enable_seqscan = off; SET distillvq.sample_queries = off; SET jit = off")

    def set_query_arguments(self, target_recall):
        self._target_recall = target_recall
        self._connection.execute(f"SET distillvq.target_recall = {target_recall}")

    def query(self, v, n):
        statement = f"SELECT id FROM items ORDER BY embedding {self._operator} %s LIMIT %s"
        rows = self._connection.execute(statement, (v, n), binary=True, prepare=True)
        return [row[0] for row in rows]

    def get_memory_usage(self):
        """Kilobytes of the index; 0 before it is built."""
        if self._connection is None:
            return 0
        return self._connection.execute("SELECT pg_relation_size('items_idx')").fetchone()[0] / 1024

    def done(self):
        if self._connection is not None:
            self._connection.close()

    def __str__(self):
        parameters = "".join(f"{name}={value}, " for name, value in self._parameters.items())
        return f"DistillVQ({parameters}target_recall={self._target_recall})"
