"""One page about one run: verdict, quality, search, data, lineage. Self-contained HTML, made from plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from raymlops.registry import plots

MAX_ROWS = 200
"""Rows shown of a long table."""
ENOUGH_TRIALS = 8
"""Fewer finished trials say nothing about the importance of a parameter."""
LABELS = {"mae": "MAE", "rmse": "RMSE", "auc": "AUC", "log_loss": "log loss", "brier": "Brier score"}
PROFILE_KEYS = ("kind", "nulls", "distinct", "min", "q05", "median", "mean", "q95", "max", "std", "top")


@dataclass(frozen=True)
class ReportData:
    """Everything on the page."""

    name: str
    task: str
    target: str
    run_id: str
    created: datetime
    blessed: bool
    reasons: Sequence[str]
    metrics: Mapping[str, float | None]
    """On the holdout."""
    metric: str
    """Validation metric that ranked the trials."""
    greater_is_better: bool
    y: np.ndarray
    """Holdout labels (n,): target units, or class indices."""
    scores: np.ndarray
    """(n,) predictions, (n,) P(positive), or (n, classes) probabilities."""
    trials: Sequence[Mapping[str, Any]]
    """Best first: name, status, reason, params, metric (None without one), curves (epoch, metric, …), seconds."""
    snapshot: str
    rows: Mapping[str, int]
    lineage: Mapping[str, Any]
    """git, hardware, packages, seed, raymlops; as `Tracker.lineage`."""
    classes: Sequence[str] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    """name, passed, detail."""
    baseline: Mapping[str, float | None] = field(default_factory=dict)
    """The same metrics of a predictor that ignores the features."""
    comparison: Mapping[str, Any] | None = None
    """metric, candidate, champion, champion_version, difference, interval, confidence, resamples; or an error."""
    slices: Sequence[Mapping[str, Any]] = ()
    """column, value, rows, metrics."""
    behaviours: Sequence[Mapping[str, Any]] = ()
    """name, passed, detail."""
    source: Mapping[str, Any] = field(default_factory=dict)
    contract: str = ""
    profile: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Column to its statistics."""
    version: str | None = None
    alias: str | None = None
    weights_sha256: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def render_report(data: ReportData) -> str:
    """The page as one HTML document that loads nothing from elsewhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("raymlops.registry", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    profile = list(data.profile.items())[:MAX_ROWS]
    return environment.get_template("report.html").render(
        d=data,
        quality=_safe(_quality_plots(data)),
        search=_safe(_search_plots(data)),
        importance=_importance(data),
        profile=profile,
        profile_keys=[key for key in PROFILE_KEYS if any(facts.get(key) is not None for _, facts in profile)],
        most_rows=max((row["rows"] for row in data.slices), default=1) or 1,
        limit=MAX_ROWS,
        number=number,
        signed=lambda value: f"{'+' if value is not None and value > 0 else ''}{number(value)}",
        label=lambda name: LABELS.get(name, name.replace("_", " ")),
    )


def number(value: Any) -> str:
    """A value for a reader: four significant digits, thousands separated, a dash for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        if 1000 <= abs(value) < 1e15:
            return f"{value:,.0f}"
        return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"
    return str(value)


def _quality_plots(data: ReportData) -> list[tuple[str, str]]:
    y, scores = np.asarray(data.y), np.asarray(data.scores)
    usable = np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1)
    y, scores = y[usable], scores[usable]
    if not len(y):
        return []
    if data.task == "regression":
        return [
            ("Predicted against actual", plots.predicted_against_actual(y, scores, data.target)),
            ("Errors", plots.residuals(y, scores, data.target)),
        ]
    if data.task == "binary":
        positive = data.classes[1] if len(data.classes) > 1 else "positive"
        return [
            ("ROC curve", plots.roc(y, scores)),
            ("Calibration", plots.calibration((y == 1).astype(float), scores, f"predicted P({positive})")),
        ]
    predicted = scores.argmax(axis=1)
    hits = (predicted == y).astype(float)
    return [
        ("Confusion", plots.confusion(y, predicted, data.classes)),
        ("Calibration", plots.calibration(hits, scores.max(axis=1), "confidence in the predicted class")),
    ]


def _search_plots(data: ReportData) -> list[tuple[str, str]]:
    found = []
    if any(trial["curves"] for trial in data.trials):
        found.append(("Learning curves", plots.learning_curves(data.trials, data.metric)))
    finished = _finished(data)
    if len(finished) >= 2 and any(trial["params"] for trial in finished):
        drawn = plots.parallel_coordinates(finished, data.metric, data.greater_is_better)
        found.append(("Parameters and what they gave", drawn))
    return found


def _importance(data: ReportData) -> list[tuple[str, float]]:
    finished = _finished(data)
    return plots.importance(finished) if len(finished) >= ENOUGH_TRIALS else []


def _finished(data: ReportData) -> list[Mapping[str, Any]]:
    return [t for t in data.trials if t["metric"] is not None and math.isfinite(t["metric"])]


def _safe(drawn: list[tuple[str, str]]) -> list[tuple[str, Any]]:
    """SVG is ours, and matplotlib escaped the labels in it; everything else on the page is escaped by Jinja."""
    from markupsafe import Markup

    return [(title, Markup(svg)) for title, svg in drawn]
