"""Product quantizers of FAISS at given bytes a row, measured like ours; writes a JSON line a variant.

    python faiss_baselines.py FOLDER --bytes 8,16 --split test --output faiss.jsonl

Lists, rotations and codebooks are FAISS's own (Kmeans, OPQMatrix, ProductQuantizer), put together as its IndexIVFPQ
does. Scores are inner products of the query with the reconstructions in float32, without the byte tables of FAISS's
fast scan, which would cost recall: so these figures are upper bounds of what FAISS would return.
"""

import argparse
import functools
import json
import pathlib
import platform
import time

import faiss
import numpy as np

import dataset
from measure import Lists, measure

SEED = 1234
# Rows that rotations and codebooks are learned from, and rounds: FAISS's defaults but for the rows and for OPQ, which
# has 50 rounds there. Twice the rounds and the rows gained it half a point of recall at the most, in four times the time.
CODEBOOK_ROWS = 40_000
CODEBOOK_ROUNDS = 25
OPQ_ROUNDS = 15
OPQ_ROWS = 25_000
# ScaNN's loss for unit vectors and threshold T: the error along the vector counts (d-1)·T²/(1-T²) times.
ANISOTROPIC_THRESHOLD = 0.2
ANISOTROPIC_ROUNDS = 1


def spread(rows, parts):
    """Rows with zero columns put in, so that `parts` equal sub-vectors hold the dimensions as evenly as can be."""
    dim = rows.shape[1]
    width = -(-dim // parts)
    if width * parts == dim:
        return rows
    part = np.arange(dim) * parts // dim
    column = part * width + np.arange(dim) - np.searchsorted(part, part)
    wide = np.zeros((len(rows), width * parts), dtype=np.float32)
    wide[:, column] = rows
    return wide


def norm_byte(reconstructions):
    """Reconstructions brought to unit length by a factor of one byte."""
    factor = 1 / np.maximum(np.linalg.norm(reconstructions, axis=1), np.float32(1e-6))
    low, high = np.quantile(factor, [0.0005, 0.9995])
    step = max((high - low) / 255, 1e-9)
    factor = low + step * np.rint((factor - low) / step).clip(0, 255)
    return reconstructions * factor[:, None].astype(np.float32)


def anisotropic(rows, base, codes, books):
    """Codes that lower ScaNN's loss, by coordinate descent from the nearest codewords."""
    parts, _, width = books.shape
    threshold = ANISOTROPIC_THRESHOLD**2
    weight = np.float32((rows.shape[1] - 1) * threshold / (1 - threshold) - 1)
    codes = codes.copy()
    for start in range(0, len(rows), 16_384):
        part = slice(start, start + 16_384)
        x, code = rows[part], codes[part]
        residual = x - base[part]
        error = residual - np.concatenate([books[m][code[:, m]] for m in range(parts)], axis=1)
        along = np.einsum("nd,nd->n", error, x)
        for m in list(range(parts)) * ANISOTROPIC_ROUNDS:
            columns = slice(m * width, (m + 1) * width)
            r, u, book = residual[:, columns], x[:, columns], books[m]
            rest = along + np.einsum("nd,nd->n", book[code[:, m]], u)
            loss = (book**2).sum(1) - 2 * r @ book.T + weight * (rest[:, None] - u @ book.T) ** 2
            code[:, m] = loss.argmin(1)
            along = rest - np.einsum("nd,nd->n", book[code[:, m]], u)
    return codes


def product_quantizer(dim, parts, bits):
    """A quantizer that learns from all rows it is given: by itself FAISS takes 256 rows a word, 4,096 with 4 bits."""
    quantizer = faiss.ProductQuantizer(dim, parts, bits)
    quantizer.cp.min_points_per_centroid, quantizer.cp.max_points_per_centroid = 1, CODEBOOK_ROWS
    return quantizer


class Bench:
    """One data set, its training rows, and what several variants share."""

    def __init__(self, task, train_rows, lists):
        self.task = task
        self.lists = lists or max(1, round(len(task.documents) ** 0.5))
        self.train = dataset.evenly(len(task.documents), train_rows)
        self.sample = self.train[dataset.evenly(len(self.train), CODEBOOK_ROWS)]
        self.coarse, self.routing = {}, {}
        for metric in ("l2", "ip"):
            self._cluster(metric)

    def _cluster(self, metric):
        started = time.perf_counter()
        documents, queries = self.task.documents, self.task.queries
        # As IndexIVF sets it up: ten rounds, spherical for inner products.
        kmeans = faiss.Kmeans(
            documents.shape[1], self.lists, niter=10, spherical=metric == "ip", seed=SEED,
            min_points_per_centroid=1, max_points_per_centroid=256,
        )  # fmt: skip
        kmeans.train(documents[self.train])
        _, list_of = kmeans.index.search(documents, 1)
        scores = queries @ kmeans.centroids.T
        if metric == "l2":
            scores -= (kmeans.centroids**2).sum(1) / 2
        self.routing[metric] = Lists(list_of.ravel(), self.lists, scores)
        self.coarse[metric] = kmeans.centroids, time.perf_counter() - started

    @functools.lru_cache(maxsize=1)
    def rotated(self, parts, bits):
        """Documents, centroids by metric and queries after OPQ, and its seconds."""
        started = time.perf_counter()
        dim = self.task.documents.shape[1]
        wide = -(-dim // parts) * parts
        opq = faiss.OPQMatrix(dim, parts, wide)
        quantizer = product_quantizer(wide, parts, bits)
        opq.pq, opq.niter, opq.max_train_points = quantizer, OPQ_ROUNDS, OPQ_ROWS
        opq.train(self.task.documents[self.sample])
        centroids = {metric: opq.apply(coarse) for metric, (coarse, _) in self.coarse.items()}
        seconds = time.perf_counter() - started
        return opq.apply(self.task.documents), centroids, opq.apply(self.task.queries), seconds

    def plain(self, parts):
        """The same without rotation."""
        centroids = {metric: spread(coarse, parts) for metric, (coarse, _) in self.coarse.items()}
        return spread(self.task.documents, parts), centroids, spread(self.task.queries, parts), 0.0

    @functools.lru_cache(maxsize=1)
    def quantized(self, parts, bits, metric, opq, flat):
        """Rows, queries, the base that codes are added to, the quantizer of the residuals, codes, and seconds a phase."""
        documents, centroids, queries, rotation = self.rotated(parts, bits) if opq else self.plain(parts)
        started = time.perf_counter()
        base = np.zeros_like(documents) if flat else centroids[metric][self.routing[metric].list_of]
        quantizer = product_quantizer(documents.shape[1], parts, bits)
        quantizer.cp.niter = CODEBOOK_ROUNDS
        quantizer.train(documents[self.sample] - base[self.sample])
        lists = 0.0 if flat else self.coarse[metric][1]
        seconds = {"lists": lists, "rotation": rotation, "codebooks": time.perf_counter() - started}
        return documents, queries, base, quantizer, quantizer.compute_codes(documents - base), seconds

    def run(self, name, budget, bits=8, metric="l2", opq=False, flat=False, norm=False, scann=False):
        """Trains, encodes and measures one variant of `budget` bytes a row."""
        parts = (budget - norm) * 8 // bits
        if not 1 <= parts <= self.task.documents.shape[1]:
            return None
        documents, queries, base, quantizer, codes, seconds = self.quantized(parts, bits, metric, opq, flat)
        if scann:
            books = faiss.vector_to_array(quantizer.centroids).reshape(parts, quantizer.ksub, quantizer.dsub)
            codes = anisotropic(documents, base, codes, books)
        reconstructions = base + quantizer.decode(codes)
        if norm:
            reconstructions = norm_byte(reconstructions)
        figures = measure(self.task, queries, reconstructions, None if flat else self.routing[metric])
        return {
            "kind": "variant", "side": "faiss", "name": name, "bytes": budget, "bits": bits, "subquantizers": parts,
            "norm": norm, "lists": 0 if flat else self.lists,
            "seconds": {phase: round(s, 1) for phase, s in seconds.items() if s},
            **figures,
        }  # fmt: skip


# In an order in which variants with the same rotation follow each other.
VARIANTS = [
    ("IVF-PQ, IP-trained", {"metric": "ip"}),
    ("IVF-PQ, L2-trained", {}),
    ("OPQ-IVF-PQ, IP-trained", {"opq": True, "metric": "ip"}),
    ("OPQ-IVF-PQ, L2-trained", {"opq": True}),
    ("OPQ-IVF-PQ, L2-trained, anisotropic", {"opq": True, "scann": True}),
    ("OPQ-PQ without lists, L2-trained", {"opq": True, "flat": True}),
    ("OPQ-IVF-PQ, L2-trained, norm byte", {"opq": True, "norm": True}),
    ("IVF-PQ, 4 bits, L2-trained", {"bits": 4}),
    ("IVF-PQ, 4 bits, L2-trained, norm byte", {"bits": 4, "norm": True}),
    ("OPQ-IVF-PQ, 4 bits, L2-trained", {"bits": 4, "opq": True}),
    ("OPQ-PQ without lists, 4 bits, L2-trained", {"bits": 4, "opq": True, "flat": True}),
    ("OPQ-IVF-PQ, 4 bits, L2-trained, norm byte", {"bits": 4, "opq": True, "norm": True}),
]


def machine():
    """The processor and its number of cores."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name, faiss.omp_get_max_threads()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--bytes", default="8,16,24,32,48", help="code sizes, all bytes of a row counted")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--rows", type=int, default=131_072, help="training rows")
    parser.add_argument("--lists", type=int, default=0, help="inverted lists; 0 = the root of the rows")
    parser.add_argument("--only", default="", help="variants whose name holds this")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    return parser.parse_args()


def main():
    args = arguments()
    task = dataset.Task(args.folder, args.split)
    bench = Bench(task, args.rows, args.lists)
    cpu, threads = machine()
    with args.output.open("w", encoding="utf-8") as output:
        def write(line):
            print(json.dumps(line), file=output, flush=True)

        write({
            "kind": "run", "side": "faiss", "data": args.folder.name, "split": args.split, "cpu": cpu,
            "threads": threads, "python": platform.python_version(), "faiss": faiss.__version__,
            "numpy": np.__version__, "documents": len(task.documents), "dim": task.documents.shape[1],
            "queries": len(task.queries), "train_rows": len(bench.train), "codebook_rows": len(bench.sample),
            "codebook_rounds": CODEBOOK_ROUNDS, "opq_rounds": OPQ_ROUNDS, "opq_rows": OPQ_ROWS,
        })  # fmt: skip
        for metric, lists in bench.routing.items():
            name = {"l2": "FAISS, L2 centroids", "ip": "FAISS, spherical centroids"}[metric]
            routing = {"kind": "routing", "side": "faiss", "name": name, "lists": bench.lists}
            write(routing | lists.routing(task.truth))
        for budget in map(int, args.bytes.split(",")):
            for name, options in VARIANTS:
                result = bench.run(name, budget, **options) if args.only in name else None
                if result:
                    write(result)
                    print(f"{budget:3} bytes  {name:42}", result["recall"], result["seconds"], flush=True)


if __name__ == "__main__":
    main()
