"""One job's record in MLflow: a parent run owned by the driver, one nested run per trial, the model and its verdict."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import yaml

from raymlops import __version__
from raymlops.config.tree import Config
from raymlops.data.identity import path_digest
from raymlops.errors import RaymlopsError, Refused
from raymlops.imports import user_functions
from raymlops.registry import adoption, lineage
from raymlops.registry.backend import ReportingClient, Tracking, TrackingError, reported, tracking
from raymlops.registry.values import chunks, cut, dump, finite, flat_params, key_of
from raymlops.registry.versions import VersionRef, champion
from raymlops.registry.winner import FUNCTIONS, MANIFEST, WINNER, Winner
from raymlops.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel, Metric, Param, Run, RunTag

    from raymlops.registry.package import ModelPackage
    from raymlops.training.evaluation import Evaluation
    from raymlops.training.gate import Verdict

log = logging.getLogger(__name__)

JOB, TRIAL = "job", "trial"
KIND_TAG, NAME_TAG = "raymlops.kind", "raymlops.name"
BASE_TAG = "raymlops.base"
"""Directory of the configuration, which relative paths and the user's modules belong to."""
CHECKPOINT_TAG = "raymlops.checkpoint"
"""Where the weights of its model were written, below the storage."""
SHA256_TAG = "sha256."
"""Followed by an artifact's path: whoever reads it later can tell whether it was changed."""
REPORT = "report.html"
STARTED = "git.state"
"""The tag that says that everything known at the start was recorded."""
MAX_TAG = 5000
BATCH_METRICS, BATCH_PARAMS = 1000, 100


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


