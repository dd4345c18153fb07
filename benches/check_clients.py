#!/usr/bin/env python3
"""Runs the algorithm for ann-benchmarks and the client for VectorDBBench on small data, on the server of PGHOST.

Needs psycopg, numpy and pgvector. vectordb_bench is used if it is installed; otherwise stubs stand in for its classes.
"""

import enum
import importlib.util
import pathlib
import sys
import types

import numpy as np

HERE = pathlib.Path(__file__).parent
ROWS = np.random.RandomState(3).normal(size=(2_000, 16)).astype(np.float32)
QUERIES = np.random.RandomState(4).normal(size=(30, 16)).astype(np.float32)
K = 10
MIN_RECALL = 0.9


def module(name, **members):
    """An empty module, which is a package too."""
    made = types.ModuleType(name)
    made.__path__ = []
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


def load(name, path):
    """A file as a module of this name, so that its relative imports work."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=None)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def nearest(metric, query, first=0):
    """The K nearest rows, of those from the row `first` on."""
    if metric == "l2":
        distances = np.linalg.norm(ROWS - query, axis=1)
    else:
        scale = np.linalg.norm(ROWS, axis=1) if metric == "cosine" else 1
        distances = -(ROWS @ query) / scale
    distances[:first] = np.inf
    return set(np.argsort(distances)[:K].tolist())


def check(name, metric, search, first=0):
    found = [len(nearest(metric, query, first) & set(search(query))) for query in QUERIES]
    recall = sum(found) / (K * len(QUERIES))
    print(f"{name}, {metric}: recall {recall:.3f}")
    if recall < MIN_RECALL:
        sys.exit(f"{name}: recall {recall:.3f} for {metric} is below {MIN_RECALL}")


def check_ann_benchmarks():
    base = type("BaseANN", (), {"done": lambda self: None})
    for name in ("ann_benchmarks", "ann_benchmarks.algorithms", "ann_benchmarks.algorithms.base", "ann_benchmarks.algorithms.distillvq"):
        module(name)
    module("ann_benchmarks.algorithms.base.module", BaseANN=base)
    algorithm = load("ann_benchmarks.algorithms.distillvq.module", HERE / "ann-benchmarks" / "distillvq" / "module.py")
    for distance, metric, parameters in (("angular", "cosine", {}), ("euclidean", "l2", {"lists": 30, "refine": "sq7"})):
        tested = algorithm.DistillVQ(distance, parameters)
        assert tested.get_memory_usage() == 0
        tested.fit(ROWS)
        tested.set_query_arguments(0.98)
        check(str(tested), metric, lambda query: tested.query(query, K))
        assert tested.get_memory_usage() > 50
        tested.done()


def stub_vectordb_bench():
    """The names that the client imports, without behavior."""

    class Model:
        """Members of annotations, set by keywords, as in pydantic."""

        def __init__(self, **values):
            self.__dict__.update(values)

    class Secret(str):
        def get_secret_value(self):
            return str(self)

    metrics = enum.Enum("MetricType", {name: name for name in ("COSINE", "L2", "IP")})
    filters = enum.Enum("FilterOp", {name: name for name in ("NonFilter", "NumGE")})
    empty = type("Empty", (), {})
    module("pydantic", BaseModel=Model, SecretStr=Secret)
    for name in ("vectordb_bench", "vectordb_bench.backend", "vectordb_bench.backend.clients"):
        module(name)
    module("vectordb_bench.backend.filter", Filter=empty, FilterOp=filters)
    config = type("DBConfig", (Model,), {})
    module("vectordb_bench.backend.clients.api", DBCaseConfig=empty, DBConfig=config, MetricType=metrics, VectorDB=empty)


def check_vectordb_bench():
    real = importlib.util.find_spec("vectordb_bench")
    if not real:
        stub_vectordb_bench()
    from vectordb_bench.backend.clients.api import MetricType
    from vectordb_bench.backend.filter import FilterOp

    module("vectordb_bench.backend.clients.distillvq")
    client = load("vectordb_bench.backend.clients.distillvq.distillvq", HERE / "vectordbbench" / "distillvq.py")
    secret = client.SecretStr("application_name=check_clients")
    config = client.DistillVQConfig(connection=secret).to_dict()
    for metric in ("cosine", "l2", "ip"):
        case = client.DistillVQIndexConfig(metric_type=MetricType[metric.upper()], target_recall=0.98, lists=30)
        tested = client.DistillVQ(dim=ROWS.shape[1], db_config=config, db_case_config=case, drop_old=True, collection_name="")
        with tested.init():
            for start in (0, 1_000):
                inserted, error = tested.insert_embeddings(ROWS[start : start + 1_000].tolist(), list(range(start, start + 1_000)))
                assert (inserted, error) == (1_000, None), error
            inserted, error = tested.insert_embeddings(ROWS[:1].tolist(), [0])
            assert inserted == 0 and error is not None
            tested.optimize(len(ROWS))
        kind = "VectorDBBench" if real else "VectorDBBench (stubs)"
        tested = tested.copy_for_thread()
        with tested.init():
            check(kind, metric, lambda query: tested.search_embedding(query.tolist(), K))
            tested.prepare_filter(types.SimpleNamespace(type=FilterOp.NumGE, int_value=1_500))
            check(f"{kind}, filtered", metric, lambda query: tested.search_embedding(query.tolist(), K), 1_500)


if __name__ == "__main__":
    check_ann_benchmarks()
    check_vectordb_bench()
