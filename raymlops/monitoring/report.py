"""One page about a model in production: how good it is, what changed, what labels there are. Values in, HTML out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from raymlops.monitoring import report_plots as plots
from raymlops.monitoring.attribution import Moved
from raymlops.monitoring.drift import DriftFinding
from raymlops.monitoring.label_status import LabelStatus
from raymlops.monitoring.pictures import heatmap, moved_picture
from raymlops.monitoring.signals import Kind, Signal
from raymlops.registry.report import number
from raymlops.tables import age

MAX_ROWS = 200
"""Rows shown of a long table."""
MAX_MOVED = 4
"""Features whose picture is drawn."""


@dataclass(frozen=True)
class VersionDay:
    """Answered rows of one day and version."""

    day: str
    version: str
    predictions: int
    labelled: int
    loss: float | None
    """Mean over labelled rows, in the report's unit."""
    estimate: float | None
    """Expected from inputs or scores alone; of the champion."""


@dataclass(frozen=True)
class Alarm:
    day: str
    version: str
    kind: Kind
    text: str = ""


@dataclass(frozen=True)
class SliceLoss:
    """Labelled rows of the champion."""

    name: str
    rows: int
    loss: float
    registered: float
    limit: float


@dataclass(frozen=True)
class Distance:
    """Of a feature's rows of late from the training rows; for categories the last three are None."""

    feature: str
    psi: float
    ks: float | None = None
    ks_p: float | None = None
    wasserstein: float | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything on the page."""

    name: str
    version: str
    """The champion."""
    created: datetime
    since: str
    until: str
    """First and last day."""
    unit: str
    """What a loss is."""
    signals: Sequence[Signal]
    alarms: Sequence[Alarm]
    days: Sequence[VersionDay]
    labels: LabelStatus
    joined_until: datetime | None
    registered: float | None = None
    """Loss on the holdout, and the largest that is tolerated."""
    limit: float | None = None
    drift: Sequence[DriftFinding] = ()
    """A day each; `moved` stays empty."""
    moved: Sequence[Moved] = ()
    distances: Sequence[Distance] = ()
    distance_rows: str = ""
    """Which rows are compared with training."""
    slices: Sequence[SliceLoss] = ()
    estimated_by: str = ""
    """How, and how much to make of it; empty without estimates."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What could not be judged or shown, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold: times as ISO text, no infinities."""
        found = {name: value for name, value in vars(self).items() if name != "labels"}
        plain = {name: _plain(value) for name, value in found.items()}
        return {**plain, "labels": self.labels.to_dict()}


def render_report(data: ReportData) -> str:
    """The page as one HTML document that loads nothing from elsewhere."""
    from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
    from markupsafe import Markup

    loader = PrefixLoader({part: PackageLoader(f"raymlops.{part}", ".") for part in ("monitoring", "registry")})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(
        "monitoring/report.html"
    ).render(
        d=data,
        pictures={name: Markup(svg) for name, svg in _pictures(data).items()},  # ours; matplotlib escaped its labels
        moved=[Markup(moved_picture(one)) for one in data.moved[:MAX_MOVED]],
        number=number,
        share=lambda value: f"{value:.1%}",
        age=lambda seconds: "–" if seconds is None else age(seconds),
        coverages=coverage_rows(data.labels),
        limit=MAX_ROWS,
    )


def coverage_rows(labels: LabelStatus) -> list[tuple[str, Any]]:
    """What a line of label coverage is of, and the coverage: all, versions, slices."""
    rows = [("all", labels.total), *(("version", one) for one in labels.versions)]
    return rows + [(column, one) for column, found in labels.slices.items() for one in found]


def _pictures(data: ReportData) -> dict[str, str]:
    drawn = {}
    if any(day.loss is not None or day.estimate is not None for day in data.days):
        worse = next((s.since for s in data.signals if s.alarm and s.kind == "degradation"), None)
        lines = (data.registered, data.limit)
        drawn["performance"] = plots.performance(data.days, data.alarms, worse, data.version, *lines, data.unit)
    if data.drift:
        drawn["drift"] = heatmap(data.drift)
    if data.labels.days:
        drawn["coverage"] = plots.coverage(data.labels.days)
        if any(day.labelled for day in data.labels.days):
            drawn["delay"] = plots.delay(data.labels.days)
    return drawn


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    return value
