"""Plots as inline SVG: matplotlib's object API, no global state; text and axes take the colour of the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour and is replaced by it, so that one drawing suits light and dark pages."""
ACCENT, SECOND, MUTED = "#2f7ed8", "#e0742c", "#9aa3ad"
SERIES = (ACCENT, SECOND, "#3aa675", "#b05fc4", "#c9a227")
BINS = 15
FEW_ROWS = 300
"""Fewer rows are drawn one by one."""


def learning_curves(trials: Sequence[Mapping[str, Any]], metric: str, best: int = 5) -> str:
    """Validation metric by epoch: the first `best` trials in colour and named, the others as a grey background.

    `trials` hold `name` and `curves` (one mapping per epoch with `epoch` and `metric`), best first.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(6.4, 3.6)
    for rank, trial in reversed(list(enumerate(trials))):
        points = [(p["epoch"], p["metric"]) for p in trial["curves"] if _known(p.get("metric"))]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        if rank < best:
            axes.plot(x, y, color=SERIES[rank], linewidth=1.8, marker="o", markersize=3, label=trial["name"])
        else:
            axes.plot(x, y, color=MUTED, linewidth=0.8, alpha=0.6)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, labelcolor=INK)
    axes.set(xlabel="epoch", ylabel=f"validation {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_svg(figure)


def parallel_coordinates(trials: Sequence[Mapping[str, Any]], metric: str, greater_is_better: bool) -> str:
    """One line per trial across its parameters and its best metric: the better, the stronger, the best in orange.

    `trials` hold `params` and `metric`. Numbers that were drawn on a logarithmic scale get a logarithmic axis.
    """
    names = sorted({name for trial in trials for name in trial["params"]})
    columns = [_positions([trial["params"].get(name) for trial in trials]) for name in names]
    scores = np.array([trial["metric"] for trial in trials], dtype=float)
    columns.append(_positions(list(scores)))
    order = np.argsort(np.argsort(scores if greater_is_better else -scores))
    shade = order / max(1, len(trials) - 1)
    figure, axes = new_figure(max(5.5, 1.5 * len(columns)), 3.8)
    for row in np.argsort(order):
        heights = [column[0][row] for column in columns]
        colour = SECOND if shade[row] == 1 else ACCENT
        axes.plot(range(len(columns)), heights, color=colour, alpha=0.15 + 0.85 * shade[row] ** 2, linewidth=1.5)
    for x, (_, ticks) in enumerate(columns):
        axes.axvline(x, color=INK, linewidth=0.6, alpha=0.5)
        for height, label in ticks:
            axes.annotate(label, (x, height), (3, 0), textcoords="offset points", fontsize=7, color=INK, va="center")
    short = [literal(name.removeprefix("train.").removeprefix("model.")) for name in names]
    axes.set_xticks(range(len(columns)), [*short, metric], fontsize=8)
    axes.set_xlim(-0.1, len(columns) - 0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return to_svg(figure)


def _positions(values: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights in [0, 1] of one parallel axis, and its ticks."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = np.array(values, dtype=float)
        low, high = numbers.min(), numbers.max()
        if low == high:
            return np.full(len(values), 0.5), [(0.5, f"{low:.3g}")]
        # Uniform draws have their median in the middle, log-uniform ones near the lower end.
        if low > 0 and high / low > 20 and np.median(numbers) < low + 0.25 * (high - low):
            heights = np.log(numbers / low) / np.log(high / low)
            return heights, [(t, f"{low * (high / low) ** t:.2g}") for t in (0.0, 0.5, 1.0)]
        return (numbers - low) / (high - low), [(t, f"{low + t * (high - low):.3g}") for t in (0.0, 0.5, 1.0)]
    texts = ["-" if v is None else str(v) for v in values]
    known = sorted(set(texts))
    place = {text: (i + 0.5) / len(known) for i, text in enumerate(known)}
    return np.array([place[t] for t in texts]), [(h, literal(t[:18])) for t, h in place.items()]


def importance(trials: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """How much of the metric's variation each parameter explains alone, in [0, 1], largest first.

    Numbers: squared Spearman rank correlation. Others: share of the ranks' variance between the values (η²).
    Parameters that did not vary are left out. A hint, not an effect: searchers do not draw parameters independently.
    """
    names = sorted({name for trial in trials for name in trial["params"]})
    ranks = _ranks(np.array([trial["metric"] for trial in trials], dtype=float))
    found = []
    for name in names:
        values = [trial["params"].get(name) for trial in trials]
        texts = [str(v) for v in values]
        if len(set(texts)) < 2 or ranks.std() == 0:
            continue
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            share = np.corrcoef(_ranks(np.array(values, dtype=float)), ranks)[0, 1] ** 2
        else:
            groups = [ranks[[t == text for t in texts]] for text in set(texts)]
            share = sum(len(g) * (g.mean() - ranks.mean()) ** 2 for g in groups) / (len(ranks) * ranks.var())
        found.append((name, float(share)))
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    return np.asarray(((upper - counts + upper - 1) / 2)[inverse])


def predicted_against_actual(y: np.ndarray, predicted: np.ndarray, unit: str) -> str:
    """Density of (actual, predicted) within the central 99.8 % of the actual values, with the diagonal."""
    figure, axes = new_figure(4.6, 4.0)
    low, high = np.quantile(y, [0.001, 0.999]) if len(y) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    inside = (y >= low) & (y <= high) & (predicted >= low) & (predicted <= high)
    if inside.sum() < FEW_ROWS:
        axes.scatter(y[inside], predicted[inside], color=ACCENT, s=9)
    else:
        extent = (low, high, low, high)
        cells = axes.hexbin(y[inside], predicted[inside], gridsize=34, bins="log", mincnt=1, extent=extent)
        figure.colorbar(cells, ax=axes, label="rows").outline.set_visible(False)
    axes.plot([low, high], [low, high], color=SECOND, linewidth=1)
    axes.set(xlabel=literal(f"actual {unit}"), ylabel="predicted", xlim=(low, high), ylim=(low, high))
    return to_svg(figure)


def residuals(y: np.ndarray, predicted: np.ndarray, unit: str) -> str:
    """Histogram of predicted − actual within its central 99 %."""
    figure, axes = new_figure(4.6, 4.0)
    errors = predicted - y
    if len(errors):
        low, high = np.quantile(errors, [0.005, 0.995])
        axes.hist(errors[(errors >= low) & (errors <= high)], bins=50, color=ACCENT)
    axes.axvline(0, color=SECOND, linewidth=1)
    axes.set(xlabel=literal(f"predicted − actual {unit}"), ylabel="rows")
    return to_svg(figure)


def roc(y: np.ndarray, scores: np.ndarray) -> str:
    """True against false positive rate over all thresholds (Fawcett 2006)."""
    figure, axes = new_figure(4.2, 4.0)
    false, true = roc_points(y, scores)
    axes.plot(false, true, color=ACCENT, linewidth=1.8)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    return to_svg(figure)


def roc_points(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, thresholds falling; equal scores are passed together. At most 400 points."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True) if len(y) else np.zeros(0, dtype=bool)
    positive, negative = np.cumsum(y[order] == 1)[last], np.cumsum(y[order] != 1)[last]
    if not len(positive):
        return np.zeros(1), np.zeros(1)
    keep = np.unique(np.linspace(0, len(positive) - 1, 400).astype(int))
    true = np.concatenate([[0.0], positive[keep] / max(1, positive[-1])])
    false = np.concatenate([[0.0], negative[keep] / max(1, negative[-1])])
    return false, true


def calibration(hits: np.ndarray, confidence: np.ndarray, label: str) -> str:
    """Observed share of hits against mean confidence, in bins of equal mass; above, how confidence is spread."""
    figure, axes = new_figure(4.2, 4.0)
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
    x, y = [confidence[b].mean() for b in bins], [hits[b].mean() for b in bins]
    axes.plot(x, y, color=ACCENT, marker="o", markersize=4, linewidth=1.5)
    spread = axes.twinx()
    spread.hist(confidence, bins=30, range=(0, 1), color=MUTED, alpha=0.35)
    spread.set_ylim(0, spread.get_ylim()[1] * 4)
    spread.axis("off")
    axes.set(xlabel=literal(label), ylabel="observed share", xlim=(0, 1), ylim=(0, 1.01))
    return to_svg(figure)


def confusion(y: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> str:
    """Share of each actual class (row) that was predicted as each class; numbers are counts for up to 15 classes."""
    size = len(classes)
    counts = np.bincount(y * size + predicted, minlength=size * size).reshape(size, size)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(max(4.2, min(7.0, 0.5 * size)), max(4.0, min(6.6, 0.46 * size)))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= 15:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[i, j] > 0.55 else "#1c2733"
                axes.text(j, i, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    if size <= 30:
        ticks = [literal(label[:12]) for label in classes]
        axes.set_xticks(range(size), ticks, rotation=0 if size <= 12 else 90, fontsize=8)
        axes.set_yticks(range(size), ticks, fontsize=8)
    axes.set(xlabel="predicted", ylabel="actual")
    return to_svg(figure)


def _known(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))


def literal(text: str) -> str:
    """Text that matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches with one pair of axes, transparent, in the ink of the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_alpha(0.5)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element that scales with the page and repeats byte for byte."""
    from matplotlib import rc_context

    for axes in figure.axes:
        for text in (axes.xaxis.label, axes.yaxis.label):
            text.set_color(INK)
            text.set_fontsize(9)
        axes.tick_params(colors=INK, labelsize=8)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raymlops", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = out.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
