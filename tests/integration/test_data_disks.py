"""Snapshots are whole or not at all: full disks, runs that break off, runs at once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, contract_file, encoded, refused

from raymlops.data.snapshot import Snapshot
from raymlops.store import Store, StoreError


def test_a_full_disk_under_the_driver(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have written their shards; the last small files do not fit any more."""
    write = Store.write

    def full(self: Store, path: str, data: bytes, **options: Any) -> None:
        if path.endswith("profile.json"):
            raise StoreError(f"cannot write {self.location(path)}: {os.strerror(errno.ENOSPC)}")
        write(self, path, data, **options)

    monkeypatch.setattr(Store, "write", full)
    message = refused(lab, StoreError)
    assert message.endswith("profile.json: No space left on device") and "cannot write " in message
    monkeypatch.undo()
    assert not contract_file(lab).exists()
    assert not lab.build().reused


@pytest.mark.parametrize("blocked", ["staging", "snapshots"])
def test_a_store_that_workers_cannot_write_to(lab: Lab, blocked: str) -> None:
    """A file stands where a directory must be: nobody, not even root, can write below it."""
    (lab.base / "storage").mkdir()
    (lab.base / "storage" / blocked).write_text("in the way")
    message = refused(lab, StoreError)
    assert message.startswith(f"cannot write {lab.base}/storage/{blocked}/"), message
    assert message.endswith(": Not a directory"), message
    assert not contract_file(lab).exists()
    (lab.base / "storage" / blocked).unlink()
    assert not lab.build().reused


def test_a_disk_that_fills_up_under_the_workers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real writes that the kernel refuses: /dev/full answers every write with "no space left"."""
    full = FullAfter(str(lab.base / "storage"), "encoded/validation")
    monkeypatch.setattr(Lab, "store", property(lambda self: full))
    message = refused(lab, StoreError)
    assert message.startswith(f"cannot write {lab.base}/storage/snapshots/") and message.count("\n") == 0
    assert message.endswith("safetensors: No space left on device")


class FullAfter(Store):
    """A store on a disk that has no room for one of the files."""

    def __init__(self, uri: str, what: str) -> None:
        super().__init__(uri)
        object.__setattr__(self, "what", what)

    def write(self, path: str, data: bytes, **options: Any) -> None:
        if self.what not in path:  # type: ignore[attr-defined]
            return super().write(path, data, **options)
        try:
            with Path("/dev/full").open("wb") as device:
                device.write(data)
        except OSError as error:
            raise StoreError(f"cannot write {self.location(path)}: {error.strerror}") from error


def test_a_run_that_breaks_off_leaves_no_half_snapshot_for_the_next(lab: Lab) -> None:
    """Files without a manifest, as a killed driver leaves them, are no snapshot: the next build writes it all."""
    snapshot = lab.build().snapshot
    root = lab.base / "storage" / "snapshots" / snapshot.hash
    expected = encoded(snapshot)
    (root / "manifest.json").unlink()
    (root / "run0" / "encoded" / "train-00000.safetensors").write_bytes(b"half")
    again = lab.build()
    assert not again.reused and encoded(again.snapshot) == expected
    assert json.loads((root / "manifest.json").read_text())["hash"] == snapshot.hash


def test_two_runs_at_once_leave_one_whole_snapshot(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one run has written its shards, another one of the same content starts and finishes."""
    from raymlops.data import build

    write_shards, others = build.write_shards, []

    def slowly(*arguments: Any) -> Any:
        described = write_shards(*arguments)
        if not others:
            others.append(None)
            others[0] = lab.build(name="faster", data={"contract": {"keys": ["id"]}})
        return described

    monkeypatch.setattr(build, "write_shards", slowly)
    built = lab.build()
    assert not others[0].reused and others[0].snapshot.hash == built.snapshot.hash
    for snapshot in (built.snapshot, others[0].snapshot, Snapshot.open(lab.store, built.snapshot.hash)):
        assert snapshot.profile().rows == 240 and len(encoded(snapshot)["train"]) == 3
    assert len(lab.left_behind()) == 1 + len(built.snapshot.manifest["files"])


def test_a_run_that_fails_does_not_take_the_files_of_another(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from raymlops.data import build

    write_shards, failures = build.write_shards, []

    def slowly(*arguments: Any) -> Any:
        described = write_shards(*arguments)
        if not failures:
            failures.append("")
            with monkeypatch.context() as patch:
                patch.setattr(
                    Lab, "store", property(lambda self: FullAfter(str(self.base / "storage"), "profile.json"))
                )
                with pytest.raises(StoreError) as caught:
                    lab.build(name="unlucky")
            failures[0] = str(caught.value)
        return described

    monkeypatch.setattr(build, "write_shards", slowly)
    built = lab.build()
    assert failures[0].endswith("profile.json: No space left on device")
    assert len(encoded(built.snapshot)["train"]) == 3 and built.snapshot.profile().rows == 240
    assert lab.build().reused
