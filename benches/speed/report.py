"""Makes docs/performance.md and docs/performance.svg from the JSON lines of `bench`, a file a data set.

    python report.py --output docs wordnet.jsonl generated-200000-768.jsonl
"""

import argparse
import json
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import plots  # noqa: E402

TARGETS = (0.90, 0.95, 0.98)
OURS = "distillvq"


class Run:
    """One data set: what was measured of each index."""

    def __init__(self, path):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.about = next(line for line in lines if line["kind"] == "run")
        self.lines = lines
        # Results of versions that did not record machine, commit, and date have none.
        self.provenance = self.about.get("provenance", {})
        self.machine = self.provenance.get("machine", "a machine that was not recorded")
        self.metric = self.about.get("metric", "cosine distance")
        self.title = self.about["data"] + ("" if self.metric == "cosine distance" else f", {self.metric}")
        self.names = list(dict.fromkeys(line["index"] for line in lines if "index" in line))

    def of(self, name, kind):
        return [line for line in self.lines if line["kind"] == kind and line["index"] == name]

    def at(self, name, target, value):
        """A value of the points of an index at a recall, between two settings by interpolation (of the logarithm); none if the
        recall is not reached."""
        points = sorted((p["recall"], value(p)) for p in self.of(name, "point"))
        for (low, before), (high, after) in zip(points, points[1:]):
            if low <= target <= high and low < high:
                share = (target - low) / (high - low)
                return math.exp((1 - share) * math.log(before) + share * math.log(after))
        # The least setting already finds more.
        return points[0][1] if points and points[0][0] >= target else None


def cpu(point):
    """Processor time of the backend per query, in microseconds."""
    return point["load"]["cpu_us"]


def speed(point):
    """Queries per second of all clients together."""
    return point["load"]["per_second"]


def table(head, rows):
    """A table in Markdown; the first column is text, the others are numbers."""
    align = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, align, *rows])


def at_recall(run):
    """Processor time and queries per second at equal recall, and by what factor distillvq is better."""
    rows = []
    for name in run.names:
        row = [name]
        for value in (cpu, speed):
            for target in TARGETS:
                ours, theirs = run.at(OURS, target, value), run.at(name, target, value)
                if not theirs:
                    row.append("not reached")
                elif name == OURS or not ours:
                    row.append(f"{theirs:.0f}")
                else:
                    row.append(f"{theirs:.0f} ({theirs / ours if value is cpu else ours / theirs:.1f})")
        rows.append(row)
    columns = [f"{what}, {target}" for what in ("CPU µs", "queries/s") for target in TARGETS]
    return table(["index", *columns], rows)


def counters_at_recall(run):
    """What searches of distillvq do at equal recall."""
    rows = []
    for name in run.names:
        if not all("counters" in point for point in run.of(name, "point")):
            continue
        row = [name]
        for target in TARGETS:
            values = [run.at(name, target, lambda point, key=key: point["counters"][key]) for key in ("probed", "codes", "reranked")]
            row += [f"{value:,.0f}" if value else "not reached" for value in values]
        rows.append(row)
    columns = [f"{what}, {target}" for target in TARGETS for what in ("lists", "codes", "rows compared")]
    return table(["index", *columns], rows)


def costs(run):
    """Size, build, memory, cold start and inserts."""
    rows = []
    for name in run.names:
        build = next(iter(run.of(name, "build")), None)
        cold = next(iter(run.of(name, "cold")), None)
        sessions = next(iter(run.of(name, "sessions")), None)
        inserts = {line["clients"]: f"{line['per_second']:.0f}" for line in run.of(name, "inserts")}
        rows.append([
            name,
            f"{build['bytes'] / 1e6:.1f} MB" if build else "",
            f"{build['build_seconds'] + build['training_seconds']:.1f} s" if build else "",
            f"{build['peak_bytes'] / 1e6:.0f} MB" if build else "",
            f"{sessions['private_bytes'] / 1e6:.1f} MB" if sessions else "",
            f"{cold['first_ms']:.0f} ms, {cold['mean_ms']:.2f} ms" if cold else "",
            *(inserts.get(clients, "") for clients in (1, 8)),
        ])
    head = ["index", "size", "build with training", "build memory", "memory per session (of 200)", "after a restart: first query, mean of 100",
            "inserts/s, 1 client", "8 clients"]
    return table(head, rows)


def stages(run):
    """Microseconds of a search by stage; the rest is time of the executor and the client."""
    lines = [line for name in run.names for line in run.of(name, "stages")]
    if not lines:
        return ""
    rows = []
    for line in lines:
        found = dict(line["stages"])
        found.pop("searches")
        compared = found.pop("rows")
        point = next((p for p in run.of(line["index"], "point") if p["setting"] == line["setting"]), None)
        rest = f"{cpu(point) - sum(found.values()):.0f}" if point else ""
        names = list(found)
        rows.append([line["index"], line["setting"], *(f"{value:.1f}" for value in found.values()), rest, f"{compared:.1f}"])
    head = ["index", "setting", *names, "rest of the query", "rows compared"]
    return f"""
Microseconds of a search by stage, from a library built with timers; mean of several thousand searches. The rest of the
query is the processor time of executor and protocol. `load` occurs in the first search of a session; `scan` includes
ranking by refine codes.

{table(head, rows)}
"""


# Times of a query as a client sees them.
LATENCIES = ("mean", "p50", "p95", "p99")


