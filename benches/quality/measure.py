"""Recall of a ranking by codes, by candidates and by probes, and of the routing alone."""

import numpy as np

from dataset import NEAREST, blocks

CANDIDATES = (10, 50, 100)
PROBES = (1, 2, 4, 8, 16, 32)
TARGETS = (0.95, 0.975)


class Lists:
    """Which rows each inverted list holds, and in which order a query visits the lists."""

    def __init__(self, list_of, lists, scores):
        """`list_of`: a list a row; `scores`: a score of every list for every query, the larger the earlier."""
        self.list_of = list_of
        self.order = np.argsort(-scores, axis=1, kind="stable")
        self.sizes = np.bincount(list_of, minlength=lists)
        self.rows = np.split(np.argsort(list_of, kind="stable"), np.cumsum(self.sizes)[:-1])

    def routing(self, truth):
        """Share of the true ten and of all rows in the first 1, 2, … lists, and the rows that targets need."""
        found = np.zeros(self.order.shape[1])
        for order, true in zip(self.order, truth):
            position = np.empty(len(order), dtype=np.int64)
            position[order] = np.arange(len(order))
            hits = np.bincount(position[self.list_of[true]], minlength=len(order))
            found += np.minimum(np.cumsum(hits), NEAREST)
        recall = found / (NEAREST * len(truth))
        rows = np.cumsum(self.sizes[self.order], axis=1).mean(axis=0) / len(self.list_of)
        needed = {str(target): float(np.interp(target, recall, rows)) for target in TARGETS}
        return {"rows": rows.round(5).tolist(), "recall": recall.round(5).tolist(), "rows_for": needed}


def place(scores, row):
    """The place of a row in the ranking of all rows; among equals the smaller number is first."""
    score = scores[row]
    return int(np.count_nonzero(scores > score) + np.count_nonzero(scores[:row] == score))


def found_by_probes(scores, targets, order, lists):
    """How many of the true ten are among the best 100 codes of the probed lists, and how many rows those hold."""
    probed = order[: max(PROBES)]
    ends = np.cumsum(lists.sizes[probed])
    rows = np.concatenate([lists.rows[number] for number in probed])
    codes = scores[rows]
    found = np.zeros(len(PROBES))
    for target in targets:
        at = np.flatnonzero(probed == lists.list_of[target])
        if not len(at):
            continue
        score = scores[target]
        better = np.cumsum((codes > score) | ((codes == score) & (rows < target)))
        for i, probes in enumerate(PROBES):
            end = ends[min(probes, len(ends)) - 1]
            found[i] += at[0] < probes and better[end - 1] < CANDIDATES[-1]
    return np.minimum(found, NEAREST), ends[np.minimum(PROBES, len(ends)) - 1]


def measure(task, queries, reconstructions, lists=None):
    """All figures of one variant; `queries` and `reconstructions` may be rotated alike."""
    found = np.zeros(len(CANDIDATES))
    probes, read, reciprocal, labeled = np.zeros(len(PROBES)), np.zeros(len(PROBES)), 0.0, 0
    for start, block in blocks(queries):
        for number, scores in enumerate(block @ reconstructions.T, start):
            true = task.truth[number]
            places = np.array([place(scores, row) for row in true])
            found += [min(NEAREST, np.count_nonzero(places < limit)) for limit in CANDIDATES]
            if lists is not None:
                hits, rows = found_by_probes(scores, true, lists.order[number], lists)
                probes, read = probes + hits, read + rows
            if task.labels is not None:
                at = place(scores, task.labels[number])
                reciprocal += 1 / (at + 1) if at < 10 else 0
                labeled += at < 100
    count = len(queries)
    result = {"recall": dict(zip(map(str, CANDIDATES), (found / (NEAREST * count)).round(5).tolist()))}
    if lists is not None:
        shares = (probes / (NEAREST * count)).round(5).tolist(), (read / (count * len(reconstructions))).round(5).tolist()
        result["probes"] = [dict(zip(("probes", "recall", "rows"), row)) for row in zip(PROBES, *shares)]
    if task.labels is not None:
        result |= {"mrr10": round(reciprocal / count, 5), "r100": round(labeled / count, 5)}
    return result
