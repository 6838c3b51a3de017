"""Sources to snapshots through Ray: equal content gives equal snapshots, and what is wrong is said."""

from __future__ import annotations

import ast
import re
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from data_cases import BY_HASH, config_of, trips, with_value

from raymlops.config.tree import Config
from raymlops.data.build import build_snapshot
from raymlops.data.checks import ContractViolated
from raymlops.data.snapshot import BuiltSnapshot, Snapshot
from raymlops.errors import DataError, IntegrityError
from raymlops.features.transform import Transform
from raymlops.imports import resolve, ship_by_value, user_functions
from raymlops.store import Store, StoreError

pytestmark = pytest.mark.usefixtures("ray_session")

NOW = datetime(2030, 3, 2, tzinfo=UTC)
USER_MODULE = '''
import sqlite3
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import ray.data

from raymlops.store import Store


def load(path):
    return ray.data.from_arrow(pq.read_table(path))


def connect():
    return sqlite3.connect("{base}/trips.db")


def no_server():
    raise ConnectionError("connection refused")


def a_list():
    return [1, 2]


def images(rows=60):
    labels = [str(i % 3) for i in range(rows)]
    images = [np.full((2, 3), i % 3, dtype=np.float32) for i in range(rows)]
    return ray.data.from_items([{{"id": i, "image": m, "digit": d}} for i, (m, d) in enumerate(zip(images, labels))])


def squared(values, power):
    return values**power


class FullDisk(Store):
    """Has no room for encoded shards."""

    def write(self, path, data, **options):
        full = patch("pathlib.Path.replace", side_effect=OSError(28, "No space left on device"))
        with full if "encoded/" in path else nullcontext():
            super().write(path, data, **options)
'''


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the same rows in every kind of source, and with user code."""
    directory = tmp_path_factory.mktemp("room")
    table = trips()
    pq.write_table(table, directory / "trips.parquet")
    (directory / "parts").mkdir()
    for index, (low, high) in enumerate([(400, 200), (0, 10), (10, 390)]):  # another order, other sizes
        piece = table.slice(low, high)
        narrow = piece.set_column(0, "id", piece.column("id").cast(pa.int16()))
        pq.write_table(narrow, directory / "parts" / f"part-{index}.parquet", row_group_size=100)
    (directory / "csv").mkdir()
    csv.write_csv(table.slice(300), directory / "csv" / "a.csv")
    csv.write_csv(table.slice(0, 300), directory / "csv" / "b.csv")
    (directory / "header.csv").write_text(",".join(table.column_names) + "\n")
    with sqlite3.connect(directory / "trips.db") as database:
        database.execute("create table trips (id integer, day text, distance real, carrier text, minutes real)")
        rows = [{**row, "day": row["day"].isoformat()} for row in table.to_pylist()]
        database.executemany("insert into trips values (:id, :day, :distance, :carrier, :minutes)", rows)
    _write_delta(directory / "delta", table)
    (directory / "room_code.py").write_text(USER_MODULE.format(base=directory))
    sys.path.insert(0, str(directory))
    yield directory
    sys.path.remove(str(directory))


def _write_delta(directory: Path, table: pa.Table) -> None:
    from deltalake import write_deltalake

    write_deltalake(directory, table.slice(0, 100))
    write_deltalake(directory, table.slice(100), mode="append")
    write_deltalake(directory, trips(50, seed=9), mode="append")


def build(config: Config, base: Path, storage: Path | Store, run: str = "run") -> BuiltSnapshot:
    functions = {name: resolve(path, name) for name, path in user_functions(config).items()}
    ship_by_value(base)
    store = storage if isinstance(storage, Store) else Store.at(str(storage))
    return build_snapshot(config, base, store, run, NOW, functions)


def part_files(storage: Path) -> list[str]:
    """Whatever lies in the store but contracts and quarantine."""
    files = [p.relative_to(storage).as_posix() for p in storage.rglob("*") if p.is_file()]
    return sorted(f for f in files if not f.startswith(("contracts/", "quarantine/")))


@pytest.fixture(scope="module")
def first(base: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuiltSnapshot]:
    """A store with the snapshot of the one-file source."""
    storage = tmp_path_factory.mktemp("store")
    return storage, build(config_of(), base, storage)


SOURCES: dict[str, dict[str, Any]] = {
    "parquet files": {"kind": "parquet", "path": "parts"},
    "list of files": {
        "kind": "parquet",
        "path": ["parts/part-2.parquet", "parts/part-0.parquet", "parts/part-1.parquet"],
    },
    "uri": {"kind": "parquet", "path": "file://{base}/parts"},
    "csv": {"kind": "csv", "path": "csv"},
    "delta": {"kind": "delta", "path": "delta", "version": 1},
    "sql": {"kind": "sql", "query": "select * from trips", "connection": "room_code:connect"},
    "function": {"kind": "function", "function": "room_code:load", "params": {"path": "{base}/trips.parquet"}},
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_of_the_same_rows_gives_the_same_snapshot(
    base: Path, first: tuple[Path, BuiltSnapshot], name: str
) -> None:
    storage, expected = first
    text = re.sub(r"\{base\}", str(base), repr(SOURCES[name]))
    built = build(config_of(ast.literal_eval(text)), base, storage, run=name.replace(" ", "-"))
    assert built.snapshot.hash == expected.snapshot.hash
    assert built.reused and not built.contract_inferred
    assert built.source["kind"] == SOURCES[name]["kind"]
    assert built.profile.rows == 600 and built.new_categories == {}
    assert len(list((storage / "snapshots").iterdir())) == 1
    if name == "delta":
        assert built.source["version"] == 1


def test_the_latest_delta_version_has_other_content(
    base: Path, first: tuple[Path, BuiltSnapshot], tmp_path: Path
) -> None:
    built = build(config_of({"kind": "delta", "path": "delta", "timestamp": datetime.now(UTC)}), base, tmp_path)
    assert built.source["version"] == 2 and built.profile.rows == 650
    assert built.snapshot.hash != first[1].snapshot.hash


def test_a_snapshot_holds_all_rows_once_and_vouches_for_them(first: tuple[Path, BuiltSnapshot]) -> None:
    storage, built = first
    snapshot = Snapshot.open(Store.at(str(storage)), built.snapshot.hash)
    tables = [snapshot.table(part) for part in ("train", "validation", "holdout")]
    assert snapshot.rows == dict(zip(("train", "validation", "holdout"), (t.num_rows for t in tables), strict=True))
    together = pa.concat_tables(tables).sort_by("id")
    assert together.select(trips().column_names) == trips()
    assert (
        snapshot.manifest["time_range"]["train"][1] < "2030-02-01" <= snapshot.manifest["time_range"]["validation"][0]
    )
    assert not (storage / "staging").exists() or not list((storage / "staging").iterdir())
    listed = {
        f"snapshots/{snapshot.hash}/{snapshot.manifest['directory']}/{name}" for name in snapshot.manifest["files"]
    }
    assert listed | {f"snapshots/{snapshot.hash}/manifest.json"} == set(part_files(storage))
    assert snapshot.profile().to_dict() == built.profile.to_dict()


def test_encoded_shards_are_the_transform_of_the_raw_rows(base: Path, tmp_path: Path) -> None:
    config = config_of(data_shard_rows=100)
    snapshot = build(config, base, tmp_path).snapshot
    transform = Transform(config.features, snapshot.state(), config.task, {})
    for part in ("train", "validation", "holdout"):
        shards = snapshot.shards(part)
        assert len(shards) == -(-snapshot.rows[part] // 100)
        assert sum(shard.rows for shard in shards) == snapshot.rows[part]
        arrays = [snapshot.load_shard(shard) for shard in shards]
        table = snapshot.table(part)
        expected = {**transform.batch(table), "target": transform.targets(table.column("minutes"))}
        for name, values in expected.items():
            assert np.array_equal(np.concatenate([a[name] for a in arrays]), values)
        assert snapshot.encoded_bytes(part) == sum(shard.bytes for shard in shards)


def test_the_order_of_rows_does_not_depend_on_the_layout(
    base: Path, first: tuple[Path, BuiltSnapshot], tmp_path: Path
) -> None:
    other = build(config_of({"kind": "csv", "path": "csv"}), base, tmp_path).snapshot
    files = first[1].snapshot.manifest["files"]
    assert {
        n: f["sha256"] for n, f in other.manifest["files"].items() if n.startswith(("rows/", "encoded/", "features"))
    } == {n: f["sha256"] for n, f in files.items() if n.startswith(("rows/", "encoded/", "features"))}


def test_another_configuration_of_features_is_another_snapshot(base: Path, first: tuple[Path, BuiltSnapshot]) -> None:
    storage, expected = first
    config = config_of(features={"numeric": {"distance": {"scale": "robust"}}})
    built = build(config, base, storage, run="robust")
    assert built.snapshot.hash != expected.snapshot.hash and not built.reused


def test_changed_bytes_are_refused(base: Path, tmp_path: Path) -> None:
    snapshot = build(config_of(), base, tmp_path).snapshot
    shard = snapshot.shards("train")[0]
    path = tmp_path / "snapshots" / snapshot.hash / snapshot.manifest["directory"] / shard.path
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"train-00000.safetensors: hash .* found, .* expected"):
        snapshot.load_shard(shard)


def test_arrays_and_derived_features_from_a_function(base: Path, tmp_path: Path) -> None:
    config = config_of(
        {"kind": "function", "function": "room_code:images"},
        task="multiclass",
        data_target="digit",
        data_split=BY_HASH,
        features={
            "tensor": {"image": {"shape": [2, 3]}},
            "derived": {"wide": {"function": "room_code:squared", "inputs": ["id"], "params": {"power": 2}}},
            "numeric": {"wide": {"scale": "none", "clip": None}},
        },
    )
    snapshot = build(config, base, tmp_path).snapshot
    arrays = snapshot.load_shard(snapshot.shards("train")[0])
    rows = snapshot.table("train")
    assert arrays["image"].shape == (snapshot.rows["train"], 2, 3)
    assert np.array_equal(arrays["numeric"][:, 0], rows.column("id").to_numpy().astype(np.float32) ** 2)
    assert np.array_equal(arrays["image"][:, 0, 0], arrays["target"])


def write(directory: Path, table: pa.Table, name: str = "trips.parquet") -> Path:
    directory.mkdir(exist_ok=True)
    pq.write_table(table, directory / name)
    return directory


def test_broken_promises_stop_the_run_and_are_all_named(base: Path, tmp_path: Path) -> None:
    config = config_of(data_contract={"keys": ["id"], "path": "promises.yaml"})
    data = write(tmp_path / "data", trips())
    assert build(config, data, tmp_path / "store").contract_inferred
    before = part_files(tmp_path / "store")
    bad = with_value(with_value(trips(), "distance", 5, 1e6), "id", 9, 8)
    with pytest.raises(ContractViolated) as refusal:
        build(config, write(data, bad), tmp_path / "store", run="second")
    text = str(refusal.value)
    assert refusal.value.exit_code == 3
    assert f"breaks the contract {data}/promises.yaml:" in text
    assert re.search(r'distance: max: allowed <= \d+, observed 1 of 600 rows; for example \{"id": 5, .*1000000.0', text)
    assert (
        'id: unique: allowed one row per key, observed 1 of 599 rows repeat the key of another; for example {"id": 8}'
        in text
    )
    assert {(v.column, v.check) for v in refusal.value.violations} == {("distance", "max"), ("id", "unique")}
    assert part_files(tmp_path / "store") == before


def test_offending_rows_are_moved_aside_up_to_a_limit(base: Path, tmp_path: Path) -> None:
    config = config_of(data_contract={"action": "quarantine", "max_quarantined": 0.01})
    data = write(tmp_path / "data", with_value(trips(), "minutes", 3, None))
    built = build(config, data, tmp_path / "store")  # already the first data may hold a row without label
    assert built.quarantined == 1 and built.profile.rows == 599
    bad = trips()
    for row in range(5):
        bad = with_value(bad, "distance", row, 1e6 + row)
    built = build(config, write(data, bad), tmp_path / "store", run="second")
    assert built.quarantined == 5 and built.profile.rows == 595
    assert built.quarantine_path is not None
    kept = pq.read_table(built.quarantine_path)
    assert sorted(kept.column("distance").to_pylist()) == [1e6 + row for row in range(5)]
    assert set(kept.column("_violation").to_pylist()) == {"distance: max"}
    for row in range(5, 10):
        bad = with_value(bad, "distance", row, 1e6)
    with pytest.raises(
        ContractViolated, match=r"quarantine: allowed at most 1.00% of rows moved aside .*observed 1.67% \(10 of 600\)"
    ):
        build(config, write(data, bad), tmp_path / "store", run="third")


def test_a_new_category_is_reported_and_encoded_as_unknown(base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", trips())
    build(config_of(), data, tmp_path / "store")
    late = int(np.argmax(trips().column("day").to_numpy()))  # a holdout row
    built = build(
        config_of(), write(data, with_value(trips(), "carrier", late, "ZZ")), tmp_path / "store", run="second"
    )
    assert built.new_categories == {"carrier": ["ZZ"]}
    codes = np.concatenate([built.snapshot.load_shard(s)["categorical"] for s in built.snapshot.shards("holdout")])
    assert (codes == 1).sum() == 1


def bad_tables() -> dict[str, tuple[Any, dict[str, Any], str]]:
    table = trips()
    empty_feature = table.set_column(2, "distance", pa.nulls(600, pa.float64()))
    untyped = table.set_column(2, "distance", pa.nulls(600))
    return {
        "empty": (table.slice(0, 0), {}, "data.source: 1 file.s., but no rows in any of them"),
        "feature all null": (empty_feature, {}, "features.numeric.distance: all [0-9]+ training rows are missing"),
        "feature of type null": (untyped, {}, "features.numeric.distance: all [0-9]+ training rows are missing"),
        "category all null": (
            table.set_column(3, "carrier", pa.nulls(600, pa.string())),
            {},
            "features.categorical.carrier: all [0-9]+ training rows are missing",
        ),
        "no label column": (
            table.drop_columns(["minutes"]),
            {},
            "there is no column 'minutes', the label column; found carrier, day, distance, id",
        ),
        "no feature column": (table.drop_columns(["carrier"]), {}, "no column 'carrier', which the configuration uses"),
        "label partly missing": (
            with_value(with_value(table, "minutes", 0, None), "minutes", 1, None),
            {},
            "minutes: missing: allowed no missing values, observed 2 of 600 rows; for example",
        ),
        "time partly missing": (with_value(table, "day", 0, None), {}, "day: missing: .*observed 1 of 600 rows"),
        "no holdout": (
            table,
            {
                "data_split": {
                    "by": "time",
                    "column": "day",
                    "validation_from": "2030-02-01",
                    "holdout_from": "2031-01-01",
                }
            },
            "no rows fall into holdout .*day runs from 2030-01-01T.* to 2030-03-01T.*; move the split's marks",
        ),
        "one key": (
            table.set_column(0, "id", pa.array([1] * 600)),
            {"data_split": BY_HASH},
            "data.split: no rows fall into .*there are too few keys for these shares",
        ),
        "struct": (
            table.append_column("extra", pa.array([{"a": 1}] * 600)),
            {},
            r"column 'extra': type struct<a: int64> is not supported; .* \(in .*trips.parquet\)",
        ),
        "repeated key": (
            with_value(table, "id", 1, 0),
            {"data_contract": {"keys": ["id"]}},
            "id: unique: allowed one row per key, observed 1 of 600 rows",
        ),
    }


@pytest.mark.parametrize("case", bad_tables())
def test_data_that_cannot_be_used_is_explained(base: Path, tmp_path: Path, case: str) -> None:
    table, changes, message = bad_tables()[case]
    with pytest.raises((DataError, ContractViolated), match=message):
        build(config_of(**changes), write(tmp_path / "data", table), tmp_path / "store")
    assert part_files(tmp_path / "store") == []
    assert not (tmp_path / "store" / "contracts").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "parquet", "path": "nowhere.parquet"}, "data.source.path: .*nowhere.parquet does not exist"),
        ({"kind": "parquet", "path": "csv"}, "data.source.path: no parquet files under csv"),
        ({"kind": "parquet", "path": "csv/a.csv"}, "a.csv is not a readable parquet file"),
        ({"kind": "csv", "path": "trips.parquet"}, "trips.parquet is not readable as CSV"),
        ({"kind": "csv", "path": "csv", "delimiter": ";"}, "there is no column 'minutes', the label column"),
        ({"kind": "delta", "path": "nowhere"}, "nowhere does not exist"),
        ({"kind": "delta", "path": "csv"}, "no Delta Lake table at .*csv"),
        ({"kind": "delta", "path": "delta", "version": 7}, "cannot open version 7 of .*delta"),
        (
            {"kind": "sql", "query": "select * from absent", "connection": "room_code:connect"},
            "data.source: reading failed: .*no such table: absent",
        ),
        (
            {"kind": "sql", "query": "select 1", "connection": "room_code:no_server"},
            "data.source.connection: room_code:no_server raised ConnectionError: connection refused",
        ),
        (
            {"kind": "function", "function": "room_code:a_list"},
            "room_code:a_list returned list, expected a ray.data.Dataset",
        ),
        (
            {"kind": "function", "function": "room_code:load", "params": {"path": "/nowhere"}},
            "data.source.function: room_code:load raised FileNotFoundError",
        ),
    ],
)
def test_sources_that_cannot_be_read_are_explained(
    base: Path, tmp_path: Path, source: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        build(config_of(source), base, tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_wrong_type_in_one_parquet_file_names_file_column_and_both_types(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "parts"
    for index in range(3):
        write(data, trips(20, seed=index), f"{index}.parquet")
    words = trips(20).set_column(2, "distance", pa.array(["far"] * 20))
    write(data, words, "3.parquet")
    message = rf"column 'distance' is string in {data}/3.parquet, but double in {data}/0.parquet"
    with pytest.raises(DataError, match=message):
        build(config_of({"kind": "parquet", "path": "parts"}), tmp_path, tmp_path / "store")


def test_a_wrong_value_in_one_csv_file_names_file_column_and_value(base: Path, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    for index in range(3):
        csv.write_csv(trips(200, seed=index), tmp_path / "csv" / f"{index}.csv")
    path = tmp_path / "csv" / "1.csv"
    text = path.read_text().splitlines()
    cells = text[7].split(",")
    text[7] = ",".join([cells[0], cells[1], '"unknown"', *cells[3:]])
    path.write_text("\n".join(text))
    message = r"column 'distance' is string in .*/1.csv \(such as '[\d.]+'\), but number in 2 other block"
    with pytest.raises(DataError, match=message):
        build(config_of({"kind": "csv", "path": "csv"}), tmp_path, tmp_path / "store")


def test_a_full_disk_names_the_file_and_leaves_no_half_snapshot(base: Path, tmp_path: Path) -> None:
    config = config_of({"kind": "function", "function": "room_code:load", "params": {"path": f"{base}/trips.parquet"}})
    full = resolve("room_code:FullDisk", "test")(str(tmp_path))
    with pytest.raises(
        StoreError, match=r"cannot write .*snapshots/.*/encoded/.*safetensors: No space left on device"
    ) as error:
        build(config, base, full)
    assert "\n" not in str(error.value)
    assert part_files(tmp_path) == []
    assert build(config, base, tmp_path, run="again").snapshot.rows["train"] > 0


def test_directories_named_by_value_are_columns(base: Path, tmp_path: Path) -> None:
    for name in ("UA", "AA"):
        folder = tmp_path / "parts" / f"carrier={name}"
        folder.mkdir(parents=True)
        write(folder, trips(300).drop_columns(["carrier"]))
    built = build(config_of({"kind": "parquet", "path": "parts"}), tmp_path, tmp_path / "store")
    assert set(built.snapshot.table("train").column("carrier").to_pylist()) == {"UA", "AA"}
