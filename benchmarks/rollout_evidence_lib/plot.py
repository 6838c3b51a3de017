"""The picture beside the tables."""

from __future__ import annotations

from typing import Any

from benchmarks.common import RESULTS
from benchmarks.rollout_evidence_lib.streams import ALPHA


def plot(wrong: list[dict[str, Any]], peers: list[dict[str, Any]]) -> None:
    """Two panels: wrong decisions per null with intervals, and speed against false rollbacks for every rule."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 7.5), layout="constrained")
    for at, row in enumerate(reversed(wrong)):
        colour = "tab:blue" if row["right"] else "tab:red"
        low, high = max(row["low"], 1e-4), max(row["high"], 1e-4)
        left.plot([low, high], [at, at], color=colour, lw=2)
        left.plot(max(row["rate"], 1e-4), at, "o", color=colour, ms=5)
    left.set_yticks(range(len(wrong)), [f"{r['null']} ({r['kind']})" for r in reversed(wrong)], fontsize=8)
    left.axvline(ALPHA, color="black", ls="--", lw=1)
    left.set(xscale="log", xlim=(1e-4, 1.3), xlabel="decided wrongly (95 % interval); dashed: α = 0.01")
    left.set_title("Wrong decisions. Red: one rule of the method broken")
    by = {(r["rule"], r["scenario"]): r for r in peers}
    places: dict[tuple[float, float], list[str]] = {}
    for rule in dict.fromkeys(r["rule"] for r in peers):
        false = max(row["rolled_back"] for row in peers if row["rule"] == rule and row["scenario"].startswith("A/A"))
        median = by[rule, "1 % → 3 %, 50/50"]["median"] or 50_000
        right.plot(max(false, 1e-4), median, "s" if rule == "raymlops" else "o", ms=9 if rule == "raymlops" else 6)
        places.setdefault((max(false, 1e-4), median), []).append(rule)
    for at, names in places.items():
        side, offset = ("right", (-8, 0)) if at[0] > 0.002 else ("left", (8, 0))
        more = {"ha": side, "va": "center", "textcoords": "offset points", "fontsize": 8}
        right.annotate("\n".join(names), at, xytext=offset, **more)
    right.axvline(ALPHA, color="black", ls="--", lw=1)
    right.axhline(36_000, color="grey", ls=":", lw=1)
    right.set(
        xscale="log", yscale="log", xlim=(5e-5, 2), xlabel="identical models rolled back, worst of four A/A scenarios"
    )
    right.set_ylabel("median requests to roll back 1 % → 3 % (above the dotted line: mostly not within the hour)")
    right.set_title("Speed against false rollbacks")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "rollout_evidence.png", dpi=110)
    plt.close(figure)
