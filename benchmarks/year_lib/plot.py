"""The picture beside the tables."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np

from benchmarks.common import RESULTS
from benchmarks.year_lib.policies import RAYMLOPS

NAME = "year_of_flights.png"
SMOOTH = 7
MARKERS = {"promoted": "o", "follow-up": "D", "not promoted": "x"}


def plot(policies: list[dict[str, Any]]) -> None:
    """Error of every policy by day, and when each retrained."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.dates import DateFormatter, MonthLocator

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(13, 7.5), sharex=True, layout="constrained", height_ratios=(4, 1)
    )
    for at, row in enumerate(policies):
        days = [date.fromisoformat(day["day"]) for day in row["days"]]
        ours = row["policy"] == RAYMLOPS
        label = f"{row['shown']}: {row['mae']:.2f} min, {len(row['retrainings'])} retrainings"
        (line,) = above.plot(days, smoothed(row["days"]), lw=2.5 if ours else 1.2, zorder=3 if ours else 2, label=label)
        for shown, marker in MARKERS.items():
            made = [date.fromisoformat(each["day"]) for each in row["retrainings"] if kind(each) == shown]
            below.plot(made, [at] * len(made), marker, color=line.get_color(), ms=8 if ours else 5)
        if ours:
            alarms = [alarm for alarm in row["alarms"] if alarm["kind"] == "degradation"]
            for n, alarm in enumerate(alarms):
                above.axvline(
                    date.fromisoformat(alarm["day"]), color=line.get_color(), ls="--", lw=1,
                    label="alarm: the error has risen" if n == 0 else None,
                )  # fmt: skip
                if alarm["since"]:
                    above.axvspan(date.fromisoformat(alarm["since"]), date.fromisoformat(alarm["day"]),
                                  color=line.get_color(), alpha=0.08, lw=0)  # fmt: skip
    above.set(ylabel=f"mean absolute error of the air time, minutes ({SMOOTH}-day mean)", ylim=(0, None))
    above.set_title("Flights from New York, 2013, predicted day by day; labels one day late")
    above.legend(fontsize=9)
    for shown, marker in MARKERS.items():
        below.plot([], [], marker, color="0.4", ms=7, label=shown)
    below.legend(fontsize=8, loc="lower left", ncols=len(MARKERS))
    below.xaxis.set_major_locator(MonthLocator())
    below.xaxis.set_major_formatter(DateFormatter("%b"))
    below.set_yticks(range(len(policies)), [row["policy"] for row in policies])
    below.set(ylim=(-1.6, len(policies) - 0.4), title="Retrainings")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / NAME, dpi=110)
    plt.close(figure)


def kind(retraining: dict[str, Any]) -> str:
    if retraining["outcome"] != "promoted":
        return "not promoted"
    return "follow-up" if retraining["cause"] == "follow_up" else "promoted"


def smoothed(days: list[dict[str, Any]]) -> list[float]:
    """Mean error of the flights of each day and the days before it, `SMOOTH` in all."""
    rows = np.array([day["rows"] for day in days], float)
    sums = np.cumsum(np.concatenate([[0.0], rows * [day["error"] for day in days]]))
    counts = np.cumsum(np.concatenate([[0.0], rows]))
    low = np.maximum(np.arange(1, len(days) + 1) - SMOOTH, 0)
    high = np.arange(1, len(days) + 1)
    return list((sums[high] - sums[low]) / (counts[high] - counts[low]))