class Tracker:
    """The one parent run of a job; a context manager that ends it FINISHED, FAILED or KILLED.

    Methods may be called from one thread at a time, which need not be the one that opened the run. Uses no active run
    and no global tracking URI. Raises RaymlopsError when the store cannot be reached.
    """

    run_id: str

    def __init__(
        self,
        config: Config,
        store: Store,
        base: Path,
        now: datetime,
        tags: Mapping[str, str] | None = None,
        adopt: str | None = None,
    ) -> None:
        """`tags` are set on the run and on the version that it registers. `adopt` is the run of a process that died or
        was stopped: it is opened again, and what it has recorded is not recorded twice."""
        self.config, self.base, self.now, self.tags = config, base, now, dict(tags or {})
        self.adopt = adopt
        self.trials: dict[str, tuple[str, str]] = {}
        self.tracking: Tracking = tracking(config.tracking.uri, store)
        self.lineage: dict[str, Any] = {}
        """Git state, hardware, versions and seed, as recorded on the run."""

    def __enter__(self) -> Self:
        self._client = ReportingClient(self.tracking.client)
        self._began = time.time()
        if self.adopt is not None:
            self._go_on(self.adopt)
            return self
        self.experiment_id = self._experiment(self.config.tracking.experiment or self.config.name)
        tags = {
            KIND_TAG: JOB,
            NAME_TAG: self.config.name,
            "raymlops.version": __version__,
            "raymlops.task": self.config.task,
            "raymlops.seed": str(self.config.seed),
            BASE_TAG: str(self.base.resolve()),
            "mlflow.source.name": "raymlops run",
            "mlflow.source.type": "JOB",
            **self.tags,
        }
        name = f"{self.config.name} {self.now:%Y-%m-%d %H:%M:%S}"
        self.run_id = self._client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        try:
            self._log_start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _go_on(self, run_id: str) -> None:
        self.run_id = run_id
        run = self._client.get_run(run_id)
        self.experiment_id = run.info.experiment_id
        adoption.open_again(self._client, run)
        self.trials = adoption.logged_trials(self._client, self.experiment_id, run_id)
        self._log_start(run)
        self.tag({"raymlops.resumed": f"{self.now:%Y-%m-%d %H:%M:%S}"})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED"
        if error is not None:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            message = str(error) if isinstance(error, RaymlopsError) else f"{type(error).__name__}: {error}"
            tags = {"error": message}
            if isinstance(error, Refused):
                tags["verdict"] = "stopped"
        try:
            if error is not None:
                self.tag(tags)
            self._client.set_terminated(self.run_id, status)
        except TrackingError as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # what ended the job is what the user must see

    # -- the parent run ------------------------------------------------------------------------------------------

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; long values are cut visibly."""
        from mlflow.entities import RunTag

        self._batch(self.run_id, tags=[RunTag(key, cut(value, MAX_TAG)) for key, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float | None], prefix: str = "", model_id: str | None = None) -> None:
        """Numbers of the whole job; NaN and infinities are kept as such, None is left out."""
        from mlflow.entities import Metric

        known = {} if self.adopt is None else self._client.get_run(self.run_id).data.metrics
        stamp = int(time.time() * 1000)
        self._batch(
            self.run_id,
            metrics=[
                Metric(key_of(prefix + k), float(v), stamp, 0, model_id=model_id)
                for k, v in metrics.items()
                if v is not None and known.get(key_of(prefix + k)) != float(v)
            ],
        )

    def log_files(self, files: Mapping[str, str | bytes]) -> None:
        """Artifacts by relative path, and a tag with the hash of each; text is written as UTF-8."""
        contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        with reported("writing artifacts"), tempfile.TemporaryDirectory(prefix="raymlops-artifacts-") as folder:
            for path, content in contents.items():
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            self._client.log_artifacts(self.run_id, folder)
        self.tag({SHA256_TAG + path: hashlib.sha256(content).hexdigest() for path, content in contents.items()})

    def log_data(
        self,
        *,
        snapshot: str,
        source: Mapping[str, Any],
        rows: Mapping[str, int],
        columns: Mapping[str, str],
        contract: str,
        profile: Mapping[str, Any],
        manifest: Mapping[str, Any],
    ) -> None:
        """The data that the job used, as MLflow's dataset input and as artifacts.

        `snapshot` is its hash, `source` describes where it was read (kind, uri, version), `rows` counts rows by part,
        `columns` maps raw columns to kinds, `contract` is YAML text, `manifest` is the snapshot's.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        uri = source.get("uri")
        kind = {"": "local", "file": "local", "s3": "s3", "gs": "gs"}.get(str(uri).partition("://")[0])
        if isinstance(uri, str) and "://" not in uri:
            kind = "local"
        described = {**source, "snapshot": snapshot, "tags": {k: str(v) for k, v in source.items()}}
        dataset = Dataset(
            name=self.config.name,
            digest=snapshot[:36],
            source_type=kind or "code",
            source=cut(json.dumps(described, default=str), 60_000),
            schema=json.dumps({"mlflow_colspec": [{"name": n, "type": k} for n, k in columns.items()]}),
            profile=json.dumps({"rows": sum(rows.values()), **rows}),
        )
        self._client.log_inputs(
            self.run_id, [DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])]
        )
        self.tag({"raymlops.snapshot": snapshot})
        self.log_metrics(rows, prefix="rows_")
        self.log_files(
            {
                "contract.yaml": contract,
                "profile.json": dump(profile),
                "source.json": dump(source),
                MANIFEST: dump(manifest),
            }
        )

    def log_trial(
        self,
        name: str,
        params: Mapping[str, Any],
        curves: Sequence[Mapping[str, float | None]],
        status: str,
        reason: str | None = None,
        seconds: float = 0.0,
    ) -> str:
        """One nested run: parameters, one metric point per epoch (`epoch` is the step), and how the trial ended.

        `status` is completed, pruned, stopped or failed; `reason` says why. Returns the nested run's id; one that an
        adopted run has recorded with this status stays as it is.
        """
        from mlflow.entities import Metric, Param

        known, earlier = self.trials.get(name, (None, ""))
        if known is not None and earlier == status:
            return known
        if known is not None:  # it was stopped, and went on
            self._client.delete_run(known)
        ended = int(time.time() * 1000)
        began = ended - int(seconds * 1000)
        tags = {KIND_TAG: TRIAL, NAME_TAG: self.config.name, adoption.PARENT: self.run_id, adoption.STATUS: status}
        if reason:
            tags["reason"] = cut(reason, MAX_TAG)
        run = self._client.create_run(self.experiment_id, start_time=began, tags=tags, run_name=name)
        metrics = []
        for index, point in enumerate(curves):
            stamp = began + (ended - began) * (index + 1) // len(curves)
            step = int(point.get("epoch") or index)
            metrics += [
                Metric(key_of(key), float(value), stamp, step)
                for key, value in point.items()
                if key != "epoch" and value is not None
            ]
        self._batch(run.info.run_id, metrics=metrics, params=[Param(k, cut(v)) for k, v in params.items()])
        self._client.set_terminated(run.info.run_id, "FAILED" if status == "failed" else "FINISHED", ended)
        self.trials[name] = str(run.info.run_id), status
        return str(run.info.run_id)

    def log_winner(self, winner: Winner) -> None:
        """Which trial became the model, and what repeating it takes."""
        self.log_files({WINNER: dump(winner.to_dict())})
        self.tag({"raymlops.trial": winner.trial, CHECKPOINT_TAG: winner.checkpoint})

    def log_report(self, html: str) -> None:
        self.log_files({REPORT: html})

    # -- the model -----------------------------------------------------------------------------------------------

    def log_package(self, directory: Path, package: ModelPackage, example: pd.DataFrame) -> LoggedPackage:
        """Store the package at `directory` as an MLflow model of this run; `example` is a few raw rows."""
        facts = {"weights_sha256": package.manifest["weights_sha256"], "package_sha256": package.sha256}
        name = re.sub(r"[^A-Za-z0-9_-]", "_", self.config.name)  # stricter than run and registry names
        logged = None
        if self.adopt is not None:
            logged = adoption.logged_model(self._client, self.experiment_id, self.run_id, package.sha256)
        if logged is None:
            logged = self._client.create_logged_model(
                self.experiment_id, name=name, source_run_id=self.run_id, tags=facts, model_type=self.config.task
            )
        if logged.status != "READY":
            self._store_model(logged, directory, package, example, facts)
        self.tag({f"raymlops.{key}": value for key, value in facts.items()})
        return LoggedPackage(logged.model_id, logged.artifact_location, package.sha256, facts["weights_sha256"])

    def _store_model(
        self, logged: LoggedModel, directory: Path, package: ModelPackage, example: pd.DataFrame, facts: dict[str, str]
    ) -> None:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        from raymlops.registry.pyfunc import save_model

        model = Model(
            artifact_path=logged.artifact_location,
            run_id=self.run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            metadata={"task": self.config.task, **facts},
        )
        with reported("storing the model"), tempfile.TemporaryDirectory(prefix="raymlops-mlflow-") as scratch:
            save_model(Path(scratch) / "model", package, directory, example, model)
            self._client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
        told = self._client.get_run(self.run_id).outputs.model_outputs
        if logged.model_id not in [output.model_id for output in told]:
            self._client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, 0)])
        self._client.finalize_logged_model(logged.model_id, "READY")

    def log_evaluation(self, evaluation: Evaluation, verdict: Verdict, logged: LoggedPackage | None = None) -> None:
        """Holdout metrics (`holdout_…`, also on the logged model), slices, verdict and reasons."""
        content = evaluation.to_dict()
        self.log_metrics(evaluation.metrics, prefix="holdout_", model_id=logged.model_id if logged else None)
        checks = [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in verdict.checks]
        self.log_files(
            {
                "slices.json": dump(content["slices"]),
                "evaluation.json": dump(content),
                "verdict.json": dump({"blessed": verdict.blessed, "reasons": verdict.reasons, "checks": checks}),
            }
        )
        self.tag({"verdict": _word(verdict), "reasons": "\n".join(verdict.reasons)})

    def champion(self) -> VersionRef | None:
        """The version that a new model has to be compared with."""
        return champion(self.tracking, self.config.name)

    def register(
        self,
        logged: LoggedPackage,
        verdict: Verdict,
        metrics: Mapping[str, float | None],
        snapshot: str,
        compared_with: VersionRef | None,
    ) -> Registered:
        """A new version of the registered model, or the one that an adopted run has made of this package; the first
        gets alias `champion`, later ones `candidate`.

        Raises RaymlopsError when the verdict is not blessed.
        """
        if not verdict.blessed:
            raise RaymlopsError(f"{self.config.name}: a refused model cannot be registered")
        name, client = self.config.name, self._client
        tags = {
            "verdict": _word(verdict),
            "snapshot": snapshot,
            "weights_sha256": logged.weights_sha256,
            "package_sha256": logged.package_sha256,
            "metrics": json.dumps({k: finite(v) for k, v in metrics.items()}),
            "champion": compared_with.version if compared_with else "",
            "model_id": logged.model_id,
            **self.tags,
        }
        try:
            client.create_registered_model(name)
        except TrackingError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = None
        if self.adopt is not None:
            version = adoption.own_version(client, name, self.run_id, logged.package_sha256)
        # Against a database MLflow would look a `models:/` source up in the global store instead of this one.
        source = logged.location if self.tracking.direct else logged.uri
        if version is None:
            version = client.create_model_version(name, source, self.run_id, tags=tags, model_id=logged.model_id)
        alias = adoption.settle_alias(client, name, str(version.version))
        shown = json.dumps([{"name": name, "version": str(version.version)}])
        client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": shown})  # MLflow's pages read this
        registered = Registered(name, str(version.version), alias)
        self.tag({"raymlops.model_version": registered.version, "raymlops.alias": alias})
        return registered

    def refuse(self, logged: LoggedPackage, verdict: Verdict) -> None:
        """Say on the stored model why it was not registered; it stays loadable by `models:/MODEL_ID`."""
        reasons = cut("\n".join(verdict.reasons), MAX_TAG)
        self._client.set_logged_model_tags(logged.model_id, {"verdict": _word(verdict), "reasons": reasons})

    # -- how -----------------------------------------------------------------------------------------------------

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                root = self.tracking.artifacts
                location = f"{root}/{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}" if root else None
                return str(self._client.create_experiment(name, artifact_location=location))
            except TrackingError:
                found = self._client.get_experiment_by_name(name)  # another job may have been faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RaymlopsError(
                f"tracking.experiment: {name!r} is deleted in {self.tracking.shown}; restore it or name another"
            )
        return str(found.experiment_id)

    def _log_start(self, run: Run | None = None) -> None:
        """What is known before anything is done; of a run that goes on, what its death kept it from saying."""
        from mlflow.entities import Param

        git = lineage.git_state(self.base)
        packages, machine = lineage.installed_packages(), lineage.hardware()
        self.lineage = {
            "git": git.to_dict() if git else None,
            "hardware": machine,
            "packages": packages,
            "seed": self.config.seed,
            "raymlops": __version__,
        }
        plain = self.config.model_dump(mode="json", by_alias=True)
        if run is not None and STARTED in run.data.tags:
            return
        known = {} if run is None else run.data.params
        params = {k: v for k, v in flat_params(plain).items() if k not in known}
        self._batch(self.run_id, params=[Param(k, cut(v)) for k, v in params.items()])
        tags = {
            STARTED: "not a git repository" if git is None else "changed" if git.dirty else "clean",
            "hardware": f"{machine['cpus']} × {machine['cpu']}, {len(machine['gpus'])} GPU",
            "python": machine["python"],
        }
        files = {
            "config.yaml": yaml.safe_dump(plain, sort_keys=False, allow_unicode=True),
            "packages.txt": "\n".join(packages) + "\n",
            "hardware.json": dump(machine),
            "git.json": dump(self.lineage["git"]),
            FUNCTIONS: dump({name: path_digest(path) for name, path in user_functions(self.config).items()}),
        }
        if git is not None:
            tags |= {"mlflow.source.git.commit": git.commit or "", "mlflow.source.git.branch": git.branch or ""}
            files["git.diff"] = git.diff
        self.log_files(files)
        self.tag(tags)  # last: they vouch for the files

    def _batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """As few requests as MLflow's limits per request allow."""
        for chunk in chunks(params, BATCH_PARAMS):
            self._client.log_batch(run_id, params=chunk)
        for chunk in chunks(tags, BATCH_PARAMS):
            self._client.log_batch(run_id, tags=chunk)
        for chunk in chunks(metrics, BATCH_METRICS):
            self._client.log_batch(run_id, metrics=chunk)


def _word(verdict: Verdict) -> str:
    return "blessed" if verdict.blessed else "refused"
