"""Makes docs/quality.md and docs/quality.svg from the JSON lines of both sides.

    python report.py --output docs ours.jsonl faiss.jsonl
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import plots  # noqa: E402

CANDIDATES = ("10", "50", "100")


class Results:
    """The lines of one run."""

    def __init__(self, paths):
        lines = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
        self.runs = {line["side"]: line for line in lines if line["kind"] == "run"}
        self.variants = [line for line in lines if line["kind"] == "variant"]
        self.ablations = [line for line in lines if line["kind"] == "ablation"]
        self.faiss_routing = [line for line in lines if line["kind"] == "routing"]
        missing = {"ours", "faiss"} - self.runs.keys()
        if missing or not self.variants:
            raise SystemExit(f"results lack: {', '.join(missing) or 'variants'}")
        # The ablations have a sample of their own, which the first line of their run tells.
        self.ablation_rows = next((line["train_rows"] for line in reversed(lines) if line["kind"] == "run"), 0)
        self.runs = {side: next(line for line in lines if line["kind"] == "run" and line["side"] == side) for side in self.runs}
        if len({run["split"] for run in self.runs.values()}) > 1:
            raise SystemExit("the two sides measured different queries")
        self.sizes = sorted({line["bytes"] for line in self.variants})

    def of(self, size, side):
        return [line for line in self.variants if line["bytes"] == size and line["side"] == side]

    def faiss(self, size, norm=None):
        """FAISS's variants; with `norm=False` those that FAISS has by itself."""
        return [line for line in self.of(size, "faiss") if norm is None or line["norm"] == norm]

    def ours(self, size, name):
        """Ours of one kind of training: with 4 and with 8 bits."""
        return [line for line in self.of(size, "ours") if line["name"] == name]

    def names(self, side):
        """The names in the order in which they first appear."""
        return list(dict.fromkeys(line["name"] for line in self.variants if line["side"] == side))

    def routing(self):
        """(name, curve) of every routing, ours with the codes that are nearest to the default: all have the same lists."""
        of_ours = [line for line in self.variants if line["side"] == "ours"]
        of_ours.sort(key=lambda line: (line["bits"], -line["bytes"]))
        curves = []
        for name in self.names("ours"):
            line = next(line for line in of_ours if line["name"] == name)
            kind = "trained routing" if line["report"]["routed"] else "normalized centroids"
            curves.append((f"ours, {name}: {kind}", line["routing"]))
        return curves + [(line["name"], line) for line in self.faiss_routing]


def best(lines, candidates):
    """The largest recall of several variants and whose it is, or nothing."""
    return max(((line["recall"][candidates], line) for line in lines), key=lambda pair: pair[0], default=None)


def table(head, rows):
    """A table in Markdown; the first column is text, the others are numbers."""
    align = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, align, *rows])


def digits(value):
    return f"{value:.3f}".removeprefix("0")


def per_cent(value):
    return f"{100 * value:.1f} %"


def summary(results, candidates):
    """The best of FAISS against ours, a row a size."""
    rows = []
    for size in results.sizes:
        stock, normed = best(results.faiss(size, False), candidates), best(results.faiss(size, True), candidates)
        row = [f"{size}", *(f"{digits(pair[0])}" if pair else "" for pair in (stock, normed))]
        for name in results.names("ours"):
            ours = best(results.ours(size, name), candidates)
            gain = f" ({100 * (ours[0] / stock[0] - 1):+.1f} %)" if ours and stock else ""
            row.append(f"{digits(ours[0])}{gain}" if ours else "")
        rows.append(row)
    head = ["bytes per row", "best of FAISS", "best of FAISS with a norm byte", *(f"ours, {n}" for n in results.names("ours"))]
    return table(head, rows)


def label(line):
    side = "FAISS" if line["side"] == "faiss" else "**ours**"
    bits = "" if line["side"] == "faiss" else f", {line['bits']} bits"
    return f"{side} {line['name']}{bits}"


def details(results, size):
    """All variants of one size: recall by candidates, labels, seconds."""
    lines = results.faiss(size) + results.of(size, "ours")
    labeled = any("mrr10" in line for line in lines)
    head = ["variant", "codes", *(f"10@{c}" for c in CANDIDATES), *(["MRR@10", "R@100"] if labeled else []), "training, s"]
    rows = []
    for line in lines:
        row = [label(line), f"{line['subquantizers']}×{line['bits']}{' + 8' if line['norm'] else ''}"]
        row += [digits(line["recall"][c]) for c in CANDIDATES]
        if labeled:
            row += [digits(line["mrr10"]), digits(line["r100"])] if "mrr10" in line else ["", ""]
        rows.append([*row, f"{sum(line['seconds'].values()):.0f}"])
    return table(head, rows)


def by_probes(results, size):
    """All variants of one size with lists: recall 10@100 by probes, and the rows scanned."""
    lines = [line for line in results.faiss(size) + results.of(size, "ours") if "probes" in line]
    if not lines:
        return ""
    head = ["variant", *(f"{point['probes']} probes" for point in lines[0]["probes"])]
    cell = "{} ({})".format
    rows = [
        [label(line), *(cell(digits(p["recall"]), per_cent(p["rows"])) for p in line["probes"])] for line in lines
    ]
    return table(head, rows)


