"""The model of a job's run: its package, what the gate said, and the version that a blessed one becomes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raymlops.errors import RaymlopsError
from raymlops.registry import adoption
from raymlops.registry.backend import TrackingError, reported
from raymlops.registry.names import EVALUATION, SLICES, VERDICT
from raymlops.registry.open_run import MAX_TAG
from raymlops.registry.values import cut, dump, finite

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel

    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.registry.versions import VersionRef
    from raymlops.training.evaluation import Evaluation
    from raymlops.training.gate import Verdict


@dataclass(frozen=True)
class LoggedPackage:
    """A model package stored under the run, whether or not it was registered."""

    model_id: str
    location: str
    package_sha256: str
    weights_sha256: str

    @property
    def uri(self) -> str:
        return f"models:/{self.model_id}"


@dataclass(frozen=True)
class Registered:
    name: str
    version: str
    alias: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def log_package(tracker: Tracker, directory: Path, package: ModelPackage, example: pd.DataFrame) -> LoggedPackage:
    """Store the package at `directory` as an MLflow model of the run; `example` is a few raw rows."""
    facts = {"weights_sha256": package.manifest["weights_sha256"], "package_sha256": package.sha256}
    name = re.sub(r"[^A-Za-z0-9_-]", "_", tracker.config.name)  # stricter than run and registry names
    logged = None
    if tracker.adopt is not None:
        logged = adoption.logged_model(tracker.client, tracker.experiment_id, tracker.run_id, package.sha256)
    if logged is None:
        logged = tracker.client.create_logged_model(
            tracker.experiment_id, name=name, source_run_id=tracker.run_id, tags=facts, model_type=tracker.config.task
        )
    if logged.status != "READY":
        _store(tracker, logged, directory, package, example, facts)
    tracker.tag({f"raymlops.{key}": value for key, value in facts.items()})
    return LoggedPackage(logged.model_id, logged.artifact_location, package.sha256, facts["weights_sha256"])


def _store(
    tracker: Tracker,
    logged: LoggedModel,
    directory: Path,
    package: ModelPackage,
    example: pd.DataFrame,
    facts: dict[str, str],
) -> None:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    from raymlops.registry.pyfunc import save_model

    model = Model(
        artifact_path=logged.artifact_location,
        run_id=tracker.run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        metadata={"task": tracker.config.task, **facts},
    )
    with reported("storing the model"), tempfile.TemporaryDirectory(prefix="raymlops-mlflow-") as scratch:
        save_model(Path(scratch) / "model", package, directory, example, model)
        tracker.client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
    told = tracker.client.get_run(tracker.run_id).outputs.model_outputs
    if logged.model_id not in [output.model_id for output in told]:
        tracker.client.log_outputs(tracker.run_id, [LoggedModelOutput(logged.model_id, 0)])
    tracker.client.finalize_logged_model(logged.model_id, "READY")


def log_evaluation(
    tracker: Tracker, evaluation: Evaluation, verdict: Verdict, logged: LoggedPackage | None = None
) -> None:
    """Holdout metrics (`holdout_…`, also on the logged model), slices, verdict and reasons."""
    content = evaluation.to_dict()
    tracker.log_metrics(evaluation.metrics, prefix="holdout_", model_id=logged.model_id if logged else None)
    checks = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in verdict.checks]
    tracker.log_files(
        {
            SLICES: dump(content["slices"]),
            EVALUATION: dump(content),
            VERDICT: dump({"blessed": verdict.blessed, "reasons": verdict.reasons, "checks": checks}),
        }
    )
    tracker.tag({"verdict": _word(verdict), "reasons": "\n".join(verdict.reasons)})


def register(
    tracker: Tracker,
    logged: LoggedPackage,
    verdict: Verdict,
    metrics: Mapping[str, float | None],
    snapshot: str,
    compared_with: VersionRef | None,
) -> Registered:
    """A new version of the registered model, or the one that an adopted run has made of this package; the first gets
    alias `champion`, later ones `candidate`.

    Raises RaymlopsError when the verdict is not blessed.
    """
    if not verdict.blessed:
        raise RaymlopsError(f"{tracker.config.name}: a refused model cannot be registered")
    name, client = tracker.config.name, tracker.client
    tags = {
        "verdict": _word(verdict),
        "snapshot": snapshot,
        "weights_sha256": logged.weights_sha256,
        "package_sha256": logged.package_sha256,
        "metrics": json.dumps({k: finite(v) for k, v in metrics.items()}),
        "champion": compared_with.version if compared_with else "",
        "model_id": logged.model_id,
        **tracker.tags,
    }
    try:
        client.create_registered_model(name)
    except TrackingError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = None
    if tracker.adopt is not None:
        version = adoption.own_version(client, name, tracker.run_id, logged.package_sha256)
    # Against a database MLflow would look a `models:/` source up in the global store instead of this one.
    source = logged.location if tracker.tracking.direct else logged.uri
    if version is None:
        version = client.create_model_version(name, source, tracker.run_id, tags=tags, model_id=logged.model_id)
    alias = adoption.settle_alias(client, name, str(version.version))
    shown = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": shown})  # MLflow's pages read this
    registered = Registered(name, str(version.version), alias)
    tracker.tag({"raymlops.model_version": registered.version, "raymlops.alias": alias})
    return registered


def refuse(tracker: Tracker, logged: LoggedPackage, verdict: Verdict) -> None:
    """Say on the stored model why it was not registered; it stays loadable by `models:/MODEL_ID`."""
    reasons = cut("\n".join(verdict.reasons), MAX_TAG)
    tracker.client.set_logged_model_tags(logged.model_id, {"verdict": _word(verdict), "reasons": reasons})


def _word(verdict: Verdict) -> str:
    return "blessed" if verdict.blessed else "refused"
