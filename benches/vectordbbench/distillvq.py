"""distillvq as a client of VectorDBBench: vectordb_bench/backend/clients/distillvq/distillvq.py

README.md in this folder says how to add it. The connection is an URI or a string of libpq, such as "host=localhost dbname=bench".
"""

from contextlib import contextmanager
from copy import copy

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from pydantic import BaseModel, SecretStr

from vectordb_bench.backend.filter import Filter, FilterOp

from ..api import DBCaseConfig, DBConfig, MetricType, VectorDB

OPERATORS = {MetricType.COSINE: ("cosine", "<=>"), MetricType.L2: ("l2", "<->"), MetricType.IP: ("ip", "<#>")}
TABLE = sql.Identifier("distillvq_items")
INDEX = sql.Identifier("distillvq_items_idx")


class DistillVQConfig(DBConfig):
    connection: SecretStr

    def to_dict(self) -> dict:
        return {"conninfo": self.connection.get_secret_value()}


class DistillVQIndexConfig(BaseModel, DBCaseConfig):
    """Index parameters, automatic if None, and the target of searches."""

    metric_type: MetricType | None = None
    lists: int | None = None
    subquantizers: int | None = None
    bits: int | None = None
    refine: str | None = None
    target_recall: float = 0.95
    maintenance_work_mem: str = "2GB"

    def operators(self) -> tuple[str, str]:
        """The metric's name in operator classes, and its operator."""
        return OPERATORS[self.metric_type or MetricType.COSINE]

    def index_param(self) -> dict:
        parameters = {name: getattr(self, name) for name in ("lists", "subquantizers", "bits", "refine")}
        return {name: value for name, value in parameters.items() if value is not None}

    def search_param(self) -> dict:
        return {"distillvq.target_recall": self.target_recall, "distillvq.sample_queries": "off", "enable_seqscan": "off"}


class DistillVQ(VectorDB):
    """The methods are called in separate processes, each within `init`."""

    name = "DistillVQ"
    thread_safe = False
    supported_filter_types = [FilterOp.NonFilter, FilterOp.NumGE]

    def __init__(self, dim: int, db_config: dict, db_case_config: DistillVQIndexConfig, drop_old: bool = False, **kwargs):
        self.dim = dim
        self.config = db_config
        self.case_config = db_case_config
        self.connection = None
        self.condition = sql.SQL("")
        with psycopg.connect(**db_config) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS distillvq CASCADE")
            if drop_old:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TABLE))
            table = sql.SQL("CREATE TABLE IF NOT EXISTS {} (id bigint PRIMARY KEY, embedding vector({}))")
            connection.execute(table.format(TABLE, sql.Literal(dim)))

    @contextmanager
    def init(self):
        with psycopg.connect(autocommit=True, **self.config) as self.connection:
            register_vector(self.connection)
            for setting, value in self.case_config.search_param().items():
                self.connection.execute("SELECT set_config(%s, %s, false)", (setting, str(value)))
            yield
        self.connection = None

    def copy_for_thread(self) -> "DistillVQ":
        """A copy without the connection, which belongs to one thread."""
        other = copy(self)
        other.connection = None
        return other

    def prepare_filter(self, filters: Filter):
        kept = filters.type == FilterOp.NumGE
        self.condition = sql.SQL("WHERE id >= {}").format(sql.Literal(filters.int_value)) if kept else sql.SQL("")

    def insert_embeddings(self, embeddings, metadata, **kwargs) -> tuple[int, Exception | None]:
        statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(TABLE)
        try:
            with self.connection.cursor().copy(statement) as rows:
                rows.set_types(["int8", "vector"])
                for row in zip(map(int, metadata), embeddings):
                    rows.write_row((row[0], np.asarray(row[1], dtype=np.float32)))
        except psycopg.Error as error:
            return 0, error
        return len(metadata), None

    def optimize(self, data_size: int | None = None):
        """Builds the index, with the column `id` for filters, and collects the planner's statistics."""
        ops, _ = self.case_config.operators()
        options = [sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in self.case_config.index_param().items()]
        create = sql.SQL("CREATE INDEX {} ON {} USING distillvq (embedding {}, id) {}").format(
            INDEX, TABLE, sql.Identifier(f"vector_{ops}_ops"), sql.SQL("WITH ({})").format(sql.SQL(", ").join(options)) if options else sql.SQL("")
        )
        self.connection.execute("SELECT set_config('maintenance_work_mem', %s, false)", (self.case_config.maintenance_work_mem,))
        self.connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(INDEX))
        self.connection.execute(create)
        self.connection.execute(sql.SQL("VACUUM ANALYZE {}").format(TABLE))

    def search_embedding(self, query, k: int = 100, **kwargs) -> list[int]:
        _, operator = self.case_config.operators()
        statement = sql.SQL("SELECT id FROM {} {} ORDER BY embedding {} %s LIMIT %s").format(TABLE, self.condition, sql.SQL(operator))
        rows = self.connection.execute(statement, (np.asarray(query, dtype=np.float32), k), prepare=True, binary=True)
        return [row[0] for row in rows]
