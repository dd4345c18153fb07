"""The measuring itself, against slow and obvious ways; tools/bench-quality.sh runs it first."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import numpy as np  # noqa: E402

import dataset  # noqa: E402
import faiss_baselines  # noqa: E402
import measure  # noqa: E402


def small_set(directory, rows=600, queries=40, dim=8):
    """A cut set of random vectors; the last documents repeat the first ones, so that there are ties."""
    random = np.random.RandomState(1)
    documents = random.randn(rows, dim).astype(np.float32)
    documents[-20:] = documents[:20]
    np.save(directory / "documents.npy", documents)
    np.save(directory / "log.npy", random.randn(queries, dim).astype(np.float16))
    np.save(directory / "test.npy", random.randn(queries, dim).astype(np.float16))
    np.save(directory / "test_labels.npy", random.randint(0, rows, queries).astype(np.int32))


class Measure(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        small_set(pathlib.Path(folder.name))
        self.task = dataset.Task(pathlib.Path(folder.name), "test")

    def lists(self):
        random = np.random.RandomState(2)
        list_of = random.randint(0, 40, len(self.task.documents))
        return measure.Lists(list_of, 40, random.randn(len(self.task.queries), 40))

    def test_a_perfect_ranking_finds_everything(self):
        figures = measure.measure(self.task, self.task.queries, self.task.documents)
        self.assertEqual(figures["recall"], {"10": 1.0, "50": 1.0, "100": 1.0})

    def test_a_ranking_counts_as_by_hand(self):
        coarse = np.round(self.task.documents * 2)
        figures = measure.measure(self.task, self.task.queries, coarse)
        found = places = 0
        for query, true, label in zip(self.task.queries, self.task.truth, self.task.labels):
            order = np.argsort(-(coarse @ query), kind="stable").tolist()
            found += min(10, len(set(order[:50]) & set(true)))
            places += 1 / (order.index(label) + 1) if label in order[:10] else 0
        self.assertAlmostEqual(figures["recall"]["50"], found / 400, delta=0.01)
        self.assertAlmostEqual(figures["mrr10"], places / 40, delta=0.01)

    def test_probes_count_as_by_hand(self):
        lists, noisy = self.lists(), self.task.documents + np.random.RandomState(3).randn(*self.task.documents.shape) / 2
        figures = measure.measure(self.task, self.task.queries, noisy, lists)
        for point in figures["probes"]:
            found = rows = 0
            for query, true, order in zip(self.task.queries, self.task.truth, lists.order):
                probed = np.flatnonzero(np.isin(lists.list_of, order[: point["probes"]]))
                best = probed[np.argsort(-(noisy[probed] @ query), kind="stable")[:100]]
                found += min(10, len(set(best) & set(true)))
                rows += len(probed)
            self.assertAlmostEqual(point["recall"], found / 400, delta=0.01)
            self.assertAlmostEqual(point["rows"], rows / (40 * 600), places=4)

    def test_routing_ends_with_everything(self):
        curve = self.lists().routing(self.task.truth)
        self.assertEqual((curve["rows"][-1], curve["recall"][-1]), (1.0, 1.0))
        below = np.searchsorted(curve["recall"], 0.95)
        self.assertTrue(curve["rows"][below - 1] <= curve["rows_for"]["0.95"] <= curve["rows"][below])

    def test_spreading_keeps_products_and_balance(self):
        rows = np.random.RandomState(4).randn(5, 384).astype(np.float32)
        wide = faiss_baselines.spread(rows, 94)
        self.assertEqual(wide.shape, (5, 470))
        np.testing.assert_allclose(wide @ wide.T, rows @ rows.T, rtol=1e-5)
        used = (wide[0].reshape(94, 5) != 0).sum(1)
        self.assertEqual((used.min(), used.max()), (4, 5))

    def test_the_norm_byte_brings_rows_to_unit_length(self):
        rows = self.task.documents * np.linspace(0.8, 0.9, len(self.task.documents), dtype=np.float32)[:, None]
        self.assertLess(np.abs(np.linalg.norm(faiss_baselines.norm_byte(rows), axis=1) - 1).max(), 0.001)

    def test_anisotropic_codes_lower_their_loss(self):
        rows = self.task.documents
        books = np.random.RandomState(5).randn(4, 16, 2).astype(np.float32) / 2
        base = np.zeros_like(rows)
        codes = np.random.RandomState(6).randint(0, 16, (len(rows), 4)).astype(np.uint8)

        def loss(codes):
            error = rows - np.concatenate([books[m][codes[:, m]] for m in range(4)], axis=1)
            weight = 7 * 0.04 / 0.96
            return (error**2).sum() + (weight - 1) * ((error * rows).sum(1) ** 2).sum()

        better = faiss_baselines.anisotropic(rows, base, codes, books)
        self.assertLess(loss(better), loss(codes))


if __name__ == "__main__":
    unittest.main()
