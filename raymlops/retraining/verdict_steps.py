"""Gate, registration and report: from weights to a verdict that is recorded and carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.retraining.desk import Desk
from raymlops.retraining.inputs import StepName
from raymlops.retraining.steps import Steps

if TYPE_CHECKING:
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.registry.winner import Winner
    from raymlops.retraining.judging import Judged
    from raymlops.training.objective import ValidationMetric


@dataclass
class VerdictSteps:
    """The steps of a run that judge. What an earlier process judged is fetched when it is needed."""

    desk: Desk
    built: BuiltSnapshot
    metric: ValidationMetric
    tracker: Tracker
    steps: Steps
    fence: Callable[[], None]
    """Raises when this process lost the right to register."""
    folder: Path
    """For the package, which must be a directory of this machine."""
    outputs: Mapping[StepName, dict[str, Any]]
    """Of the steps so far."""

    def gate(self, created: float) -> dict[str, Any]:
        """`created` is the time that the package is given, in seconds since 1970: the same again when the run had to
        judge once more."""
        from raymlops.retraining.judging import judge, judged_output, keep_package, package_model
        from raymlops.training.space import with_values

        desk, winner = self.desk, self.outputs["search"]["winner"]
        facts = {
            "run_id": self.tracker.run_id,
            "snapshot": self.built.snapshot.hash,
            "trial": winner["name"],
            "values": {**desk.origin.values, **winner["values"]},
        }
        final = with_values(desk.config, winner["values"])
        weights = (self.outputs.get("refit") or winner)["path"]
        moment = datetime.fromtimestamp(created, UTC)
        package = package_model(self._directory, final, desk.store, desk.base, self.built, weights, facts, moment)
        judged = judge(desk.config, package, self.built, desk.evidence.champion, self.metric.name)
        path = f"runs/{desk.config.name}/{self.tracker.run_id}/package"
        keep_package(desk.store, path, self._directory)
        self.__dict__.update(_package=package, _judged=judged)
        return judged_output(judged, package, path)

    def register(self) -> dict[str, Any]:
        from raymlops.retraining.judging import register

        package = self._package
        self.tracker.log_winner(self._winner(package))
        model, version, alias = register(self.tracker, self._directory, package, self.built, self._judged, self.fence)
        return {"model": model, "version": version, "alias": alias, "package_sha256": package.sha256}

    def _winner(self, package: ModelPackage) -> Winner:
        from raymlops.registry.winner import Winner
        from raymlops.retraining.training_steps import trials_of

        config, start = self.desk.config, self.desk.origin.start
        won = self.outputs["search"]["winner"]
        [trial] = [trial for trial in trials_of(self.outputs["search"]) if trial.name == won["name"]]
        return Winner(
            trial=trial.name,
            values=trial.values,
            epoch=trial.best_epoch,
            metric=self.metric.name,
            value=trial.best_metric,
            refit=config.search.refit,
            checkpoint=(self.outputs.get("refit") or won)["path"],
            weights_sha256=package.manifest["weights_sha256"],
            start=None if start is None else start.sha256,
        )

    def report(self) -> dict[str, Any]:
        from raymlops.retraining.reporting import data_notes, job_report
        from raymlops.retraining.training_steps import trials_of

        package, judged, registered = self._package, self._judged, self.outputs["register"]
        html = job_report(
            self.desk.config,
            package,
            self.built,
            trials_of(self.outputs["search"]),
            judged,
            self.metric,
            self.tracker,
            registered["version"],
            registered["alias"],
            self.steps.seconds,
            self.desk.now,
        )
        self.tracker.log_report(html)
        result = {
            "run_id": self.tracker.run_id,
            "name": self.desk.config.name,
            "model": registered["model"],
            "version": registered["version"],
            "alias": registered["alias"],
            "verdict": "blessed" if judged.verdict.blessed else "refused",
            "reasons": judged.verdict.reasons,
            "metrics": judged.evaluation.metrics,
            "snapshot": self.built.snapshot.hash,
            "weights_sha256": package.manifest["weights_sha256"],
            "notes": data_notes(self.built),
        }
        return {"result": result}

    @property
    def _directory(self) -> Path:
        return self.folder / "package"

    @cached_property
    def _package(self) -> ModelPackage:
        from raymlops.retraining.judging import fetch_package

        gate = self.outputs["gate"]
        return fetch_package(self.desk.store, gate["package"], self._directory, gate["package_sha256"])

    @cached_property
    def _judged(self) -> Judged:
        from raymlops.retraining.judging import judged_again

        return judged_again(self.desk.config, self._package, self.built, self.outputs["gate"], self.desk.tracking)
