"""Snapshots: built once, reused, never overwritten, whole or not at all; contracts stop or move rows aside."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lab import NOW, Lab, encoded
from snapshot_cases import config, replaced, trips

from raymlops.data.checks import ContractViolated
from raymlops.data.contract import Contract
from raymlops.data.snapshot import BuiltSnapshot, Snapshot
from raymlops.data.split import PARTS
from raymlops.errors import DataError, IntegrityError
from raymlops.features.state import MISSING, UNKNOWN
from raymlops.features.transform import Transform
from raymlops.imports import ship_by_value
from raymlops.store import Store, StoreError

BY_HASH = {"split!": {"by": "hash", "key": "id", "validation": 0.2, "holdout": 0.2}}


@pytest.fixture
def lab(tmp_path: Path, ray_session: None) -> Lab:
    lab = Lab(tmp_path)
    lab.parquet(trips())
    return lab


def contract_file(lab: Lab) -> Path:
    return lab.base / "storage" / "contracts" / "trips.yaml"


def with_cell(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = table.column(name).to_pylist()
    values[row] = value
    return replaced(table, name, values, table.schema.field(name).type)


def refused(lab: Lab, error: type[Exception] = DataError, **changes: Any) -> str:
    """The whole message of a build that fails, after a look that nothing is left of it."""
    before = lab.left_behind()
    with pytest.raises(error) as caught:
        lab.build(**changes)
    assert lab.left_behind() == before
    message = str(caught.value)
    assert "Traceback" not in message and "ray::" not in message and "DataContext" not in message
    return message


# --- what a snapshot holds ---


def test_a_snapshot_holds_every_row_once_encoded_by_state_fitted_on_training_rows(lab: Lab) -> None:
    built = lab.build()
    snapshot, table = built.snapshot, trips()
    assert snapshot.rows == {"train": 144, "validation": 48, "holdout": 48}
    assert (built.reused, built.contract_inferred, built.excluded, built.quarantined) == (False, True, 0, 0)
    ids = [row for part in PARTS for row in snapshot.table(part).column("id").to_pylist()]
    assert sorted(ids) == table.column("id").to_pylist()
    cuts = [np.datetime64("2024-01-04"), np.datetime64("2024-01-05")]
    times = {part: snapshot.table(part).column("at").to_numpy() for part in PARTS}
    assert times["train"].max() < cuts[0] <= times["validation"].min()
    assert times["validation"].max() < cuts[1] <= times["holdout"].min()
    known = [d for d in table.column("distance").to_pylist()[:144] if d is not None]
    assert snapshot.state().numeric["distance"].center == pytest.approx(np.mean(known), rel=1e-12)
    transform = Transform(config().features, snapshot.state(), "regression", {})
    for part in PARTS:
        arrays = [snapshot.load_shard(shard) for shard in snapshot.shards(part)]
        raw = snapshot.table(part)
        for name, expected in transform.batch(raw.to_pylist()).items():
            assert np.concatenate([a[name] for a in arrays]).tobytes() == expected.tobytes()
        targets = np.concatenate([a["target"] for a in arrays])
        assert transform.unscale(targets) == pytest.approx(raw.column("minutes").to_numpy(), rel=1e-4, abs=1e-2)
    manifest = snapshot.manifest
    assert manifest["time_range"]["train"][0].startswith("2024-01-01") and manifest["created"] == NOW.isoformat()
    assert {f"run0/{name}" for name in manifest["files"]} | {"manifest.json"} == {
        path.removeprefix(f"snapshots/{snapshot.hash}/") for path in lab.left_behind()
    }
    assert not list((lab.base / "storage").glob("staging/*"))
    assert snapshot.profile().columns["distance"].nulls == table.column("distance").null_count
    assert Contract.from_yaml(contract_file(lab).read_text(), "c") == built.contract


def test_a_second_build_reuses_and_never_writes(lab: Lab) -> None:
    first = lab.build()
    root = lab.base / "storage"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    second = lab.build(now=NOW + timedelta(hours=1))
    assert second.reused and not second.contract_inferred
    assert second.snapshot.hash == first.snapshot.hash and second.snapshot.manifest == first.snapshot.manifest
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_the_hash_is_that_of_content_and_feature_configuration(lab: Lab) -> None:
    first = lab.build().snapshot
    other_name = lab.build(name="journeys", seed=9)
    assert other_name.reused and other_name.snapshot.hash == first.hash
    hashes = [first.hash]
    contract_file(lab).unlink()  # it asks for the columns that are left out below
    for changes in (
        {"data": {"columns": ["at", "distance", "stops", "carrier", "minutes"]}},
        {"features": {"numeric": {"distance": {"scale": "robust"}}}},
        {"features": {"categorical": {"carrier": {"min_count": 2}}}},
        {"data": {"split": {"holdout_from": "2024-01-04T12:00:00"}}},
        {"data": BY_HASH},
        {"data": {"shard_rows": 50}},
    ):
        hashes.append(lab.build(**changes).snapshot.hash)
    lab.parquet(with_cell(trips(), "late", 7, not trips().column("late")[7].as_py()))
    hashes.append(lab.build().snapshot.hash)
    assert len(set(hashes)) == len(hashes)


def test_shards_together_are_what_one_shard_would_be(lab: Lab) -> None:
    whole = lab.build().snapshot
    sharded = lab.build(data={"shard_rows": 20}).snapshot
    assert {part: len(sharded.shards(part)) for part in PARTS} == {"train": 8, "validation": 3, "holdout": 3}
    assert {part: len(whole.shards(part)) for part in PARTS} == {"train": 1, "validation": 1, "holdout": 1}
    assert encoded(sharded) == encoded(whole)
    assert all(sharded.table(part).equals(whole.table(part)) for part in PARTS)
    for part in PARTS:
        assert sum(shard.rows for shard in sharded.shards(part)) == sharded.rows[part]
        assert sum(shard.bytes for shard in sharded.shards(part)) == sharded.encoded_bytes(part)
    tiny = lab.build(data={"shard_rows": 1, **BY_HASH}, features={"numeric": {"distance": {}}})  # some shards are empty
    assert sum(shard.rows for part in PARTS for shard in tiny.snapshot.shards(part)) == 240


def test_changed_bytes_are_refused(lab: Lab) -> None:
    snapshot = lab.build().snapshot
    (shard,) = snapshot.shards("train")
    path = lab.base / "storage" / "snapshots" / snapshot.hash / "run0" / shard.path
    spoiled = bytearray(path.read_bytes())
    spoiled[-1] ^= 1
    path.write_bytes(spoiled)
    with pytest.raises(IntegrityError, match=rf"{path}: hash \w{{12}} found, \w{{12}} expected"):
        snapshot.load_shard(shard)
    path.unlink()
    with pytest.raises(StoreError, match=f"cannot read {path}: No such file or directory"):
        snapshot.load_shard(shard)
    with pytest.raises(StoreError, match=r"cannot read .*manifest\.json"):
        Snapshot.open(lab.store, "0" * 64)


def test_rows_outside_the_window_are_left_out_and_counted(lab: Lab) -> None:
    built = lab.build(data={"split": {"start": "2024-01-02", "end": "2024-01-05T12:00:00"}})
    assert built.excluded == 48 + 24 and built.snapshot.manifest["excluded"] == 72
    assert built.snapshot.rows == {"train": 96, "validation": 48, "holdout": 24}


# --- derived features ---

DERIVED = """
    import numpy as np

    SCALE = 2.0


    def double(distance, plus=0.0):
        return distance * SCALE + plus


    def unrelated():
        return 1
