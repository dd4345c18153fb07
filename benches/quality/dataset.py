"""Data sets on disk, their split, and the exact neighbors.

A *full* set has `documents.npy`, `queries.npy` and `labels.npy`: queries 0..1999 are the test queries, 2000..31999 the
query log, 32000..34999 the validation queries. A *cut* set has `documents.npy`, `log.npy`, `test.npy` and
`test_labels.npy`; its validation queries are the last 500 of the log, without labels. Values are float16, float32, or
int8 with a scale a row in `NAME_scales.npy`. The Rust side (crates/training/examples/quality) follows the same rules.
"""

import numpy as np

TEST = slice(0, 2_000)
VALIDATION = slice(32_000, 35_000)
CUT_VALIDATION = 500
NEAREST = 10
# Rows that are nearer to the tenth than this are ties: products of equal vectors differ by this much at the most.
TIE = 1e-6
BLOCK = 250


def unit_rows(directory, name):
    """The vectors of NAME.npy as float32 of unit length."""
    rows = np.load(directory / f"{name}.npy").astype(np.float32)
    scales = directory / f"{name}_scales.npy"
    if scales.exists():
        rows *= np.load(scales).astype(np.float32)[:, None]
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))


def evenly(rows, count):
    """The numbers of `count` rows at even distances, or all: the training rows."""
    count = min(rows, count)
    return np.arange(count) * rows // count


def blocks(queries):
    """(number of the first query, queries) a block."""
    for start in range(0, len(queries), BLOCK):
        yield start, queries[start : start + BLOCK]


class Task:
    """Documents, the queries to measure with, and for each its true neighbors and its label."""

    def __init__(self, directory, split):
        self.documents = unit_rows(directory, "documents")
        self.queries, self.labels = self._measured(directory, split)
        if not len(self.queries):
            raise SystemExit(f"{directory}: no {split} queries")
        self.truth = self._truth()

    @staticmethod
    def _measured(directory, split):
        if (directory / "queries.npy").exists():
            part = TEST if split == "test" else VALIDATION
            labels = directory / "labels.npy"
            return unit_rows(directory, "queries")[part], np.load(labels)[part] if labels.exists() else None
        if split == "test":
            labels = directory / "test_labels.npy"
            return unit_rows(directory, "test"), np.load(labels) if labels.exists() else None
        return unit_rows(directory, "log")[-CUT_VALIDATION:], None

    def _truth(self):
        """For each query the rows that count as its ten nearest: ten, and more if others tie with the tenth."""
        truth = []
        for _, block in blocks(self.queries):
            for scores in block @ self.documents.T:
                tenth = np.partition(scores, -NEAREST)[-NEAREST]
                truth.append(np.flatnonzero(scores >= tenth - TIE))
        return truth
