#!/usr/bin/env python3
"""Cut the small data set of the demo and the tests out of the full WordNet embeddings.

    python3 tools/cut_data.py FULL_DIRECTORY data/wordnet-20k

Needs numpy only, and writes the same bytes every time. The full directory holds documents.npy (float16, one row a
document), queries.npy (float16), labels.npy (int32: the document that a query's sentence illustrates), titles.txt and
LICENSE; queries 0..1999 are the test split, 2000..31999 the query log.

A document is kept if a kept query is labeled with it, or if it is among the nearest documents of a kept query; the
rest is drawn at random. Test queries and query log are treated alike, so that one is no easier than the other.
Vectors are stored as int8 with one float32 scale a row.
"""

import pathlib
import shutil
import sys

import numpy as np

DOCUMENTS = 20_000
TEST = range(0, 500)
LOG = range(2_000, 5_000)
NEAREST = 3
SEED = 20_000


def nearest(queries, documents, count):
    """The `count` nearest documents of each query by cosine; the vectors have unit length."""
    scores = queries.astype(np.float32) @ documents.astype(np.float32).T
    return np.argpartition(-scores, count, axis=1)[:, :count]


def choose(documents, queries, labels):
    """The numbers of the documents to keep, ascending."""
    asked = np.unique(np.concatenate([labels, nearest(queries, documents, NEAREST).ravel()]))
    others = np.setdiff1d(np.arange(len(documents)), asked)
    # RandomState: its stream is frozen for good, unlike that of numpy's newer generators.
    drawn = np.random.RandomState(SEED).permutation(others)[: DOCUMENTS - len(asked)]
    return np.sort(np.concatenate([asked, drawn]))


def save_int8(directory, name, rows):
    """Writes NAME.npy (int8) and NAME_scales.npy (float32): row = int8 * scale."""
    rows = rows.astype(np.float32)
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    np.save(directory / f"{name}.npy", np.rint(rows / scales[:, None]).astype(np.int8))
    np.save(directory / f"{name}_scales.npy", scales.astype(np.float32))


def main():
    source, target = map(pathlib.Path, sys.argv[1:3])
    documents = np.load(source / "documents.npy")
    queries = np.load(source / "queries.npy")
    labels = np.load(source / "labels.npy")
    titles = (source / "titles.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")

    kept_queries = np.r_[TEST.start : TEST.stop, LOG.start : LOG.stop]
    kept = choose(documents, queries[kept_queries], labels[kept_queries])

    target.mkdir(parents=True, exist_ok=True)
    save_int8(target, "documents", documents[kept])
    save_int8(target, "test", queries[TEST.start : TEST.stop])
    save_int8(target, "log", queries[LOG.start : LOG.stop])
    np.save(target / "test_labels.npy", np.searchsorted(kept, labels[TEST.start : TEST.stop]).astype(np.int32))
    (target / "titles.txt").write_text("".join(titles[row] + "\n" for row in kept), encoding="utf-8")
    shutil.copyfile(source / "LICENSE", target / "LICENSE")
    print(f"{len(kept)} documents, {len(LOG)} queries in the log, {len(TEST)} test queries -> {target}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
