"""What all plots share: their width, and one color per index."""

import matplotlib

matplotlib.use("Agg")
# Text stays text, and the same data give the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "distillvq", "font.size": 10})
from matplotlib import pyplot  # noqa: E402

# Inches. GitHub shows an SVG with 96 pixels per inch: 825 pixels, which is the width of a page.
WIDTH = 8.6
COLORS = {
    "distillvq": "#0b5fa5",
    "distillvq, no query log": "#56b4e9",
    "distillvq, refine = none": "#009e73",
    "distillvq, refine = sq7": "#44aa99",
    "pgvector hnsw": "#d55e00",
    "pgvector hnsw, m = 32, ef_construction = 200": "#882255",
    "pgvector hnsw, halfvec": "#e69f00",
    "pgvector ivfflat": "#666666",
    "best of FAISS": "#cc79a7",
    "best of FAISS with a norm byte": "#8c564b",
}
# Colors of other names, in the order in which they are first drawn.
OTHER_COLORS = ("#0072b2", "#117733", "#aa4499", "#ddaa33", "#332288", "#999933", "#cc6677", "#000000")


def color(name):
    """The color of an index, the same in each plot of a program."""
    if name not in COLORS:
        COLORS[name] = OTHER_COLORS[len(COLORS) % len(OTHER_COLORS)]
    return COLORS[name]


def rows_of_axes(count, height):
    """A figure with `count` plots, one below the other, each as wide as the page and `height` inches high."""
    figure, axes = pyplot.subplots(count, 1, figsize=(WIDTH, height * count), squeeze=False, layout="constrained")
    return figure, [axis for (axis,) in axes]


def save(figure, path):
    """Writes an SVG on white, which pages in dark mode show as it is."""
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    pyplot.close(figure)
