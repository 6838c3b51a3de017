"""One job's record in MLflow: a parent run owned by the driver, with its data, its trials and their winner."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from raymlops import __version__
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.registry import adoption
from raymlops.registry.backend import ReportingClient, Tracking, TrackingError, tracking
from raymlops.registry.names import (
    BASE_TAG,
    CHECKPOINT_TAG,
    CONTRACT,
    JOB,
    KIND_TAG,
    MANIFEST,
    NAME_TAG,
    PROFILE,
    REPORT,
    SOURCE,
    STARTED_TAG,
    TRIAL,
    WINNER,
)
from raymlops.registry.open_run import MAX_TAG, OpenRun
from raymlops.registry.start import Start
from raymlops.registry.values import cut, dump, key_of
from raymlops.registry.winner import Winner
from raymlops.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run


class Tracker(OpenRun):
    """The one parent run of a job; a context manager that ends it FINISHED, FAILED or KILLED.

    Uses no active run and no global tracking URI. Raises RaymlopsError when the store cannot be reached.
    """

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
        self.client = ReportingClient(self.tracking.client)
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
        self.run_id = self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        try:
            self._log_start()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def _go_on(self, run_id: str) -> None:
        self.run_id = run_id
        run = self.client.get_run(run_id)
        self.experiment_id = run.info.experiment_id
        adoption.open_again(self.client, run)
        self.trials = adoption.logged_trials(self.client, self.experiment_id, run_id)
        self._log_start(run)
        self.tag({"raymlops.resumed": f"{self.now:%Y-%m-%d %H:%M:%S}"})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

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
        self.client.log_inputs(
            self.run_id, [DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])]
        )
        self.tag({"raymlops.snapshot": snapshot})
        self.log_metrics(rows, prefix="rows_")
        self.log_files({CONTRACT: contract, PROFILE: dump(profile), SOURCE: dump(source), MANIFEST: dump(manifest)})

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
            self.client.delete_run(known)
        ended = int(time.time() * 1000)
        began = ended - int(seconds * 1000)
        tags = {KIND_TAG: TRIAL, NAME_TAG: self.config.name, adoption.PARENT: self.run_id, adoption.STATUS: status}
        if reason:
            tags["reason"] = cut(reason, MAX_TAG)
        run = self.client.create_run(self.experiment_id, start_time=began, tags=tags, run_name=name)
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
        self.client.set_terminated(run.info.run_id, "FAILED" if status == "failed" else "FINISHED", ended)
        self.trials[name] = str(run.info.run_id), status
        return str(run.info.run_id)

    def log_winner(self, winner: Winner) -> None:
        """Which trial became the model, and what repeating it takes."""
        self.log_files({WINNER: dump(winner.to_dict())})
        self.tag({"raymlops.trial": winner.trial, CHECKPOINT_TAG: winner.checkpoint})

    def log_report(self, html: str) -> None:
        self.log_files({REPORT: html})

    def _log_start(self, run: Run | None = None) -> None:
        """What is known before anything is done; of a run that goes on, what its death kept it from saying."""
        from mlflow.entities import Param

        start = Start.of(self.config, self.base)
        self.lineage = start.to_dict()
        if run is not None and STARTED_TAG in run.data.tags:
            return
        known = {} if run is None else run.data.params
        self._batch(self.run_id, params=[Param(k, cut(v)) for k, v in start.params().items() if k not in known])
        self.log_files(start.files())
        self.tag(start.tags())

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                root = self.tracking.artifacts
                location = f"{root}/{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}" if root else None
                return str(self.client.create_experiment(name, artifact_location=location))
            except TrackingError:
                found = self.client.get_experiment_by_name(name)  # another job may have been faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RaymlopsError(
                f"tracking.experiment: {name!r} is deleted in {self.tracking.shown}; restore it or name another"
            )
        return str(found.experiment_id)
