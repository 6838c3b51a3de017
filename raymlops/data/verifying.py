"""Whether a snapshot and what it was read from are still the bytes that were recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymlops.config.loading import resolve_local
from raymlops.data.files import DataFile, list_files
from raymlops.data.snapshot import digest_of, directory
from raymlops.errors import DataError, StoreError
from raymlops.store import Store
from raymlops.verification import Check, differs, hash_file, not_checked, same_hash, verified

DETERMINED = ("rows/", "encoded/", "features.json")
"""Files that are the same bytes whoever writes the snapshot; sketches depend on the order of merging."""


def check_identity(digest: str, manifest: Mapping[str, Any]) -> Check:
    """The snapshot's name is the hash of what its files depend on, which the manifest spells out."""
    return same_hash("identity", digest_of(manifest["identity"]), digest)


def check_snapshot(store: Store, digest: str, manifest: Mapping[str, Any]) -> list[Check]:
    """`manifest` is the recorded one. Every stored file is read; each that differs is named."""
    checks = [check_identity(digest, manifest)]
    root = directory(digest)
    try:
        stored = json.loads(store.read(f"{root}/manifest.json")) if store.exists(f"{root}/manifest.json") else None
    except (StoreError, OSError) as error:
        return [*checks, not_checked("files", str(error))]
    except ValueError as error:
        return [*checks, differs("manifest.json", f"{store.location(root)}/manifest.json is no JSON: {error}")]
    if stored is None:
        return [*checks, not_checked("files", f"there is no snapshot at {store.location(root)}")]
    checks.append(_check_manifest(stored, manifest, f"{store.location(root)}/manifest.json"))
    where = f"{root}/{stored.get('directory', manifest['directory'])}"
    bad: list[Check] = []
    files: Mapping[str, Any] = stored.get("files") or manifest["files"]
    for name, described in files.items():
        path = f"{where}/{name}"
        try:
            found = hashlib.sha256(store.read(path)).hexdigest()
        except StoreError as error:
            bad.append(differs(name, f"{error}, but the manifest names it"))
            continue
        check = same_hash(name, found, described["sha256"], store.location(path))
        if check.status != "verified":
            bad.append(check)
    intact = len(files) - len(bad)
    size = sum(described["bytes"] for described in files.values())
    whole = [verified("files", f"{intact} of {len(files)}, {size:,} bytes in all")] if intact else []
    return [*checks, *whole, *bad]


def _check_manifest(stored: Mapping[str, Any], recorded: Mapping[str, Any], where: str) -> Check:
    if stored == recorded:
        return verified("manifest.json")
    if stored.get("directory") == recorded["directory"]:
        changed = [key for key in {**recorded, **stored} if stored.get(key) != recorded.get(key)]
        return differs("manifest.json", f"{where} was changed under {', '.join(changed)}")
    # Removed and made again later: what the rows determine must be the same all the same.
    theirs, ours = stored.get("files", {}), recorded["files"]
    names = [name for name in {**ours, **theirs} if name.startswith(DETERMINED)]
    changed = [name for name in names if _hash(theirs.get(name)) != _hash(ours.get(name))]
    if stored.get("identity") != recorded["identity"]:
        changed.insert(0, "identity")
    if changed:
        return differs(
            "manifest.json", f"{where}, written again by run {stored.get('directory')}: {changed[0]} differs"
        )
    return verified("manifest.json", f"written again by run {stored['directory']}")


def _hash(described: Any) -> Any:
    return described["sha256"] if described else None


def check_source(source: Mapping[str, Any], base: Path) -> list[Check]:
    """`source` is the recorded description, `base` the directory that relative paths belong to. What cannot be
    reached from here is not checked."""
    kind = source.get("kind")
    if kind in ("parquet", "csv"):
        return _check_files(source, base)
    if kind == "delta":
        return [_check_delta(source, base)]
    what = {"sql": "a query", "function": "a function"}.get(str(kind), "this kind of source")
    return [not_checked("rows", f"{what} has no content of its own; the rows that it gave are in the snapshot")]


def _check_files(source: Mapping[str, Any], base: Path) -> list[Check]:
    paths = [source["uri"]] if isinstance(source["uri"], str) else source["uri"]
    found: dict[str, list[DataFile]] = {}
    unreachable: list[Check] = []
    for path in paths:
        try:
            for file in list_files(resolve_local(path, base), source["kind"]):
                found.setdefault(file.name, []).append(file)
        except (DataError, OSError) as error:
            unreachable.append(not_checked(path, str(error).removeprefix("data.source.path: ")))
    recorded = source.get("files", [])
    checks = [_check_file(entry, found.get(entry["path"], [])) for entry in recorded]
    if unreachable and not found:
        return unreachable
    good = [check for check in checks if check.status == "verified"]
    rest = [check for check in checks if check.status != "verified"]
    if hidden := source.get("file_count", len(recorded)) - len(recorded):
        rest.append(not_checked("more files", f"{hidden} more were read than are described"))
    whole = [verified("files", f"{len(good)} of {source.get('file_count', len(recorded))}")] if good else []
    return [*whole, *rest, *unreachable]


def _check_file(entry: Mapping[str, Any], candidates: list[DataFile]) -> Check:
    """Several directories may hold files of one name: it is enough that one of them is the recorded one."""
    name = entry["path"]
    if not candidates:
        return not_checked(name, "it is not there any more")
    check = not_checked(name, "not looked at")
    for file in candidates:
        if file.bytes != entry["bytes"]:
            check = differs(name, f"{file.uri} has {file.bytes:,} bytes, {entry['bytes']:,} expected")
            continue
        if not entry.get("sha256"):
            check = not_checked(name, f"{file.uri} has the size that was recorded, but no hash was")
            continue
        try:
            check = same_hash(name, hash_file(file.uri), entry["sha256"], file.uri)
        except OSError as error:
            check = not_checked(name, f"{file.uri}: {error.strerror or error}")
        if check.status == "verified":
            return check
    return check


def _check_delta(source: Mapping[str, Any], base: Path) -> Check:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    uri, version = resolve_local(source["uri"], base), source["version"]
    what = f"version {version} of the table"
    try:
        table = DeltaTable(uri, version=version)
        identity, files = str(table.metadata().id), len(table.file_uris())
    except (DeltaError, OSError, ValueError) as error:
        return not_checked(what, f"cannot be opened at {uri}: {str(error).splitlines()[0]}")
    if identity != source["table_id"]:
        return differs(what, f"{uri} is now another table: id {identity}, {source['table_id']} expected")
    if files != source["file_count"]:
        return differs(what, f"{uri} has {files} files there, {source['file_count']} expected")
    return verified(what, f"table {identity}, {files} files")
