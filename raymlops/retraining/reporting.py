"""What the report of a job shows, gathered from its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from raymlops.config import Config
from raymlops.retraining.judging import Judged

if TYPE_CHECKING:
    from raymlops.data.profile import Profile
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.training.objective import ValidationMetric
    from raymlops.training.records import TrialRecord


def job_report(
    config: Config,
    package: ModelPackage,
    built: BuiltSnapshot,
    trials: Sequence[TrialRecord],
    judged: Judged,
    metric: ValidationMetric,
    tracker: Tracker,
    version: str | None,
    alias: str | None,
    seconds: Mapping[str, float],
    now: datetime,
) -> str:
    """The HTML report."""
    from raymlops.registry.report import ReportData, render_report

    evaluation = judged.evaluation.to_dict()
    sign = 1.0 if metric.mode == "min" else -1.0
    ranked = sorted(trials, key=lambda t: (t.best_metric is None, sign * (t.best_metric or 0.0)))
    snapshot = built.snapshot
    data = ReportData(
        name=config.name,
        task=config.task,
        target=config.data.target,
        run_id=tracker.run_id,
        created=now,
        blessed=judged.verdict.blessed,
        reasons=judged.verdict.reasons,
        metrics=judged.evaluation.metrics,
        metric=metric.name,
        greater_is_better=metric.mode == "max",
        y=judged.labels,
        scores=judged.scores,
        trials=[
            {
                "name": trial.name,
                "status": trial.status,
                "reason": trial.reason,
                "params": trial.values,
                "metric": trial.best_metric,
                "curves": trial.curves,
                "seconds": trial.seconds,
            }
            for trial in ranked
        ],
        snapshot=snapshot.hash,
        rows=snapshot.rows,
        lineage=tracker.lineage,
        classes=package.classes,
        checks=[asdict(check) for check in judged.verdict.checks],
        baseline=evaluation["baseline"],
        comparison=evaluation["comparison"],
        slices=evaluation["slices"],
        behaviours=evaluation["behaviours"],
        source=built.source,
        contract=built.contract.to_yaml(),
        profile=report_profile(built.profile),
        version=version,
        alias=alias,
        weights_sha256=package.manifest["weights_sha256"],
        seconds=seconds,
    )
    return render_report(data)


def data_notes(built: BuiltSnapshot) -> list[str]:
    """What somebody should know about the data although nothing was refused."""
    notes = []
    if built.contract_inferred:
        notes.append("the contract was inferred from this data; later data is checked against it")
    if built.quarantined:
        notes.append(f"{built.quarantined:,} rows break the contract and were moved to {built.quarantine_path}")
    for column, values in built.new_categories.items():
        shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
        notes.append(f"{column}: {len(values)} value(s) that the contract does not list: {shown}")
    return notes


def report_profile(profile: Profile) -> dict[str, dict[str, Any]]:
    """The profile's columns with the names that the report's table uses."""
    rows = {}
    for name, column in profile.to_dict()["columns"].items():
        quantiles = column.pop("quantiles")
        variance = column.pop("variance")
        top = ", ".join(f"{value} ({count:,})" for value, count in column.pop("top")[:3])
        extra = {"q05": quantiles.get("0.05"), "median": quantiles.get("0.5"), "q95": quantiles.get("0.95")}
        rows[name] = {**column, **extra, "std": None if variance is None else variance**0.5, "top": top or None}
    return rows
