"""What a source holds without reading it: content counts, hashes are made once, doubtful ones again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from snapshot_cases import config

from raymlops.data import fingerprint as module
from raymlops.data.fingerprint import Fingerprint, Memory, fingerprint
from raymlops.errors import DataError
from raymlops.store import Store


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that were read, in order."""
    read: list[str] = []
    real = module._sha256

    def counting(path: str) -> str:
        read.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(module, "_sha256", counting)
    return read


def old(path: Path, text: str) -> Path:
    """A file that nobody has touched for a minute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def look(base: Path, path: Any = "rows", memory: Memory | None = None) -> Fingerprint:
    chosen = config(data={"source!": {"kind": "csv", "path": path}})
    known = memory or Memory(Store(str(base / "storage")), "runs/m/files.json")
    found = fingerprint(chosen.data, base, known)
    assert found is not None
    known.save()
    return found


def test_files_are_known_by_content_under_the_names_that_people_use(tmp_path: Path) -> None:
    old(tmp_path / "rows" / "a.csv", "1")
    old(tmp_path / "rows" / "day=2" / "b.csv", "2")
    before = look(tmp_path)
    assert list(before.parts) == ["rows/a.csv", "rows/day=2/b.csv"]
    assert before.sha256[str(tmp_path / "rows" / "a.csv")] == before.parts["rows/a.csv"]
    assert list(look(tmp_path, "rows/a.csv").parts) == ["rows/a.csv"]
    os.utime(tmp_path / "rows" / "a.csv")
    assert look(tmp_path) == before, "touched, but the same"
    old(tmp_path / "rows" / "a.csv", "3")
    changed = look(tmp_path)
    assert {n for n in before.parts if before.parts[n] != changed.parts[n]} == {"rows/a.csv"}


def test_a_file_is_hashed_once_while_it_stays_as_it_is(tmp_path: Path, hashed: list[str]) -> None:
    old(tmp_path / "rows" / "a.csv", "1")
    old(tmp_path / "rows" / "b.csv", "2")
    look(tmp_path)
    assert sorted(hashed) == ["a.csv", "b.csv"]
    look(tmp_path)
    assert len(hashed) == 2
    old(tmp_path / "rows" / "a.csv", "11")
    look(tmp_path)
    assert hashed[2:] == ["a.csv"]


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path, hashed: list[str]) -> None:
    old(tmp_path / "rows" / "a.csv", "1").write_text("2")
    look(tmp_path)
    look(tmp_path)
    assert hashed == ["a.csv", "a.csv"]


def test_a_damaged_memory_costs_time_and_nothing_else(tmp_path: Path, hashed: list[str]) -> None:
    old(tmp_path / "rows" / "a.csv", "1")
    first = look(tmp_path)
    Store(str(tmp_path / "storage")).write("runs/m/files.json", b"{half")
    assert look(tmp_path) == first and len(hashed) == 2


def test_what_cannot_be_known_without_reading_has_none_and_what_is_missing_is_named(tmp_path: Path) -> None:
    memory = Memory(Store(str(tmp_path / "storage")), "runs/m/files.json")
    source = {"kind": "sql", "query": "select 1", "connection": "db:connect"}
    assert fingerprint(config(data={"source!": source}).data, tmp_path, memory) is None
    with pytest.raises(DataError, match="does not exist"):
        look(tmp_path, "nowhere")


def test_a_delta_table_is_known_by_its_version(tmp_path: Path) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    def now(**wanted: Any) -> dict[str, str]:
        memory = Memory(Store(str(tmp_path / "storage")), "runs/m/files.json")
        chosen = config(data={"source!": {"kind": "delta", "path": "table", **wanted}})
        found = fingerprint(chosen.data, tmp_path, memory)
        assert found is not None
        return found.parts

    write_deltalake(tmp_path / "table", pa.table({"x": [1]}))
    first = now()
    write_deltalake(tmp_path / "table", pa.table({"x": [2]}), mode="append")
    assert now() != first == now(version=0)