def latencies(point):
    """Milliseconds, empty in results of versions that did not record them."""
    found = point["load"].get("latency_us", {})
    return [f"{found[name] / 1e3:.2f}" if name in found else "" for name in LATENCIES]


def points(run):
    rows = [
        [line["index"], line["setting"], f"{line['recall']:.4f}", f"{cpu(line):.0f}", f"{speed(line):.0f}", *latencies(line)]
        for name in run.names for line in run.of(name, "point")
    ]
    head = ["index", "setting", "recall@10", "CPU µs", "queries/s", *(f"{name} ms" for name in LATENCIES)]
    if not any(any(row[5:]) for row in rows):
        head, rows = head[:5], [row[:5] for row in rows]
    return table(head, rows)


def section(run):
    it = run.about
    log = f", trained with {it['log']:,} logged queries" if it["log"] else ", no query log"
    origin = run.provenance
    measured = f"Measured on {origin['date']} at commit {origin['commit']}, on" if origin else "Measured on"
    return f"""## {run.title}

{it['rows']:,} rows of {it['dim']} dimensions{log}; {it['queries']} test queries, {run.metric}, LIMIT {it['k']}. PostgreSQL
{it['server']}, pgvector {it['pgvector']}, {it['processors']} processors shared by server and clients, {it['shared_buffers']} of shared buffers.

{measured} {run.machine}.

A look-up by primary key takes {it['look_up']['cpu_us']:.0f} microseconds of the backend's processor time.

Processor time of the backend per query, and queries per second of two clients together, at recall@10 of 0.9, 0.95, and 0.98,
interpolated between settings; in parentheses by what factor distillvq is better:

{at_recall(run)}

Means per search of distillvq:

{counters_at_recall(run)}

{costs(run)}
{stages(run)}
All settings:

{points(run)}
"""


def curve(run, name, least):
    """Recall and queries per second at all settings of an index, from a least recall on."""
    return sorted((p["recall"], speed(p)) for p in run.of(name, "point") if p["recall"] >= least)


def style(axis, run):
    axis.set(xlabel="recall@10", ylabel="queries per second, 2 clients", yscale="log", ylim=(30, 30_000))
    axis.set_title(f"{run.title}, {run.about['rows']:,} rows × {run.about['dim']} dimensions", fontsize=10)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_minor_formatter("")
    axis.grid(alpha=0.25, which="major")
    axis.spines[["top", "right"]].set_visible(False)


def plot(runs, path):
    """One plot per data set, one below the other."""
    figure, axes = plots.rows_of_axes(len(runs), 4.2)
    for axis, run in zip(axes, runs):
        for name in run.names:
            line = curve(run, name, 0.7)
            if line:
                axis.plot(*zip(*line), color=plots.color(name), marker="o", markersize=3, linewidth=2 if name == OURS else 1.3, label=name)
        style(axis, run)
        axis.set_xlim(0.7, 1)
        axis.legend(loc="lower left", frameon=False)
    plots.save(figure, path)


# Lines of the README's picture: the setting beside which the name stands, with its offset in points.
PICTURE = {
    OURS: (4, (4, 10)),
    "pgvector hnsw, halfvec": (1, (6, 8)),
    "pgvector hnsw": (0, (-2, -16)),
    "pgvector ivfflat": (0, (12, 8)),
}


def picture(run, path):
    """One data set for the README: each line has its name beside it."""
    figure, (axis,) = plots.rows_of_axes(1, 3.5)
    for name, (place, offset) in PICTURE.items():
        line = curve(run, name, 0.8)
        if not line:
            continue
        ours, color = name == OURS, plots.color(name)
        axis.plot(*zip(*line), color=color, marker="o", markersize=4, linewidth=2.5 if ours else 1.3)
        axis.annotate(name, line[min(place, len(line) - 1)], offset, textcoords="offset points", color=color, fontsize=12 if ours else 11,
                      fontweight="bold" if ours else "normal")
    style(axis, run)
    plots.save(figure, path)


def part(runs, machines, number, output):
    """The plot and the sections of the runs of one machine."""
    machine = machines[number]
    of_machine = [run for run in runs if run.machine == machine]
    name = "performance.svg" if number == 0 else f"performance-{number + 1}.svg"
    plot(of_machine, output / name)
    head = f"Machine: {machine}\n\n" if len(machines) > 1 else ""
    return f"{head}![Recall and queries per second]({name})\n\n" + "\n".join(section(run) for run in of_machine)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = [Run(path) for path in arguments.files]
    machines = list(dict.fromkeys(run.machine for run in runs))
    text = "\n".join(part(runs, machines, number, arguments.output) for number in range(len(machines)))
    for run in runs:
        if run.about["data"] == "wordnet":
            (arguments.output / "assets").mkdir(exist_ok=True)
            picture(run, arguments.output / "assets" / "wordnet.svg")
    head = """<!-- Generated by `make bench`; do not edit. -->

# Speed, size, and build time compared with pgvector

One server and one table per data set, measured in one run. Statements are prepared and look up their query vector by id. Two
clients query without a pause, on whichever of the processors the system chooses. CPU is the processor time of a backend, user and
system, divided by its queries: it limits how many queries a server can answer. `maintenance_work_mem` is three
times the size of the vectors, at least 2 GB, so that the build of hnsw fits. Memory is the private memory of the processes; for a
build it includes shared memory other than the shared buffers. Results of different machines have tables and plots of their own.

"""
    (arguments.output / "performance.md").write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
