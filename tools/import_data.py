#!/usr/bin/env python3
"""Convert vectors of other formats into a folder for `make demo DATA=…` and `make bench DATA=…`.

    python3 tools/import_data.py sift-128-euclidean.hdf5 --output data/sift
    python3 tools/import_data.py base.fvecs queries.fvecs --output data/own --metric l2
    python3 tools/import_data.py documents.parquet --column embedding --held-out 1000 --output data/own

Formats, by the ending of the name:

    .hdf5 .h5       a file of ann-benchmarks with the data sets train and test, and its metric
    .fvecs .bvecs   float32 or uint8 vectors, each after its dimension as int32
    .parquet        a column of lists of numbers
    .npy            an array of two dimensions

Without a file of queries, --held-out rows are drawn from the documents and serve as queries. --log names a file of queries to
train with. Needs numpy; HDF5 needs h5py, and parquet needs pyarrow: pip install -r tools/import_data.txt

The folder holds documents.npy, queries.npy (or test.npy and log.npy) and metric.txt; crates/harness/src/data.rs describes it.
"""

import argparse
import pathlib
import sys

import numpy as np

METRICS = ("cosine", "l2", "ip")
# The names of ann-benchmarks.
DISTANCES = {"angular": "cosine", "euclidean": "l2", "dot": "ip", "ip": "ip", "cosine": "cosine", "l2": "l2"}
DEFAULT_HELD_OUT = 1_000
SEED = 1


class BadInput(Exception):
    """Input that cannot be converted. The message is for the user."""


def read_vecs(path, value_type):
    """A file of .fvecs (value type float32) or .bvecs (uint8), memory-mapped."""
    size = path.stat().st_size
    dim = int(np.fromfile(path, "<i4", 1)[0]) if size >= 4 else 0
    if dim < 1:
        raise BadInput(f"{path}: no vectors")
    row = np.dtype([("dim", "<i4"), ("values", value_type, (dim,))])
    if size % row.itemsize:
        raise BadInput(f"{path}: {size} bytes are not rows of {dim} dimensions")
    rows = np.memmap(path, row, "r")
    if (rows["dim"] != dim).any():
        raise BadInput(f"{path}: rows differ in their dimensions")
    return rows["values"]


def read_npy(path):
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise BadInput(f"{path}: not an array of numbers of two dimensions")
    return rows