"""


def derived(lab: Lab, text: str, monkeypatch: pytest.MonkeyPatch, **params: Any) -> BuiltSnapshot:
    import textwrap

    (lab.base / "trip_features.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(lab.base))
    sys.modules.pop("trip_features", None)
    importlib.invalidate_caches()
    importlib.import_module("trip_features")
    ship_by_value(lab.base)
    double = {"function": "trip_features:double", "inputs": ["distance"], "params": params}
    return lab.build(features={"numeric": {"double": {}}, "derived": {"double": double}})


def test_code_counts_and_its_layout_does_not(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first = derived(lab, DERIVED, monkeypatch)
    assert first.snapshot.state().numeric["double"].center == 2 * first.snapshot.state().numeric["distance"].center
    commented = DERIVED.replace("return distance", "# miles\n\n        return distance").replace(
        "SCALE = 2.0", "SCALE=2.0"
    )
    again = derived(lab, commented, monkeypatch)
    assert again.reused and again.snapshot.hash == first.snapshot.hash
    assert derived(lab, DERIVED.replace("return 1", "return 2"), monkeypatch).reused
    others = [
        derived(lab, DERIVED.replace("SCALE + plus", "SCALE - plus"), monkeypatch),
        derived(lab, DERIVED.replace("SCALE = 2.0", "SCALE = 3.0"), monkeypatch),
        derived(lab, DERIVED, monkeypatch, plus=1.0),
    ]
    assert len({built.snapshot.hash for built in [first, *others]}) == 4


def test_a_derived_function_that_fails_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = DERIVED.replace("return distance * SCALE + plus", "raise ArithmeticError('too far')")
    with pytest.raises(DataError) as caught:
        derived(lab, broken, monkeypatch)
    assert str(caught.value).startswith(
        "data.source: features.derived.double: trip_features:double raised ArithmeticError: too far"
    )
    with pytest.raises(DataError, match=r"trip_features:double returned shape \(1,\), expected \(\d+,\)"):
        derived(lab, DERIVED.replace("distance * SCALE + plus", "distance[:1]"), monkeypatch)
    assert lab.left_behind() == []


# --- data that cannot be used ---


def test_a_missing_label_column_is_named(lab: Lab) -> None:
    lab.parquet(trips().drop_columns(["minutes"]))
    assert refused(lab) == (
        "data: there is no column 'minutes', the label column; found at, carrier, distance, id, late, stops"
    )


def test_a_missing_feature_column_is_named(lab: Lab) -> None:
    lab.parquet(trips().drop_columns(["carrier"]))
    assert "data: there is no column 'carrier', which the configuration uses; found at, distance" in refused(lab)


def test_rows_without_a_label_stop_the_run(lab: Lab) -> None:
    lab.parquet(with_cell(with_cell(trips(), "minutes", 5, None), "minutes", 9, float("nan")))
    message = refused(lab, ContractViolated)
    assert "minutes: missing: allowed no missing values, observed 2 of 240 rows; for example {" in message
    assert not contract_file(lab).exists()


def test_a_column_without_values(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "distance", [None] * 240, pa.float64()))
    assert refused(lab) == "features.numeric.distance: all 144 training rows are missing (or infinite)"
    lab.parquet(replaced(trips(), "carrier", pa.nulls(240)))
    assert refused(lab) == "features.categorical.carrier: all 144 training rows are missing"
    lab.parquet(replaced(trips(), "distance", [float("nan")] * 240))
    assert "all 144 training rows are missing (or infinite)" in refused(lab)
    unused = trips().append_column("note", pa.nulls(240))
    lab.parquet(unused)
    assert lab.build().snapshot.manifest["columns"]["note"] == "null"


def test_one_file_of_many_without_values_is_fine(lab: Lab) -> None:
    half = trips().slice(0, 60)
    lab.parquet(replaced(half, "carrier", pa.nulls(60)), "rows/part.parquet")
    lab.parquet(replaced(trips().slice(60, 60), "carrier", pa.nulls(60, pa.string())), "rows/a.parquet")
    lab.parquet(trips().slice(120), "rows/b.parquet")
    snapshot = lab.build().snapshot
    assert snapshot.manifest["columns"]["carrier"] == "string"
    assert snapshot.table("train").column("carrier").type == pa.string()


def test_text_in_a_numeric_column(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "distance", ["far"] * 240))
    assert refused(lab).startswith(
        "data.source: features.numeric.distance: column 'distance' is string (such as 'far'), expected numbers"
    )


def test_times_that_are_none(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "at", ["soon"] * 240))
    assert refused(lab).startswith("data.source: column 'at', row 0: found 'soon', expected a time (ISO 8601)")


def test_an_empty_part_of_the_split(lab: Lab) -> None:
    message = refused(lab, data={"split": {"validation_from": "2025-01-01", "holdout_from": "2025-02-01"}})
    assert message == (
        "data.split: no rows fall into validation and holdout (240 train, 0 validation, 0 holdout, 0 outside start "
        "and end); at runs from 2024-01-01T00:00:00.000000 to 2024-01-05T23:30:00.000000; move the split's marks"
    )


def test_one_key_for_all_rows(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "id", [1] * 240))
    message = refused(lab, data=BY_HASH)
    assert message.startswith("data.split: no rows fall into ") and "there are too few keys for these shares" in message


def test_rows_without_a_time(lab: Lab) -> None:
    lab.parquet(with_cell(trips(), "at", 0, None))
    assert "at: missing: allowed no missing values, observed 1 of 240 rows" in refused(lab, ContractViolated)


def test_a_column_of_a_type_that_is_not_supported(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "extra", [{"a": 1}] * 240, pa.struct({"a": pa.int64()})))
    message = refused(lab)
    assert "column 'extra': type struct<a: int64> is not supported; " in message and "part.parquet)" in message


def test_labels_of_a_class_never_seen_in_training(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "minutes", ["short"] * 80 + ["long"] * 159 + ["endless"]))
    message = refused(lab, task="binary")
    assert message.startswith("holdout rows: label, row ") and message.endswith(
        "found 'endless', training saw only long, short"
    )


def test_binary_with_three_classes(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "minutes", ["a", "b", "c"] * 80))
    assert refused(lab, task="binary") == ("label: task binary needs 2 classes, training rows have 3: ['a', 'b', 'c']")


# --- contracts ---


def edit(lab: Lab, *replacements: tuple[str, str]) -> None:
    text = contract_file(lab).read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    contract_file(lab).write_text(text)


def test_a_broken_contract_stops_with_everything_one_needs_to_know(lab: Lab) -> None:
    lab.build(data={"contract": {"keys": ["id"]}})
    later = with_cell(trips(), "stops", 3, 40)
    later = with_cell(with_cell(later, "stops", 200, -7), "minutes", 11, None)
    later = replaced(later, "carrier", [None] * 100 + later.column("carrier").to_pylist()[100:], pa.string())
    lab.parquet(later)
    with pytest.raises(ContractViolated) as caught:
        lab.build(data={"contract": {"keys": ["id"]}})
    assert caught.value.exit_code == 3
    found = {(v.column, v.check): v for v in caught.value.violations}
    assert set(found) == {("stops", "max"), ("stops", "min"), ("minutes", "missing"), ("carrier", "null fraction")}
    most = found["stops", "max"]
    assert (most.threshold, most.observed) == ("<= 4.5", "1 of 240 rows")
    assert [(e["id"], e["stops"]) for e in most.examples] == [(1003, 40)]
    assert str(contract_file(lab)) in str(caught.value)
    assert "stops: max: allowed <= 4.5, observed 1 of 240 rows; for example {" in str(caught.value)
    assert "carrier: null fraction: allowed <= " in str(caught.value)


def test_a_changed_schema_stops(lab: Lab) -> None:
    lab.build()
    lab.parquet(replaced(trips(), "stops", ["one"] * 240).drop_columns(["late"]))
    message = refused(lab, ContractViolated)
    assert "late: schema: allowed a column of kind boolean, observed no such column" in message
    assert "stops: schema: allowed kind integer, observed kind string" in message


def test_closed_categories_stop_and_open_ones_are_reported(lab: Lab) -> None:
    lab.build()
    later = with_cell(trips(), "carrier", 239, "ZZ")
    lab.parquet(later)
    built = lab.build()
    assert built.new_categories == {"carrier": ["ZZ"]}
    transform = Transform(config().features, built.snapshot.state(), "regression", {})
    holdout = built.snapshot.table("holdout")
    codes = transform.batch(holdout)["categorical"][:, 0]
    assert [codes[i] for i, c in enumerate(holdout.column("carrier").to_pylist()) if c == "ZZ"] == [UNKNOWN]
    assert {int(codes[i]) for i, c in enumerate(holdout.column("carrier").to_pylist()) if c is None} <= {MISSING}
    edit(lab, ("categories: [AA, B6, UA, Ünïted]", "categories: [AA, B6, UA, Ünïted], closed: true"))
    message = refused(lab, ContractViolated)
    assert "carrier: category: allowed one of AA, B6, UA, Ünïted, observed 1 of 240 rows" in message
    assert '"carrier": "ZZ"' in message


def test_repeated_keys(lab: Lab) -> None:
    keys = {"data": {"contract": {"keys": ["id"]}}}
    later = with_cell(with_cell(trips(), "id", 100, 1007), "id", 201, 1007)
    lab.parquet(later.slice(0, 120))
    lab.parquet(later.slice(120), "rows/other.parquet")
    first = refused(lab, ContractViolated, **keys)
    assert "id: unique: allowed one row per key, observed 2 of 240 rows repeat the key of another" in first
    assert '{"id": 1007}' in first and not contract_file(lab).exists()


def test_volume_and_freshness(lab: Lab) -> None:
    lab.build(data={"contract": {"max_age": "P1D"}})
    message = refused(lab, ContractViolated, now=NOW + timedelta(days=7))
    assert "at: freshness: allowed newest row at most 1 day, 0:00:00 old, observed 7 days, 12:30:00 old" in message
    every_third = trips().take(pa.array(range(0, 240, 3)))
    lab.parquet(every_third)
    assert "(rows): volume: allowed >= 120 rows, observed 80 rows" in refused(lab, ContractViolated)


def test_a_broken_contract_file_is_a_configuration_error(lab: Lab) -> None:
    from raymlops.errors import ConfigError

    lab.build()
    edit(lab, ("min_rows", "min_row"))
    assert refused(lab, ConfigError) == f"{contract_file(lab)}: min_row: unknown key; did you mean 'min_rows'?"


def test_a_contract_beside_the_configuration(lab: Lab) -> None:
    place = {"data": {"contract": {"path": "checks/trips.yaml"}}}
    lab.build(**place)
    path = lab.base / "checks" / "trips.yaml"
    path.write_text(path.read_text().replace("max: 4.5", "max: 2"))
    assert f"the data breaks the contract {path}:\n  stops: max: allowed <= 2" in refused(
        lab, ContractViolated, **place
    )


QUARANTINE = {"contract": {"action": "quarantine", "max_quarantined": 0.05, "keys": ["id"]}}


def test_offending_rows_are_moved_aside_counted_and_kept(lab: Lab) -> None:
    lab.parquet(with_cell(trips(), "minutes", 5, None))
    assert lab.build(data=QUARANTINE).quarantined == 1  # already of the rows that the contract is inferred from
    later = with_cell(with_cell(trips(), "stops", 3, 40), "minutes", 3, None)
    later = with_cell(with_cell(later, "minutes", 200, 1e9), "at", 10, None)
    lab.parquet(later.slice(0, 100))
    lab.parquet(later.slice(100), "rows/other.parquet")
    built = lab.build(data=QUARANTINE)
    assert built.quarantined == 3 and built.snapshot.manifest["quarantined"] == 3
    assert sum(built.snapshot.rows.values()) == 237
    aside = pq.read_table(str(built.quarantine_path)).sort_by("id").to_pylist()
    assert {row["id"]: row["_violation"] for row in aside} == {
        1003: "minutes: missing; stops: max",
        1010: "at: missing",
        1200: "minutes: max",
    }
    assert aside[0]["stops"] == 40
    kept = {row for part in PARTS for row in built.snapshot.table(part).column("id").to_pylist()}
    assert kept == set(range(1000, 1240)) - {1003, 1010, 1200}
    lab.parquet(trips().filter(pa.array([i not in (3, 10, 200) for i in range(240)])))
    (lab.base / "rows" / "other.parquet").unlink()
    assert lab.build(data=QUARANTINE).reused  # the same content as without the rows


def test_too_many_offending_rows_stop_the_run(lab: Lab) -> None:
    lab.build(data=QUARANTINE)
    lab.parquet(replaced(trips(), "stops", [40] * 13 + trips().column("stops").to_pylist()[13:], pa.int64()))
    message = refused(lab, ContractViolated, data=QUARANTINE)
    assert "stops: max: allowed <= 4.5, observed 13 of 240 rows; for example {" in message
    assert "(rows): quarantine: allowed at most 5.00% of rows moved aside" in message and "5.42% (13 of 240)" in message
    folder = message.rpartition("the rows moved aside are in ")[2]
    assert pq.read_table(folder).num_rows == 13


# --- disks ---


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
