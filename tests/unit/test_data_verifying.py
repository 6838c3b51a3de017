"""Are a snapshot's files and its source still the recorded bytes? On directories made by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from raymlops.data.snapshot import describe_file, digest_of
from raymlops.data.verifying import check_snapshot, check_source
from raymlops.store import Store
from raymlops.verification import Check

IDENTITY = {"format": 1, "content": "c", "kinds": {"x": "number"}, "task": "regression"}
DIGEST = digest_of(IDENTITY)
FILES = {"encoded/train-00000.safetensors": b"arrays", "features.json": b"{}", "profile.sketches": b"sketches"}


def written(store: Store, run: str = "r1", files: dict[str, bytes] = FILES) -> dict[str, Any]:
    for name, data in files.items():
        store.write(f"snapshots/{DIGEST}/{run}/{name}", data)
    described = {name: describe_file(data, 1) for name, data in files.items()}
    manifest = {"hash": DIGEST, "identity": IDENTITY, "rows": {"train": 1}, "directory": run, "files": described}
    store.write(f"snapshots/{DIGEST}/manifest.json", json.dumps(manifest).encode())
    return manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "storage"))


def by_name(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.status for check in checks}


def test_an_untouched_snapshot_is_verified(store: Store) -> None:
    manifest = written(store)
    checks = check_snapshot(store, DIGEST, manifest)
    assert by_name(checks) == {"identity": "verified", "manifest.json": "verified", "files": "verified"}
    assert checks[-1].detail == "3 of 3, 16 bytes in all"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_and_a_missing_file_are_named(store: Store, name: str) -> None:
    manifest = written(store)
    path = f"snapshots/{DIGEST}/r1/{name}"
    store.write(path, b"other")
    assert by_name(check_snapshot(store, DIGEST, manifest))[name] == "differs"
    store.delete_file(path)
    found = {check.what: check for check in check_snapshot(store, DIGEST, manifest)}
    assert found[name].status == "differs" and "cannot read" in found[name].detail


def test_a_changed_manifest_is_named(store: Store) -> None:
    manifest = written(store)
    store.write(f"snapshots/{DIGEST}/manifest.json", json.dumps({**manifest, "rows": {"train": 2}}).encode())
    found = {check.what: check for check in check_snapshot(store, DIGEST, manifest)}
    assert found["manifest.json"].status == "differs" and found["manifest.json"].detail.endswith("under rows")
    store.write(f"snapshots/{DIGEST}/manifest.json", b"{")
    assert by_name(check_snapshot(store, DIGEST, manifest))["manifest.json"] == "differs"


def test_an_identity_that_does_not_give_the_name_is_told(store: Store) -> None:
    manifest = written(store)
    changed = {**manifest, "identity": {**IDENTITY, "content": "d"}}
    assert by_name(check_snapshot(store, DIGEST, changed))["identity"] == "differs"


def test_a_snapshot_that_was_made_again_may_differ_only_in_its_sketches(store: Store) -> None:
    manifest = written(store)
    store.delete_tree(f"snapshots/{DIGEST}")
    written(store, "r2", {**FILES, "profile.sketches": b"merged in another order"})
    found = {check.what: check for check in check_snapshot(store, DIGEST, manifest)}
    assert (found["manifest.json"].status, found["manifest.json"].detail) == ("verified", "written again by run r2")
    written(store, "r3", {**FILES, "encoded/train-00000.safetensors": b"other"})
    assert by_name(check_snapshot(store, DIGEST, manifest))["manifest.json"] == "differs"


def test_what_is_not_here_is_not_checked(store: Store) -> None:
    manifest = written(store)
    elsewhere = Store(store.uri + "-elsewhere")
    assert by_name(check_snapshot(elsewhere, DIGEST, manifest)) == {"identity": "verified", "files": "not checked"}


def described(base: Path, *names: str, **more: Any) -> dict[str, Any]:
    files = []
    for name in names:
        data = (base / "rows" / name).read_bytes()
        files.append({"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    return {"kind": "csv", "uri": "rows", "file_count": len(files), "files": files, **more}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "rows" / "day=1").mkdir(parents=True)
    (tmp_path / "rows" / "a.csv").write_text("x\n1\n")
    (tmp_path / "rows" / "day=1" / "b.csv").write_text("x\n2\n")
    return tmp_path


def test_source_files(base: Path) -> None:
    source = described(base, "a.csv", "day=1/b.csv")
    assert [(c.what, c.status, c.detail) for c in check_source(source, base)] == [("files", "verified", "2 of 2")]
    (base / "rows" / "a.csv").write_text("x\n3\n")  # as long as before
    (base / "rows" / "day=1" / "b.csv").unlink()
    (base / "rows" / "new.csv").write_text("x\n9\n")  # nobody read it then
    assert by_name(check_source(source, base)) == {"a.csv": "differs", "day=1/b.csv": "not checked"}
    (base / "rows" / "a.csv").write_text("x\n31\n")
    [check] = [c for c in check_source(source, base) if c.what == "a.csv"]
    assert "has 5 bytes, 4 expected" in check.detail


def test_without_a_hash_only_the_size_can_differ(base: Path) -> None:
    source = described(base, "a.csv", file_count=7)
    del source["files"][0]["sha256"]
    assert by_name(check_source(source, base)) == {"a.csv": "not checked", "more files": "not checked"}


def test_one_of_several_directories_with_files_of_one_name(base: Path) -> None:
    source = described(base, "a.csv", uri=["other", "rows"])
    (base / "other").mkdir()
    (base / "other" / "a.csv").write_text("x\n7\n")
    assert by_name(check_source(source, base)) == {"files": "verified"}


def test_sources_out_of_reach_are_not_checked(base: Path, tmp_path: Path) -> None:
    [check] = check_source(described(base, "a.csv"), tmp_path / "elsewhere")
    assert check.status == "not checked" and "does not exist" in check.detail
    for kind in ("sql", "function"):
        assert by_name(check_source({"kind": kind}, base)) == {"rows": "not checked"}
    delta = {"kind": "delta", "uri": "nowhere", "version": 3, "table_id": "t", "file_count": 1}
    assert by_name(check_source(delta, base)) == {"version 3 of the table": "not checked"}