def read_parquet(path, column):
    parquet = import_package("pyarrow.parquet", "parquet")
    names = parquet.read_schema(path).names
    if column not in names:
        raise BadInput(f"{path}: no column {column!r}, but {', '.join(names)}; use --column")
    lists = parquet.read_table(path, columns=[column]).column(column).combine_chunks()
    if lists.null_count:
        raise BadInput(f"{path}: column {column!r} has {lists.null_count} nulls")
    try:
        values = lists.flatten().to_numpy(zero_copy_only=False)
    except AttributeError:
        raise BadInput(f"{path}: column {column!r} is not a column of lists") from None
    if not len(lists) or len(values) % len(lists) or set(lists.value_lengths().unique().to_pylist()) != {len(values) // len(lists)}:
        raise BadInput(f"{path}: the vectors of {column!r} differ in their dimensions, or there are none")
    return values.reshape(len(lists), -1)


def read_hdf5(path):
    """Documents, queries, and metric of a file of ann-benchmarks."""
    file = import_package("h5py", "HDF5").File(path, "r")
    missing = {"train", "test"} - file.keys()
    if missing:
        raise BadInput(f"{path}: no data set {' and '.join(sorted(missing))}; the file has {', '.join(file)}")
    distance = file.attrs.get("distance", "")
    distance = distance.decode() if isinstance(distance, bytes) else str(distance)
    return file["train"], file["test"], DISTANCES.get(distance, distance or None)


def import_package(name, format_name):
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadInput(f"{format_name} needs a package: pip install -r tools/import_data.txt") from None


def read(path, column):
    """The vectors of a file that holds one set of vectors."""
    match path.suffix:
        case ".fvecs":
            return read_vecs(path, "<f4")
        case ".bvecs":
            return read_vecs(path, "u1")
        case ".npy":
            return read_npy(path)
        case ".parquet":
            return read_parquet(path, column)
    raise BadInput(f"{path}: the ending is not .hdf5, .h5, .fvecs, .bvecs, .parquet, or .npy")


def hold_out(documents, count):
    """Documents without `count` of them, and these in random order. The same for the same input."""
    if not 0 < count < len(documents):
        raise BadInput(f"{count} of {len(documents)} documents cannot be held out")
    drawn = np.random.RandomState(SEED).permutation(len(documents))[:count]
    kept = np.ones(len(documents), dtype=bool)
    kept[drawn] = False
    documents = np.asarray(documents)
    return documents[kept], documents[drawn]


def stored(rows):
    """Rows in a type that the harness reads: float16 if that loses nothing of bytes, otherwise float32."""
    rows = np.asarray(rows)
    rows = rows.astype(np.float16 if rows.dtype in (np.uint8, np.int8, np.float16) else np.float32)
    if not np.isfinite(rows).all():
        raise BadInput("a vector has a value that is not finite")
    return np.ascontiguousarray(rows)


def load(args):
    """Documents, queries, and metric."""
    metric = None
    if args.documents.suffix in (".hdf5", ".h5"):
        if args.queries:
            raise BadInput("an HDF5 file has its queries in itself")
        documents, queries, metric = read_hdf5(args.documents)
    else:
        documents = read(args.documents, args.column)
        queries = read(args.queries, args.query_column or args.column) if args.queries else None
    if args.rows:
        documents = documents[: args.rows]
    if queries is None:
        documents, queries = hold_out(documents, args.held_out)
    metric = args.metric or metric or "cosine"
    if metric not in METRICS:
        raise BadInput(f"{args.documents}: metric {metric!r} is not supported")
    return documents, queries, metric


def convert(args):
    documents, queries, metric = load(args)
    log = read(args.log, args.query_column or args.column) if args.log else None
    parts = {"documents": documents, "queries": queries} if log is None else {"documents": documents, "test": queries, "log": log}
    if len({rows.shape[1] for rows in parts.values()}) > 1:
        raise BadInput("documents and queries differ in their dimensions")
    parts = {name: stored(rows) for name, rows in parts.items()}
    args.output.mkdir(parents=True, exist_ok=True)
    left = [name for name in ("documents", "queries", "test", "log") if (args.output / f"{name}.npy").exists()]
    if left:
        raise BadInput(f"{args.output}: there is a data set already")
    for name, rows in parts.items():
        np.save(args.output / f"{name}.npy", rows)
    (args.output / "metric.txt").write_text(f"{metric}\n", encoding="utf-8")
    sizes = ", ".join(f"{len(rows):,} rows in {name}.npy" for name, rows in parts.items())
    print(f"{args.output}: {sizes}; {documents.shape[1]} dimensions, metric {metric}")


def arguments(line):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=pathlib.Path, help="file of documents, or of documents and queries (HDF5)")
    parser.add_argument("queries", type=pathlib.Path, nargs="?", help="file of queries to measure with")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--log", type=pathlib.Path, help="file of queries to train with")
    parser.add_argument("--metric", choices=METRICS, help="by default that of an HDF5 file, or cosine")
    parser.add_argument("--rows", type=int, help="use the first rows of the documents only")
    parser.add_argument("--held-out", type=int, default=DEFAULT_HELD_OUT, metavar="N", help="documents that serve as queries")
    parser.add_argument("--column", default="embedding", help="column of a parquet file")
    parser.add_argument("--query-column", help="column of parquet files of queries, if it has another name")
    return parser.parse_args(line)


def main(line=None):
    try:
        convert(arguments(line))
    except (BadInput, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
