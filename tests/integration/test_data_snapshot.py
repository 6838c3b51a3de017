"""Snapshots: built once, reused, never overwritten; what they hold and what their name depends on."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from lab import NOW, Lab, contract_file, encoded
from snapshot_cases import config, trips, with_cell

from raymlops.data.contract import Contract
from raymlops.data.snapshot import BuiltSnapshot, Snapshot
from raymlops.data.split import PARTS
from raymlops.errors import DataError, IntegrityError
from raymlops.features.transform import Transform
from raymlops.imports import ship_by_value
from raymlops.store import StoreError

BY_HASH = {"split!": {"by": "hash", "key": "id", "validation": 0.2, "holdout": 0.2}}


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
