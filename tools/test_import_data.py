#!/usr/bin/env python3
"""Test of import_data.py on small generated files. Formats whose package is missing are skipped."""

import contextlib
import importlib.util
import io
import pathlib
import tempfile
import unittest

import numpy as np

import import_data

ROWS = np.random.RandomState(2).uniform(0, 255, (40, 6)).round(1).astype(np.float32)
BYTES = ROWS.astype(np.uint8)
QUERIES = ROWS[:5] + 1


def needs(package):
    return unittest.skipUnless(importlib.util.find_spec(package), f"{package} is not installed")


class ImportTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = pathlib.Path(directory.name)
        self.output = self.folder / "set"

    def write_vecs(self, name, rows):
        """Rows, each after its dimension."""
        path = self.folder / name
        with path.open("wb") as file:
            for row in rows:
                file.write(np.int32(len(row)).tobytes() + row.tobytes())
        return path

    def convert(self, *line):
        with contextlib.redirect_stdout(io.StringIO()):
            import_data.main([*map(str, line), "--output", str(self.output)])

    def load(self, name):
        return np.load(self.output / f"{name}.npy")

    def metric(self):
        return (self.output / "metric.txt").read_text(encoding="utf-8").strip()

    def fails(self, message, *line):
        with self.assertRaises(SystemExit) as caught:
            self.convert(*line)
        self.assertIn(message, str(caught.exception))

    def test_fvecs_with_queries_and_log(self):
        log = self.write_vecs("log.fvecs", ROWS[10:30])
        self.convert(self.write_vecs("a.fvecs", ROWS), self.write_vecs("q.fvecs", QUERIES), "--log", log, "--metric", "l2")
        np.testing.assert_array_equal(self.load("documents"), ROWS)
        np.testing.assert_array_equal(self.load("test"), QUERIES)
        np.testing.assert_array_equal(self.load("log"), ROWS[10:30])
        self.assertEqual(self.metric(), "l2")

    def test_bytes_are_kept_in_float16(self):
        self.convert(self.write_vecs("a.bvecs", BYTES), self.write_vecs("q.fvecs", QUERIES))
        documents = self.load("documents")
        self.assertEqual(documents.dtype, np.float16)
        np.testing.assert_array_equal(documents, BYTES)
        self.assertEqual(self.metric(), "cosine")

    def test_rows_are_held_out(self):
        np.save(self.folder / "a.npy", np.asfortranarray(ROWS.astype(np.float64)))
        self.convert(self.folder / "a.npy", "--held-out", "10", "--rows", "30")
        documents, queries = self.load("documents"), self.load("queries")
        self.assertEqual((documents.shape, queries.shape), ((20, 6), (10, 6)))
        self.assertEqual(documents.dtype, np.float32)
        both = np.concatenate([documents, queries])
        self.assertEqual(sorted(map(tuple, both)), sorted(map(tuple, ROWS[:30])))

    @needs("h5py")
    def test_ann_benchmarks(self):
        import h5py

        for distance, metric in (("euclidean", "l2"), ("angular", "cosine")):
            path = self.folder / f"{distance}.hdf5"
            with h5py.File(path, "w") as file:
                file["train"], file["test"] = ROWS, QUERIES
                file.attrs["distance"] = distance
            self.output = self.folder / distance
            self.convert(path)
            np.testing.assert_array_equal(self.load("documents"), ROWS)
            np.testing.assert_array_equal(self.load("queries"), QUERIES)
            self.assertEqual(self.metric(), metric)
        with h5py.File(self.folder / "sets.h5", "w") as file:
            file["train"], file["test"] = ROWS, QUERIES
            file.attrs["distance"] = "jaccard"
        self.output = self.folder / "other"
        self.fails("'jaccard' is not supported", self.folder / "sets.h5")

    @needs("pyarrow")
    def test_parquet(self):
        import pyarrow
        from pyarrow import parquet

        path = self.folder / "a.parquet"
        vectors = pyarrow.FixedSizeListArray.from_arrays(ROWS.ravel(), 6)
        parquet.write_table(pyarrow.table({"id": range(40), "emb": vectors, "words": [list(range(i)) for i in range(40)]}), path)
        queries = self.folder / "q.parquet"
        parquet.write_table(pyarrow.table({"vector": QUERIES.tolist()}), queries, row_group_size=2)
        self.convert(path, queries, "--column", "emb", "--query-column", "vector", "--metric", "ip")
        np.testing.assert_array_equal(self.load("documents"), ROWS)
        np.testing.assert_array_equal(self.load("queries"), QUERIES)
        self.assertEqual(self.metric(), "ip")
        self.output = self.folder / "other"
        self.fails("no column 'embedding', but id, emb, words", path)
        self.fails("differ in their dimensions", path, "--column", "words")
        self.fails("not a column of lists", path, "--column", "id")

    def test_bad_input_is_named(self):
        good = self.write_vecs("a.fvecs", ROWS)
        cut = self.folder / "cut.fvecs"
        cut.write_bytes(good.read_bytes()[:-3])
        self.fails("bytes are not rows of 6 dimensions", cut)
        self.fails("differ in their dimensions", good, self.write_vecs("q.fvecs", QUERIES[:, :3]))
        self.fails("1000 of 40 documents cannot be held out", good)
        self.fails("the ending is not", self.folder / "a.csv")
        self.fails("No such file", self.folder / "missing.fvecs")
        wrong = ROWS.copy()
        wrong[3, 2] = np.nan
        self.fails("not finite", self.write_vecs("nan.fvecs", wrong), good)
        self.assertFalse(list(self.output.glob("*.npy")))

    def test_a_data_set_is_not_replaced(self):
        self.convert(self.write_vecs("a.fvecs", ROWS), self.write_vecs("q.fvecs", QUERIES))
        self.fails("there is a data set already", self.folder / "a.fvecs", self.folder / "q.fvecs")


if __name__ == "__main__":
    unittest.main()
