"""An open run in MLflow: tags, metrics and artifacts of any number, and how it ends."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raymlops.errors import RaymlopsError, Refused
from raymlops.registry.backend import ReportingClient, TrackingError, reported
from raymlops.registry.names import SHA256_TAG
from raymlops.registry.values import chunks, cut, key_of

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag

log = logging.getLogger(__name__)

MAX_TAG = 5000
BATCH_METRICS, BATCH_PARAMS = 1000, 100


class OpenRun:
    """One run that this process records. Methods may be called from one thread at a time, which need not be the one
    that opened it. Raises RaymlopsError when the store cannot be reached."""

    client: ReportingClient
    run_id: str
    experiment_id: str
    adopt: str | None = None
    """The same as `run_id` where the run had been begun by a process that died or was stopped."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; long values are cut visibly."""
        from mlflow.entities import RunTag

        self._batch(self.run_id, tags=[RunTag(key, cut(value, MAX_TAG)) for key, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float | None], prefix: str = "", model_id: str | None = None) -> None:
        """Numbers of the whole run; NaN and infinities are kept as such, None is left out."""
        from mlflow.entities import Metric

        known = {} if self.adopt is None else self.client.get_run(self.run_id).data.metrics
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
            self.client.log_artifacts(self.run_id, folder)
        self.tag({SHA256_TAG + path: hashlib.sha256(content).hexdigest() for path, content in contents.items()})

    def _end(self, error: BaseException | None) -> None:
        """FINISHED without an error, else FAILED or, for what is no Exception, KILLED."""
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
            self.client.set_terminated(self.run_id, status)
        except TrackingError as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # what ended the job is what the user must see

    def _batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """As few requests as MLflow's limits per request allow."""
        for chunk in chunks(params, BATCH_PARAMS):
            self.client.log_batch(run_id, params=chunk)
        for chunk in chunks(tags, BATCH_PARAMS):
            self.client.log_batch(run_id, tags=chunk)
        for chunk in chunks(metrics, BATCH_METRICS):
            self.client.log_batch(run_id, metrics=chunk)
