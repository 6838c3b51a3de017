"""Rows for `raymlops runs` and `raymlops models`, and the report of a run."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.errors import RaymlopsError
from raymlops.registry.backend import Tracking, tracking
from raymlops.registry.names import JOB, KIND_TAG, NAME_TAG, REPORT
from raymlops.registry.versions import find_version
from raymlops.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 200


@dataclass(frozen=True)
class RunRow:
    """One job."""

    run_id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    verdict: str | None
    """blessed, refused or stopped; None before the gate."""
    metrics: dict[str, float]
    """Holdout metrics."""
    version: str | None
    alias: str | None
    """Alias at registration."""
    snapshot: str | None
    error: str | None
    started: float
    """Seconds since 1970 (UTC)."""
    seconds: float | None
    """Wall-clock; None while running."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "started": _iso(self.started)}


@dataclass(frozen=True)
class ModelRow:
    """One registered version."""

    name: str
    version: str
    aliases: list[str]
    metrics: dict[str, float]
    """Holdout metrics at registration."""
    created: float
    """Seconds since 1970 (UTC)."""
    age_s: float
    run_id: str | None
    snapshot: str | None
    weights_sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "created": _iso(self.created)}


def list_runs(storage: str, tracking_uri: str | None, name: str | None = None, limit: int = 20) -> list[RunRow]:
    """Jobs, newest first; of one model when `name` is given. Empty when nothing was ever run here."""
    found: list[RunRow] = []
    for run in find_jobs(tracking(tracking_uri, Store.at(storage)), name):
        if len(found) == limit:
            break
        found.append(_run_row(run))
    return found


def list_models(storage: str, tracking_uri: str | None, name: str | None = None) -> list[ModelRow]:
    """Registered versions by name, newest version first.

    Raises RaymlopsError when `name` is given and not registered.
    """
    where = tracking(tracking_uri, Store.at(storage))
    rows: list[ModelRow] = []
    if where.exists:
        # Aliases live on the registered model; versions come without them when searched.
        registered = _pages(where.client.search_registered_models)
        aliases: dict[tuple[str, str], list[str]] = {}
        for model in registered:
            for alias, version in model.aliases.items():
                aliases.setdefault((model.name, str(version)), []).append(alias)
        for version in _pages(where.client.search_model_versions):
            if name is None or version.name == name:
                key = (version.name, str(version.version))
                rows.append(_model_row(version, sorted(aliases.get(key, []))))
    if name is not None and not rows:
        raise RaymlopsError(f"model {name!r}: nothing registered under this name in {where.shown}")
    return sorted(rows, key=lambda row: (row.name, -int(row.version)))


def find_report(storage: str, tracking_uri: str | None, run: str) -> tuple[str, str]:
    """Run id and HTML of the report of the run whose id is or begins with `run`.

    Raises RaymlopsError when no job or several match, or when the run has no report.
    """
    from mlflow.exceptions import MlflowException

    where = tracking(tracking_uri, Store.at(storage))
    found = find_run(where, run).info
    try:
        with tempfile.TemporaryDirectory(prefix="raymlops-report-") as folder:
            path = where.client.download_artifacts(found.run_id, REPORT, folder)
            return found.run_id, Path(path).read_text(encoding="utf-8")
    except (MlflowException, OSError) as error:
        raise RaymlopsError(f"run {found.run_id}: has no report (status {found.status})") from error


def download_package(storage: str, tracking_uri: str | None, model: str, folder: Path) -> tuple[str, Path]:
    """URI and directory of the package of `NAME`, `NAME@ALIAS` or `NAME/VERSION`, every hash checked.

    The directory is below `folder`, or the stored one when this machine has it. Raises RaymlopsError when there is no
    such model, IntegrityError when a file is not the one that was registered.
    """
    found = find_version(tracking(tracking_uri, Store.at(storage)), model)
    directory = found.fetch(folder)
    found.verify(directory)
    return found.uri, directory


def find_run(where: Tracking, prefix: str) -> Run:
    """The job whose id is or begins with `prefix`. Raises RaymlopsError when none or several do."""
    matches = [run for run in find_jobs(where, None) if run.info.run_id.startswith(prefix)] if prefix else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(run.info.run_id[:12] for run in matches[:5])
        raise RaymlopsError(f"run {prefix!r}: {len(matches)} runs begin with this: {shown}; give more characters")
    raise RaymlopsError(f"run {prefix!r}: no such run in {where.shown}; `raymlops runs` lists them")


def find_jobs(where: Tracking, name: str | None) -> Iterator[Run]:
    """Runs of jobs, newest first; of one model when `name` is given."""
    if not where.exists:
        return
    wanted = f"tags.`{KIND_TAG}` = '{JOB}'"
    if name is not None:
        if re.fullmatch(r"[\w.-]+", name) is None:  # no model is called that, and a quote would end the filter
            return
        wanted += f" and tags.`{NAME_TAG}` = '{name}'"
    client = where.client
    experiments = [e.experiment_id for e in _pages(client.search_experiments)]
    token: str | None = None
    while experiments:
        page = client.search_runs(
            experiments, wanted, order_by=["attributes.start_time DESC"], max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _pages(search: Any) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = search(max_results=PAGE, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def _run_row(run: Run) -> RunRow:
    tags, info = run.data.tags, run.info
    return RunRow(
        run_id=info.run_id,
        name=tags.get(NAME_TAG, ""),
        status=info.status,
        verdict=tags.get("verdict"),
        metrics={k.removeprefix("holdout_"): v for k, v in run.data.metrics.items() if k.startswith("holdout_")},
        version=tags.get("raymlops.model_version"),
        alias=tags.get("raymlops.alias"),
        snapshot=tags.get("raymlops.snapshot"),
        error=tags.get("error"),
        started=info.start_time / 1000,
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
    )


def _model_row(version: Any, aliases: list[str]) -> ModelRow:
    tags = version.tags
    return ModelRow(
        name=version.name,
        version=str(version.version),
        aliases=aliases,
        metrics={k: v for k, v in json.loads(tags.get("metrics", "{}")).items() if v is not None},
        created=version.creation_timestamp / 1000,
        age_s=time.time() - version.creation_timestamp / 1000,
        run_id=version.run_id or None,
        snapshot=tags.get("snapshot"),
        weights_sha256=tags.get("weights_sha256"),
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
