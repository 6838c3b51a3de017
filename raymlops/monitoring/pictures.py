"""Pictures of drift: where in its range a feature moved, and which features show evidence when. Inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raymlops.monitoring.attribution import Moved
from raymlops.monitoring.drift import DriftFinding
from raymlops.registry.plots import ACCENT, INK, MUTED, SECOND, literal, new_figure, to_svg

MAX_LABEL = 20
DECADES = 6.0
"""Evidence beyond a million to one is all the same colour."""


def moved_picture(moved: Moved) -> str:
    """Shares of a feature's rows by cell, as expected and as found; where it changed most stands out."""
    labels = [literal(cell.label if len(cell.label) <= MAX_LABEL else cell.label[: MAX_LABEL - 1] + "…")
              for cell in moved.cells]  # fmt: skip
    expected = np.array([cell.expected for cell in moved.cells])
    found = np.array([cell.found for cell in moved.cells])
    figure, axes = new_figure(max(4.6, 0.42 * len(labels) + 1.6), 3.2)
    at = np.arange(len(labels))
    axes.bar(at - 0.2, 100.0 * expected, 0.4, color=MUTED, label="reference")
    changed = np.abs(found - expected) > 0.25 * np.abs(found - expected).max()
    for mask, colour, label in ((changed, SECOND, "now, where it moved most"), (~changed, ACCENT, "now, elsewhere")):
        if mask.any():
            axes.bar(at[mask] + 0.2, 100.0 * found[mask], 0.4, color=colour, label=label)
    axes.set_xticks(at, labels, rotation=60, ha="right", fontsize=7)
    axes.set(ylabel="% of rows")
    shown = f"{moved.feature} since {moved.since}"
    axes.set_title(literal(shown if moved.shift is None else f"{shown}: {moved.shift:+.2f} σ"), color=INK, fontsize=9)
    axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    return to_svg(figure)


def heatmap(findings: Sequence[DriftFinding]) -> str:
    """Evidence of each feature (rows) in each window (columns), in powers of ten; a line marks an alarm.

    Raises ValueError without findings.
    """
    if not findings:
        raise ValueError("findings: expected at least one")
    names = list(findings[0].evidence)
    table = np.array([[max(f.evidence[name], 0.0) / math.log(10.0) for f in findings] for name in names])
    figure, axes = new_figure(9.4, 0.24 * len(names) + 1.4)
    image = axes.imshow(np.minimum(table, DECADES), aspect="auto", cmap="Blues", vmin=0.0, vmax=DECADES)
    for at, finding in enumerate(findings):
        if finding.alarm:
            axes.axvline(at, color=SECOND, linewidth=1.2)
    shown = np.unique(np.linspace(0, len(findings) - 1, min(8, len(findings))).astype(int))
    axes.set_xticks(shown, [literal(findings[i].window) for i in shown], fontsize=7, rotation=20, ha="right")
    axes.set_yticks(range(len(names)), [literal(name[:28]) for name in names], fontsize=7)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("evidence, powers of ten", color=INK, fontsize=8)
    bar.ax.tick_params(colors=INK, labelsize=7)
    bar.outline.set_visible(False)
    return to_svg(figure)
