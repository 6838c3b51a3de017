"""The picture beside the tables."""

from __future__ import annotations

from typing import Any

from benchmarks.common import RESULTS
from benchmarks.monitoring_lib.drifts import BEYOND, LONGEST, OURS

LEAST = 0.05
"""Where rules without a single false alarm are drawn."""


def plot(quiet: list[dict[str, Any]], delays: list[dict[str, Any]], errors: list[dict[str, Any]]) -> None:
    """Delay against false alarms, for drift of inputs (two sizes of it) and for a rise of the error rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(16, 5.5), layout="constrained")
    worst: dict[str, float] = {}
    for row in quiet:
        if row["rows"] == 5000 and row["scenario"] not in BEYOND:
            worst[row["rule"]] = max(worst.get(row["rule"], 0.0), row["per_thousand"])
    for axes, drift in zip(panels[:2], (0.25, 0.15), strict=True):
        chosen = {r["rule"]: r["median"] for r in delays
                  if r["scenario"] == "no drift" and r["drift"] == drift and r["rows"] == 5000}  # fmt: skip
        _scatter(axes, {rule: (worst[rule], median or LONGEST) for rule, median in chosen.items()}, LONGEST)
        axes.set_title(f"One of 20 columns moves by {drift} σ, windows of 5,000 rows")
        axes.set(xlabel="false alarms per 1,000 windows, worst of four kinds of traffic without drift",
                 ylabel="windows to an alarm, median")  # fmt: skip
    false: dict[str, float] = {}
    for row in errors:
        false[row["rule"]] = max(false.get(row["rule"], 0.0), row["per_thousand"])
    found = {r["rule"]: (false[r["rule"]], r["median"] or 200.0) for r in errors if r["case"] == "10 → 20 %"}
    _scatter(panels[2], found, 200.0)
    panels[2].set_title("Errors rise from 10 to 20 %, 1,000 labels a day")
    panels[2].set(xlabel="false alarms per 1,000 days, worst case", ylabel="days to an alarm, median")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "monitoring.png", dpi=110)
    plt.close(figure)


def _scatter(axes: Any, points: dict[str, tuple[float, float]], longest: float) -> None:
    taken: dict[tuple[float, float], int] = {}
    for rule, (false, delay) in points.items():
        at = (max(false, LEAST), delay)
        around = taken.get(at, 0)  # rules at the same place are rings around each other
        taken[at] = around + 1
        axes.plot(
            *at, "s" if rule == OURS else "o", ms=9 + 6 * around, mew=2, mfc="none" if around else None, label=rule
        )
    axes.legend(loc="best", fontsize=8, framealpha=1.0, markerscale=0.6)
    axes.axvline(1.0, color="black", ls="--", lw=1)
    axes.axhline(longest, color="grey", ls=":", lw=1)
    axes.set(xscale="log", yscale="log", xlim=(LEAST / 2, 2000.0))
