"""What a run says about one step of the way back from a version, and whether it is still so."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymlops.data.verifying import check_snapshot, check_source
from raymlops.errors import IntegrityError, RaymlopsError, StoreError
from raymlops.registry.names import CONFIG, FUNCTIONS, GIT, GIT_DIFF, HARDWARE, MANIFEST, PACKAGES, WINNER
from raymlops.registry.record import (
    NotRecorded,
    RunRecord,
    describe_code,
    describe_environment,
    describe_run,
    describe_snapshot,
)
from raymlops.registry.versions import VersionRef
from raymlops.store import Store
from raymlops.verification import Check, differs, not_checked, same_hash, verified

WEIGHTS = "weights.safetensors"
GIT_SECONDS = 10.0


@dataclass(frozen=True)
class Link:
    """One step of the way. `facts` are plain values."""

    name: str
    facts: dict[str, Any]
    checks: list[Check] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {**self.facts, "checks": [check.to_dict() for check in self.checks]}


@dataclass(frozen=True)
class Way:
    """What every step may look at. `package` is the manifest of the model package, empty when it cannot be had."""

    version: VersionRef
    package: dict[str, Any]
    record: RunRecord
    store: Store
    base: Path | None

    @property
    def claims(self) -> dict[str, Any]:
        """What the package says about its run."""
        return dict(self.package.get("facts", {}))


def follow(way: Way) -> list[Link]:
    """The links of a run. What cannot be read is a link without facts that says why."""
    return [_link(name, step, way) for name, step in _STEPS.items()]


def _link(name: str, step: Callable[[Way], Link], way: Way) -> Link:
    try:
        return step(way)
    except IntegrityError as error:
        return Link(name, {}, [differs(name, str(error))])
    except RaymlopsError as error:
        return Link(name, {}, [not_checked(name, str(error))])


def _run(way: Way) -> Link:
    checks = way.record.check([CONFIG])
    claimed = way.claims.get("run_id")
    if claimed is not None:  # which may have been judged by another run, and only registered by this one
        expected = way.record.tags.get("raymlops.reused.gate", way.record.run_id)
        checks.append(_same("run of the package", claimed, expected))
    return Link("run", {**describe_run(way.record.run), "base": str(way.base) if way.base else None}, checks)


def _trial(way: Way) -> Link:
    winner, claims = way.record.winner, way.claims
    facts = {"trial": winner.trial, "values": dict(winner.values), "epoch": winner.epoch}
    facts |= {"metric": winner.metric, "value": winner.value, "refit": winner.refit, "start": winner.start}
    checks = [verified(WINNER)]
    if claims:
        checks.append(_same("trial of the package", claims.get("trial"), winner.trial))
        chosen = {key: claims.get("values", {}).get(key) for key in winner.values}
        checks.append(_same("values of the package", chosen, dict(winner.values)))
    return Link("trial", facts, checks)


def _checkpoint(way: Way) -> Link:
    winner = way.record.winner
    expected = winner.weights_sha256
    checks = [same_hash("weights of the version", way.version.tags.get("weights_sha256"), expected)]
    if way.package:
        checks.append(same_hash("weights of the package", way.package.get("weights_sha256"), expected))
    path = f"{winner.checkpoint}/{WEIGHTS}"
    try:
        if way.store.exists(path):
            found = hashlib.sha256(way.store.read(path)).hexdigest()
            checks.append(same_hash("weights in the storage", found, expected, way.store.location(path)))
        else:
            checks.append(not_checked("weights in the storage", f"there is no {way.store.location(path)}"))
    except StoreError as error:
        checks.append(not_checked("weights in the storage", str(error)))
    return Link("checkpoint", {"weights_sha256": expected, "path": winner.checkpoint}, checks)


def _snapshot(way: Way) -> Link:
    digest = way.record.snapshot
    if digest is None:
        raise NotRecorded(f"run {way.record.run_id}: has recorded no snapshot")
    checks = [_same("snapshot of the version", way.version.tags.get("snapshot"), digest)]
    try:
        manifest = way.record.manifest
    except IntegrityError as error:
        return Link("snapshot", {"hash": digest}, [*checks, differs(MANIFEST, str(error))])
    except RaymlopsError as error:
        return Link("snapshot", {"hash": digest}, [*checks, not_checked(MANIFEST, str(error))])
    checks += check_snapshot(way.store, digest, manifest)
    return Link("snapshot", describe_snapshot(digest, manifest), checks)


def _source(way: Way) -> Link:
    source = way.record.source
    facts = {name: value for name, value in source.items() if name != "files"}
    if way.base is None:
        return Link("source", facts, [not_checked("files", "the run does not say what relative paths belong to")])
    return Link("source", facts, check_source(source, way.base))


def _code(way: Way) -> Link:
    facts = describe_code(way.record.run)
    checks = way.record.check([GIT, GIT_DIFF, FUNCTIONS])
    if commit := facts["commit"]:
        checks.append(_check_commit(commit, way.base))
    return Link("code", facts, checks)


def _check_commit(commit: str, base: Path | None) -> Check:
    if base is None or not base.is_dir():
        return not_checked("commit", f"there is no directory {base}" if base else "the run names no directory")
    command = ["git", "-C", str(base), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return not_checked("commit", f"git: {error}")
    if done.returncode == 0:
        return verified("commit", f"in the repository of {base}")
    return not_checked("commit", f"the repository of {base} has no commit {commit[:12]}, or there is none")


def _environment(way: Way) -> Link:
    return Link("environment", describe_environment(way.record.run), way.record.check([PACKAGES, HARDWARE]))


def _same(what: str, found: Any, expected: Any) -> Check:
    if found == expected:
        return verified(what)
    return differs(what, f"{found!r} found, {expected!r} expected")


_STEPS: dict[str, Callable[[Way], Link]] = {
    "run": _run,
    "trial": _trial,
    "checkpoint": _checkpoint,
    "snapshot": _snapshot,
    "source": _source,
    "code": _code,
    "environment": _environment,
}
