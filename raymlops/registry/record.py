"""What a run recorded in MLflow, read back: enough to trace and to repeat it without the storage it ran on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raymlops.errors import IntegrityError, RaymlopsError
from raymlops.registry.backend import Tracking, first_line
from raymlops.registry.names import (
    BASE_TAG,
    CONFIG,
    FUNCTIONS,
    GIT,
    HARDWARE,
    MANIFEST,
    NAME_TAG,
    PACKAGES,
    PROFILE,
    SHA256_TAG,
    SOURCE,
    WINNER,
)
from raymlops.registry.winner import Winner
from raymlops.verification import Check, differs, not_checked, verified

if TYPE_CHECKING:
    from mlflow.entities import Run


class NotRecorded(RaymlopsError):
    """The run has no such artifact: it ended before, or an earlier version of raymlops wrote it."""


@dataclass(frozen=True)
class RunRecord:
    """One job. Every artifact is checked against the hash that the run was tagged with when it was written.

    Properties raise NotRecorded for what the run did not get to, IntegrityError for what was changed since, and
    RaymlopsError for what cannot be fetched.
    """

    tracking: Tracking
    run: Run

    @classmethod
    def of(cls, tracking: Tracking, run_id: str) -> RunRecord:
        """Raises RaymlopsError when there is no such run."""
        from mlflow.exceptions import MlflowException

        try:
            return cls(tracking, tracking.client.get_run(run_id))
        except MlflowException as error:
            raise RaymlopsError(f"run {run_id}: {first_line(error)}") from error

    @classmethod
    def find(cls, tracking: Tracking, prefix: str) -> RunRecord:
        """The job whose id is or begins with `prefix`. Raises RaymlopsError when none or several do."""
        from raymlops.registry.catalog import find_run

        return cls(tracking, find_run(tracking, prefix))

    @property
    def run_id(self) -> str:
        return str(self.run.info.run_id)

    @property
    def name(self) -> str:
        """Of the model."""
        return self.tags.get(NAME_TAG, "")

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.run.data.tags)

    @property
    def snapshot(self) -> str | None:
        """Hash of the snapshot."""
        return self.tags.get("raymlops.snapshot")

    @property
    def base(self) -> Path | None:
        """The directory of its configuration, on the machine that it ran on."""
        return Path(self.tags[BASE_TAG]) if BASE_TAG in self.tags else None

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.run.data.metrics)

    def read(self, path: str) -> bytes:
        """An artifact."""
        from mlflow.exceptions import MlflowException

        expected = self.tags.get(SHA256_TAG + path)
        if expected is None:
            raise NotRecorded(f"run {self.run_id}: has recorded no {path}")
        try:
            with tempfile.TemporaryDirectory(prefix="raymlops-record-") as folder:
                data = Path(self.tracking.client.download_artifacts(self.run_id, path, folder)).read_bytes()
        except (MlflowException, OSError) as error:
            raise RaymlopsError(f"run {self.run_id}: {path} cannot be fetched: {first_line(error)}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise IntegrityError(
                f"run {self.run_id}: {path} has hash {found[:12]}, {expected[:12]} expected; it was changed"
            )
        return data

    def check(self, paths: Iterable[str]) -> list[Check]:
        """Whether artifacts are what the run has written; those that it has not recorded are left out."""
        checks = []
        for path in paths:
            try:
                self.read(path)
                checks.append(verified(path))
            except NotRecorded:
                continue
            except IntegrityError as error:
                checks.append(differs(path, str(error)))
            except RaymlopsError as error:
                checks.append(not_checked(path, str(error)))
        return checks

    @cached_property
    def config(self) -> dict[str, Any]:
        """The whole configuration as plain data, defaults included."""
        return dict(yaml.safe_load(self.read(CONFIG)))

    @cached_property
    def source(self) -> dict[str, Any]:
        """Description of what was read."""
        return dict(json.loads(self.read(SOURCE)))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Of the snapshot."""
        return dict(json.loads(self.read(MANIFEST)))

    @cached_property
    def profile(self) -> dict[str, Any]:
        return dict(json.loads(self.read(PROFILE)))

    @cached_property
    def winner(self) -> Winner:
        return Winner.from_json(self.read(WINNER))

    @cached_property
    def functions(self) -> dict[str, str]:
        """Key path → hash of the user's function and what it uses."""
        return dict(json.loads(self.read(FUNCTIONS)))

    @cached_property
    def hardware(self) -> dict[str, Any]:
        return dict(json.loads(self.read(HARDWARE)))

    @cached_property
    def git(self) -> dict[str, Any] | None:
        """State of the repository; None outside of one."""
        found = json.loads(self.read(GIT))
        return None if found is None else dict(found)

    @cached_property
    def packages(self) -> dict[str, str]:
        """Distribution → version."""
        lines = self.read(PACKAGES).decode().split()
        return dict(line.split("==", 1) for line in lines)


def describe_run(run: Run) -> dict[str, Any]:
    """Plain facts for people and for JSON."""
    tags, info = run.data.tags, run.info
    return {
        "run_id": info.run_id,
        "status": info.status,
        "verdict": tags.get("verdict"),
        "started": datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        "seed": tags.get("raymlops.seed"),
        "raymlops": tags.get("raymlops.version"),
    }


def describe_snapshot(digest: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: manifest[name] for name in ("rows", "time_range", "created")}
    return {"hash": digest, **facts, "path": f"snapshots/{digest}"}


def describe_code(run: Run) -> dict[str, Any]:
    """The commit that the user's code was at, and whether anything differed from it."""
    tags = run.data.tags
    return {
        "commit": tags.get("mlflow.source.git.commit") or None,
        "branch": tags.get("mlflow.source.git.branch") or None,
        "state": tags.get("git.state"),
    }


def describe_environment(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {"python": tags.get("python"), "hardware": tags.get("hardware"), "packages": f"{PACKAGES} of the run"}
