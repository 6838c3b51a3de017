"""Days on a time axis: losses and alarms, coverage of labels, their delay. Inline SVG, as `registry/plots.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raymlops.registry.plots import ACCENT, INK, MUTED, SECOND, SERIES, literal, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from raymlops.monitoring.label_status import Coverage
    from raymlops.monitoring.report import Alarm, VersionDay

WIDTH, HEIGHT = 9.4, 3.4
LEFT, BEFORE = (ACCENT, *SERIES[2:]), 5
"""Colours of versions, SECOND being kept for alarms; versions that are named at most."""
MARKS = {"degradation": "v", "drift": "D", "quality": "X", "labels": "P", "estimate": "o"}
UNITS = ((2 * 86_400.0, 86_400.0, "days"), (2 * 3_600.0, 3_600.0, "hours"), (120.0, 60.0, "minutes"))


def performance(
    days: Sequence[VersionDay],
    alarms: Sequence[Alarm],
    worse_since: str | None,
    champion: str,
    registered: float | None,
    limit: float | None,
    unit: str,
) -> str:
    """Mean loss by day, a line per version, with the champion's level and limit, its estimate and all alarms.

    From `worse_since` on, where the change of an open incident is dated, the background is shaded."""
    figure, axes = _over_time(unit)
    versions = list(dict.fromkeys(day.version for day in days))
    shown = versions[-BEFORE:]
    for version in versions:
        points = [(_at(day.day), day.loss) for day in days if day.version == version and day.loss is not None]
        colour = LEFT[shown.index(version) % len(LEFT)] if version in shown else MUTED
        if points:
            label = literal(f"version {version}") if version in shown else None
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=2.5, label=label)
        first = min(_at(day.day) for day in days if day.version == version)
        if version != versions[0]:
            axes.axvline(first, color=colour, linewidth=0.8, linestyle=":")
    expected = [(_at(day.day), day.estimate) for day in days if day.estimate is not None]
    if expected:
        x, y = zip(*expected, strict=True)
        axes.plot(x, y, color=MUTED, linewidth=1.2, linestyle="--", label="estimate without labels")
    for height, style, label in ((registered, "-", f"level of {champion}"), (limit, "--", f"limit of {champion}")):
        if height is not None:
            axes.axhline(height, color=INK, linewidth=0.8, linestyle=style, alpha=0.6, label=literal(label))
    if worse_since is not None:
        edges = _at(worse_since), max(_at(day.day) for day in days)
        axes.axvspan(*edges, color=SECOND, alpha=0.1, linewidth=0, label="open incident")
    axes.set_ylim(bottom=0.0)
    top = axes.get_ylim()[1] * 1.08
    axes.set_ylim(0.0, top)
    for row, (kind, mark) in enumerate(MARKS.items()):
        at = [_at(alarm.day) for alarm in alarms if alarm.kind == kind]
        if at:
            axes.scatter(
                at,
                [top * (0.96 - 0.055 * row)] * len(at),
                marker=mark,
                color=SECOND,
                s=26,
                label=f"{kind} alarm",
                zorder=3,
            )
            if kind in ("degradation", "drift"):
                for day in at:
                    axes.axvline(day, color=SECOND, linewidth=0.8, alpha=0.6)
    _legend(axes)
    return to_svg(figure)


def coverage(days: Sequence[Coverage]) -> str:
    """Answered rows by day, and those of them that have a label."""
    figure, axes = _over_time("rows a day", 4.7)
    at = [_at(day.name) for day in days]
    axes.bar(at, [day.predictions for day in days], width=0.8, color=MUTED, alpha=0.6, label="without label")
    axes.bar(at, [day.labelled for day in days], width=0.8, color=ACCENT, label="labelled")
    axes.set_ylim(bottom=0.0)
    _legend(axes)
    return to_svg(figure)


def delay(days: Sequence[Coverage]) -> str:
    """From prediction to label by day of the prediction: median, and within what nine in ten came."""
    known = [day for day in days if day.median_delay_s is not None and day.p90_delay_s is not None]
    largest = max((day.p90_delay_s or 0.0 for day in known), default=0.0)
    size, name = next(((size, name) for least, size, name in UNITS if largest >= least), (1.0, "seconds"))
    figure, axes = _over_time(f"{name} to the label", 4.7)
    at = [_at(day.name) for day in known]
    for label, colour, values in (
        ("9 in 10 within", MUTED, [day.p90_delay_s or 0.0 for day in known]),
        ("median", ACCENT, [day.median_delay_s or 0.0 for day in known]),
    ):
        axes.plot(at, [value / size for value in values], color=colour, marker="o", markersize=2.5, label=label)
    axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
    _legend(axes)
    return to_svg(figure)


def _at(day: str) -> float:
    """Where a day is on the time axis."""
    from matplotlib.dates import datestr2num

    return float(datestr2num(day))


def _over_time(label: str, width: float = WIDTH) -> tuple[Figure, Axes]:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = new_figure(width, HEIGHT)
    locator = AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=INK, fontsize=8)
    axes.set_ylabel(literal(label))
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left", bbox_to_anchor=(0.0, -0.12), ncols=5)