def routing(results):
    """Rows that each routing scans for a given share of the true ten."""
    rows = [
        [name, *(per_cent(curve["rows_for"][target]) for target in ("0.95", "0.975"))]
        for name, curve in results.routing()
    ]
    return table(["routing", "rows for 0.95", "rows for 0.975"], rows)


def ablations(results):
    """What each part of a training is worth."""
    if not results.ablations:
        return ""
    rows = [
        [line["name"], f"{line['subquantizers']}×{line['bits']} + 8"]
        + [digits(line["recall"][c]) for c in CANDIDATES]
        + [f"{sum(line['seconds'].values()):.0f}", f"{line['query_microseconds']:.0f}"]
        for line in results.ablations
    ]
    head = ["", "codes", *(f"10@{c}" for c in CANDIDATES), "training, s", "query tables, µs"]
    return f"""
## One part at a time

Losses, candidates, and training without the query transform use distillation with the query log. Rotations are compared without
distillation. Trained on {results.ablation_rows:,} documents.

{table(head, rows)}
"""


def facts(results):
    """What was run where."""
    faiss, ours = results.runs["faiss"], results.runs["ours"]
    return f"""\
* Data: {faiss["data"]}, {faiss["documents"]:,} documents of {faiss["dim"]} dimensions; {faiss["queries"]:,} \
{faiss["split"]} queries, not used for training; query log of {ours["log"]:,}.
* Machine: {faiss["cpu"]}, {faiss["threads"]} threads; kernels: {ours["kernels"]}. Times are wall-clock times, and unreliable if the machine \
is busy.
* Versions: distillvq {ours["version"]}, FAISS {faiss["faiss"]}, Python {faiss["python"]}, numpy {faiss["numpy"]}.
* Training: the same {ours["train_rows"]:,} documents and the same number of lists for all. FAISS's rotations and codebooks are \
trained on {faiss["codebook_rows"]:,} of them, with {faiss["opq_rounds"]} rounds of OPQ and \
{faiss["codebook_rounds"]} of k-means. *Anisotropic*: FAISS's codebooks, with codes \
chosen by ScaNN's loss (T = 0.2)."""


def document(results):
    """docs/quality.md."""
    gains = "\n\n".join(f"Recall 10@{c}:\n\n{summary(results, c)}" for c in CANDIDATES)
    sizes = "\n".join(
        f"""
### {size} bytes per row

{details(results, size)}

Fraction of the 10 true neighbors among the best 100 codes of the probed lists, and the rows scanned:

{by_probes(results, size)}
"""
        for size in results.sizes
    )
    return f"""\
<!-- Generated by `make bench-quality`; do not edit. -->

# Recall of the codes compared with FAISS

{facts(results)}

*Recall 10@R* is the fraction of the 10 exact nearest documents (cosine; a tie with the tenth counts) among the best R of *all*
documents by their codes, without re-ranking. *MRR@10* and *R@100* evaluate the same ranking against the one document that a query
describes. *Bytes per row* are the bytes of a code, including the norm byte, without row numbers. FAISS's codes are scored by the
inner product of the query with the reconstruction in full precision, distillvq's with the 8-bit tables of the index.

![Recall by bytes, and rows scanned](quality.svg)

## Best variants at equal size

Each cell shows the best variant of its kind: for FAISS all variants listed below, for distillvq 4 or 8 bits. The gain over the
best unmodified FAISS variant is in parentheses. The norm byte is not a part of FAISS. It was added to FAISS's reconstructions to
separate its effect from that of the training.

{gains}

## Rows to scan

Fraction of all rows in the lists that contain 0.95 and 0.975 of the 10 true neighbors, interpolated between numbers of probes, with
the same number of lists:

{routing(results)}
{ablations(results)}
## All variants
{sizes}"""


def draw(results, path):
    """docs/quality.svg."""
    figure, axes = plots.rows_of_axes(3, 4)
    kinds = [
        ("best of FAISS", lambda size: results.faiss(size, False)),
        ("best of FAISS with a norm byte", lambda size: results.faiss(size, True)),
    ]
    for name in results.names("ours"):
        kinds.append((f"ours, {name}", lambda size, name=name: results.ours(size, name)))
    for axis, candidates in zip(axes, ("10", "50")):
        for name, lines in kinds:
            points = [(size, best(lines(size), candidates)) for size in results.sizes]
            points = [(size, pair[0]) for size, pair in points if pair]
            axis.plot(*zip(*points), marker="o", markersize=3, color=plots.color(name), label=name)
        axis.set(xlabel="bytes per row", ylabel=f"recall 10@{candidates}", title=f"10@{candidates}, all codes")
        axis.set_xticks(results.sizes)
        axis.legend(loc="lower right")
    for name, curve in results.routing():
        axes[2].plot([100 * share for share in curve["rows"]], curve["recall"], linewidth=1.3, color=plots.color(name.partition(": ")[0]), label=name)
    axes[2].set(xlabel="% of rows scanned", ylabel="fraction of the true neighbors", title="routing", xlim=(0, 30), ylim=(0.6, 1))
    axes[2].legend(loc="lower right")
    for axis in axes:
        axis.grid(alpha=0.3)
    plots.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="+", type=pathlib.Path, help="JSON lines of both sides")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs"), help="where the two files go")
    args = parser.parse_args()
    results = Results(args.results)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "quality.md").write_text(document(results), encoding="utf-8")
    draw(results, args.output / "quality.svg")
    print(summary(results, "10"))


if __name__ == "__main__":
    main()
