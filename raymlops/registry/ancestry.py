"""From a registered version back to its data: run, trial, checkpoint, snapshot, source, code, environment, parent.

Everything is read from MLflow. What else can be reached from here (the storage, the source, the repository) is
compared with it byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymlops.data.verifying import check_snapshot, check_source
from raymlops.errors import IntegrityError, RaymlopsError, StoreError
from raymlops.registry import record as recorded
from raymlops.registry.backend import Tracking
from raymlops.registry.record import NotRecorded, RunRecord, describe_code, describe_environment, describe_run
from raymlops.registry.versions import VersionRef, find_version
from raymlops.registry.winner import FUNCTIONS, MANIFEST, WINNER
from raymlops.store import Store
from raymlops.verification import Check, any_differs, differs, not_checked, same_hash, verified

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
class Lineage:
    """The links of one version, in the order of the way back."""

    model: str
    links: list[Link]
    parent: str | None
    """URI of the champion that the version was compared with."""

    @property
    def intact(self) -> bool:
        """Nothing that could be checked differs."""
        return not any(any_differs(link.checks) for link in self.links)

    def to_dict(self) -> dict[str, Any]:
        links = {link.name: link.to_dict() for link in self.links}
        return {"model": self.model, "intact": self.intact, **links}


def lineage_of(tracking: Tracking, store: Store, reference: str, base: Path | None = None) -> Lineage:
    """The way back from `NAME`, `NAME@ALIAS` or `NAME/VERSION`.

    `base` is the directory of data files and code, where it is not the one that the run names. Raises RaymlopsError
    when there is no such version or MLflow cannot be reached.
    """
    version = find_version(tracking, reference)
    package, checks = _package(version)
    links = [Link("version", describe_version(version), checks)]
    parent = version.tags.get("champion")
    try:
        record = RunRecord.of(tracking, version.run_id or "")
    except RaymlopsError as error:
        links.append(Link("run", {"run_id": version.run_id}, [not_checked("run", str(error))]))
        return Lineage(version.uri, links, _uri(version.name, parent))
    base = base or record.base
    for name, follow in _STEPS.items():
        links.append(_step(name, follow, _Way(version, package, record, store, base)))
    links.append(_parent(version, parent))
    return Lineage(version.uri, links, _uri(version.name, parent))


def ancestors_of(tracking: Tracking, store: Store, lineage: Lineage) -> list[Lineage]:
    """The lineage of the parent, of its parent, and so on, until a first champion or a version that is gone."""
    found, seen = [], {lineage.model}
    while lineage.parent is not None and lineage.parent not in seen:
        seen.add(lineage.parent)
        try:
            lineage = lineage_of(tracking, store, lineage.parent)
        except RaymlopsError:
            break  # its child's link `parent` says why
        found.append(lineage)
    return found


@dataclass(frozen=True)
class _Way:
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


def _step(name: str, follow: Callable[[_Way], Link], way: _Way) -> Link:
    try:
        return follow(way)
    except IntegrityError as error:
        return Link(name, {}, [differs(name, str(error))])
    except RaymlopsError as error:
        return Link(name, {}, [not_checked(name, str(error))])


def describe_version(version: VersionRef) -> dict[str, Any]:
    """Plain facts for people and for JSON."""
    tags = version.tags
    aliases = version.tracking.client.get_registered_model(version.name).aliases
    return {
        "uri": version.uri,
        "aliases": sorted(alias for alias, number in aliases.items() if str(number) == version.version),
        "package_sha256": tags.get("package_sha256"),
        "weights_sha256": tags.get("weights_sha256"),
        "metrics": json.loads(tags.get("metrics", "{}")),
        "compared_with": tags.get("champion") or None,
    }


def describe_snapshot(digest: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: manifest[name] for name in ("rows", "time_range", "created")}
    return {"hash": digest, **facts, "path": f"snapshots/{digest}"}


def _package(version: VersionRef) -> tuple[dict[str, Any], list[Check]]:
    from raymlops.registry.package import MANIFEST as PACKAGE_MANIFEST
    from raymlops.registry.package import read_files, verify

    try:
        with tempfile.TemporaryDirectory(prefix="raymlops-lineage-") as scratch:
            files = read_files(version.fetch(Path(scratch)))
    except RaymlopsError as error:
        return {}, [not_checked("package", str(error))]
    try:
        manifest = verify(files, version.uri, version.package_sha256)
    except RaymlopsError as error:
        try:
            manifest = json.loads(files[PACKAGE_MANIFEST])
        except (KeyError, ValueError):
            manifest = {}
        return manifest, [differs("package", str(error))]
    return manifest, [verified("package", f"{len(files)} files")]


def _run(way: _Way) -> Link:
    checks = way.record.check([recorded.CONFIG])
    claimed = way.claims.get("run_id")
    if claimed is not None:  # which may have been judged by another run, and only registered by this one
        expected = way.record.tags.get("raymlops.reused.gate", way.record.run_id)
        checks.append(_same("run of the package", claimed, expected))
    return Link("run", {**describe_run(way.record.run), "base": str(way.base) if way.base else None}, checks)


def _trial(way: _Way) -> Link:
    winner, claims = way.record.winner, way.claims
    facts = {"trial": winner.trial, "values": dict(winner.values), "epoch": winner.epoch}
    facts |= {"metric": winner.metric, "value": winner.value, "refit": winner.refit, "start": winner.start}
    checks = [verified(WINNER)]
    if claims:
        checks.append(_same("trial of the package", claims.get("trial"), winner.trial))
        chosen = {key: claims.get("values", {}).get(key) for key in winner.values}
        checks.append(_same("values of the package", chosen, dict(winner.values)))
    return Link("trial", facts, checks)


def _checkpoint(way: _Way) -> Link:
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


def _snapshot(way: _Way) -> Link:
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


def _source(way: _Way) -> Link:
    source = way.record.source
    facts = {name: value for name, value in source.items() if name != "files"}
    if way.base is None:
        return Link("source", facts, [not_checked("files", "the run does not say what relative paths belong to")])
    return Link("source", facts, check_source(source, way.base))


def _code(way: _Way) -> Link:
    facts = describe_code(way.record.run)
    checks = way.record.check([recorded.GIT, recorded.GIT_DIFF, FUNCTIONS])
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


def _environment(way: _Way) -> Link:
    return Link(
        "environment",
        describe_environment(way.record.run),
        way.record.check([recorded.PACKAGES, recorded.HARDWARE]),
    )


_STEPS: dict[str, Callable[[_Way], Link]] = {
    "run": _run,
    "trial": _trial,
    "checkpoint": _checkpoint,
    "snapshot": _snapshot,
    "source": _source,
    "code": _code,
    "environment": _environment,
}


def _parent(version: VersionRef, parent: str | None) -> Link:
    """The champion that the gate compared it with; the first version of a model has none."""
    uri = _uri(version.name, parent)
    if uri is None:
        return Link("parent", {"uri": None})
    try:
        found = find_version(version.tracking, uri)
    except RaymlopsError as error:
        return Link("parent", {"uri": uri}, [not_checked("parent", str(error))])
    return Link("parent", {"uri": uri, "run_id": found.run_id, "weights_sha256": found.tags.get("weights_sha256")})


def _uri(name: str, version: str | None) -> str | None:
    return f"models:/{name}/{version}" if version else None


def _same(what: str, found: Any, expected: Any) -> Check:
    if found == expected:
        return verified(what)
    return differs(what, f"{found!r} found, {expected!r} expected")
