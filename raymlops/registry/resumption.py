"""What a job that was killed got done: found by a tag of its runs, and tidied up."""

from __future__ import annotations

import json
from dataclasses import dataclass

from raymlops.registry.backend import Tracking, reported
from raymlops.registry.catalog import find_jobs
from raymlops.registry.versions import CANDIDATE, CHAMPION


@dataclass(frozen=True)
class Done:
    """A job that got as far as a verdict. `version` is None when the gate refused the model."""

    run_id: str
    version: str | None
    reasons: list[str]
    metrics: dict[str, float | None]
    snapshot: str | None


def find_done(tracking: Tracking, name: str, tag: str, value: str) -> Done | None:
    """The job of model `name` whose run has this tag and a verdict that was carried out: a registered version, or a
    refusal. None if there is none, as after a kill before that; its open runs are ended as KILLED.

    Raises RaymlopsError when the registry cannot be reached.
    """
    if not tracking.exists:
        return None
    client = tracking.client
    with reported("looking for earlier work"):
        runs = [run for run in find_jobs(tracking, name) if run.data.tags.get(tag) == value]
        versions = [v for v in client.search_model_versions(f"name = '{name}'") if dict(v.tags).get(tag) == value]
        for version in versions:  # the kill may have come before the alias
            aliases = client.get_registered_model(name).aliases
            if aliases.get(CHAMPION) != version.version and int(aliases.get(CANDIDATE, 0)) < int(version.version):
                client.set_registered_model_alias(name, CANDIDATE, version.version)
        for run in runs:
            if run.info.status == "RUNNING":
                done = run.data.tags.get("verdict") == "refused" or any(v.run_id == run.info.run_id for v in versions)
                client.set_terminated(run.info.run_id, "FINISHED" if done else "KILLED")
        if versions:
            [version] = versions
            metrics = json.loads(dict(version.tags).get("metrics", "{}"))
            reasons = next((r.data.tags.get("reasons", "") for r in runs if r.info.run_id == version.run_id), "")
            snapshot = dict(version.tags).get("snapshot")
            return Done(version.run_id or "", str(version.version), reasons.splitlines(), metrics, snapshot)
        for run in runs:
            if run.data.tags.get("verdict") == "refused":
                tags = run.data.tags
                metrics = {k.removeprefix("holdout_"): v for k, v in run.data.metrics.items() if k[:8] == "holdout_"}
                reasons = tags.get("reasons", "")
                return Done(run.info.run_id, None, reasons.splitlines(), metrics, tags.get("raymlops.snapshot"))
    return None
