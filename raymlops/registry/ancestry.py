"""From a registered version back to its data: run, trial, checkpoint, snapshot, source, code, environment, parent.

Everything is read from MLflow. What else can be reached from here (the storage, the source, the repository) is
compared with it byte by byte.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymlops.errors import RaymlopsError
from raymlops.registry.backend import Tracking
from raymlops.registry.links import Link, Way, follow
from raymlops.registry.record import RunRecord
from raymlops.registry.versions import VersionRef, find_version
from raymlops.store import Store
from raymlops.verification import Check, any_differs, differs, not_checked, verified


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
    links += follow(Way(version, package, record, store, base or record.base))
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
