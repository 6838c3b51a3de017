"""The same rows from every kind of source are the same snapshot, byte for byte."""

from __future__ import annotations

import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from lab import Lab, encoded
from snapshot_cases import replaced, trips

from raymlops.data.snapshot import Snapshot
from raymlops.errors import DataError
from raymlops.imports import ship_by_value

COLUMNS = ["id", "at", "distance", "stops", "carrier", "minutes"]


@pytest.fixture
def lab(tmp_path: Path, ray_session: None) -> Lab:
    return Lab(tmp_path)


def source(kind: str, **rest: Any) -> dict[str, Any]:
    return {"source!": {"kind": kind, **rest}, "columns": COLUMNS}


def in_pieces(table: pa.Table, pieces: int, seed: int) -> list[pa.Table]:
    """The rows in another order, cut into pieces."""
    order = np.random.default_rng(seed).permutation(table.num_rows)
    return [table.take(pa.array(part)) for part in np.array_split(order, pieces)]


Content = tuple[str, dict[str, dict[str, bytes]], dict[str, str]]


def content(snapshot: Snapshot) -> Content:
    """Hash, arrays, and hashes of the files of raw rows, arrays and state."""
    kept = ("rows/", "encoded/", "features")
    files = {name: f["sha256"] for name, f in snapshot.manifest["files"].items() if name.startswith(kept)}
    return snapshot.hash, encoded(snapshot), files


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Content:
    """The rows in one parquet file."""
    lab = Lab(tmp_path_factory.mktemp("one"))
    lab.parquet(trips())
    return content(lab.build(data={"columns": COLUMNS}).snapshot)


def test_several_parquet_files_in_another_order_and_of_other_types(lab: Lab, expected: Content) -> None:
    first, second, third = in_pieces(trips(), 3, seed=1)
    lab.parquet(first, "rows/z.parquet", rows_per_group=7)
    second = replaced(second, "carrier", second.column("carrier").dictionary_encode())
    lab.parquet(second, "rows/deep/a.parquet")
    third = replaced(third, "id", third.column("id").cast(pa.int32()))
    third = replaced(third, "at", third.column("at").cast(pa.timestamp("ns", tz="Europe/Berlin")))
    lab.parquet(third.select(third.column_names[::-1]), "rows/b.pq")
    lab.parquet(trips(10, seed=9), "rows/_temporary/c.parquet")  # hidden
    (lab.base / "rows" / "_SUCCESS").write_text("")
    snapshot = lab.build(data={"columns": COLUMNS}).snapshot
    assert content(snapshot) == expected
    assert [file["path"] for file in snapshot.manifest["source"]["files"]] == ["b.pq", "deep/a.parquet", "z.parquet"]
    listed = lab.build(data=source("parquet", path=["rows/z.parquet", "rows/b.pq", "rows/deep/a.parquet"]))
    assert listed.reused and listed.snapshot.hash == snapshot.hash


def test_whole_numbers_stored_as_floats_give_the_same_arrays(lab: Lab, expected: Content) -> None:
    lab.parquet(replaced(trips(), "stops", trips().column("stops").cast(pa.float32())))
    snapshot = lab.build(data={"columns": COLUMNS}).snapshot
    assert encoded(snapshot) == expected[1]
    assert snapshot.manifest["columns"]["stops"] == "number" and snapshot.hash != expected[0]


def test_csv(lab: Lab, expected: Content) -> None:
    (lab.base / "rows").mkdir()
    for number, piece in enumerate(in_pieces(trips(), 2, seed=2)):
        with pa.CompressedOutputStream(str(lab.base / "rows" / f"{number}.csv.gz"), "gzip") as out:
            pyarrow.csv.write_csv(piece, out)
    snapshot = lab.build(data=source("csv", path="rows")).snapshot
    assert content(snapshot) == expected


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_rows_and_store_at_uris_that_pyarrow_or_fsspec_know(lab: Lab, expected: Content, scheme: str) -> None:
    lab.storage = f"{scheme}://{lab.base}/storage"
    for number, piece in enumerate(in_pieces(trips(), 2, seed=3)):
        lab.parquet(piece, f"rows/{number}.parquet")
    rows = source("parquet", path=f"{scheme}://{lab.base}/rows")
    built = lab.build(data=rows)
    assert content(built.snapshot) == expected
    assert lab.build(data=rows).reused
    assert all(path.startswith("snapshots/") for path in lab.left_behind())


def test_delta_lake_at_an_older_version_and_time(lab: Lab, expected: Content) -> None:
    from deltalake import write_deltalake

    path = str(lab.base / "table")
    first, second = in_pieces(trips(), 2, seed=4)
    write_deltalake(path, first)
    write_deltalake(path, second, mode="append")
    when = datetime.now(UTC) + timedelta(milliseconds=20)  # the log's files have times of their own, a moment later
    while datetime.now(UTC) < when + timedelta(milliseconds=20):
        pass
    write_deltalake(path, trips(50, seed=5), mode="append")
    old = lab.build(data=source("delta", path="table", version=1))
    assert content(old.snapshot) == expected
    assert old.snapshot.manifest["source"]["version"] == 1
    assert lab.build(data=source("delta", path="table", timestamp=when.isoformat())).reused
    latest = lab.build(data=source("delta", path="table"))
    assert latest.source["version"] == 2 and sum(latest.snapshot.rows.values()) == 290


def test_sqlite_through_a_connection_factory(lab: Lab, expected: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(lab.base / "rows.db") as database:
        database.execute(
            "create table trips (id integer, at text, distance real, stops int, carrier text, minutes real)"
        )
        rows = [tuple(row.values()) for row in trips().select(COLUMNS).to_pylist()]
        shown = [(key, at.isoformat(), *rest) for key, at, *rest in rows]
        database.executemany("insert into trips values (?, ?, ?, ?, ?, ?)", shown)
    sql = {"query": "select * from trips order by minutes", "connection": "trips_database:connect"}
    user_module(
        lab,
        monkeypatch,
        "trips_database",
        f"""
        import sqlite3

        def connect():
            return sqlite3.connect({str(lab.base / "rows.db")!r})

        def no_server():
            raise ConnectionError("connection refused")
    """,
    )
    built = lab.build(data=source("sql", **sql))
    assert content(built.snapshot) == expected
    assert built.source["query"] == "select * from trips order by minutes"
    with pytest.raises(DataError, match="no such table: journeys"):
        lab.build(data=source("sql", **sql | {"query": "select * from journeys"}))
    refused = r"data\.source\.connection: trips_database:no_server raised ConnectionError: connection refused"
    with pytest.raises(DataError, match=refused):
        lab.build(data=source("sql", **sql | {"connection": "trips_database:no_server"}))


def test_a_function_of_the_user(lab: Lab, expected: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.parquet(trips())
    user_module(
        lab,
        monkeypatch,
        "trips_source",
        """
        import pyarrow.parquet as pq
        import ray.data

        def load(path, blocks):
            return ray.data.from_arrow(pq.read_table(path)).repartition(blocks)

        def empty():
            return [1, 2]

        def broken():
            raise LookupError("no such warehouse")
    """,
    )
    params = {"path": str(lab.base / "rows" / "part.parquet"), "blocks": 3}
    built = lab.build(data=source("function", function="trips_source:load", params=params))
    assert content(built.snapshot) == expected
    assert built.source["params"] == params
    with pytest.raises(DataError, match=r"trips_source:empty returned list, expected a ray\.data\.Dataset"):
        lab.build(data=source("function", function="trips_source:empty"))
    with pytest.raises(DataError, match="trips_source:broken raised LookupError: no such warehouse"):
        lab.build(data=source("function", function="trips_source:broken"))


def test_arrays_and_derived_features_from_a_function(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    user_module(
        lab,
        monkeypatch,
        "digits_source",
        """
        import numpy as np
        import ray.data

        def images(rows):
            kinds = [i % 3 for i in range(rows)]
            images = [np.full((2, 3), kind, dtype=np.float32) for kind in kinds]
            return ray.data.from_items([{"id": i, "image": images[i], "digit": str(kinds[i])} for i in range(rows)])

        def squared(values, power):
            return values**power
    """,
    )
    squared = {"function": "digits_source:squared", "inputs": ["id"], "params": {"power": 2}}
    snapshot = lab.build(
        task="multiclass",
        data={
            "source!": {"kind": "function", "function": "digits_source:images", "params": {"rows": 60}},
            "target": "digit",
            "split!": {"by": "hash", "key": "id", "validation": 0.2, "holdout": 0.2},
        },
        **{
            "features!": {
                "tensor": {"image": {"shape": [2, 3]}},
                "derived": {"wide": squared},
                "numeric": {"wide": {"scale": "none", "clip": None}},
            }
        },
    ).snapshot
    arrays, rows = snapshot.load_shard(snapshot.shards("train")[0]), snapshot.table("train")
    assert arrays["image"].shape == (snapshot.rows["train"], 2, 3)
    assert np.array_equal(arrays["numeric"][:, 0], rows.column("id").to_numpy().astype(np.float32) ** 2)
    assert np.array_equal(arrays["image"][:, 0, 0], arrays["target"])


def test_directories_named_by_value_are_columns(lab: Lab) -> None:
    for carrier in ("UA", "AA"):
        lab.parquet(trips().drop_columns(["carrier"]), f"rows/carrier={carrier}/part.parquet")
    assert set(lab.build().snapshot.table("train").column("carrier").to_pylist()) == {"UA", "AA"}


def user_module(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """A module beside the configuration, sent to workers as the job does it."""
    import importlib
    import textwrap

    (lab.base / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(lab.base))
    sys.modules.pop(name, None)
    importlib.import_module(name)
    ship_by_value(lab.base)


# --- sources that cannot be read ---


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"kind": "parquet", "path": "nowhere"}, r"data\.source\.path: .*/nowhere does not exist"),
        ({"kind": "csv", "path": ["rows", "gone.csv"]}, r"data\.source\.path: .*/gone\.csv does not exist"),
        ({"kind": "csv", "path": "rows"}, r"data\.source\.path: no csv files under rows"),
        ({"kind": "delta", "path": "nowhere"}, r"data\.source\.path: .*/nowhere does not exist"),
        ({"kind": "delta", "path": "rows"}, r"data\.source\.path: no Delta Lake table at .*/rows"),
        ({"kind": "parquet", "path": "nosuch://bucket/rows"}, r"data\.source\.path: cannot open nosuch://bucket/rows"),
        ({"kind": "parquet", "path": "junk.parquet"}, r"data\.source: .*/junk\.parquet is not a readable parquet file"),
        ({"kind": "csv", "path": "rows/part.parquet"}, r"rows/part\.parquet is not readable as CSV"),
        ({"kind": "csv", "path": "rows.csv", "delimiter": ";"}, "there is no column 'minutes', the label column"),
    ],
)
def test_what_is_not_there_is_named(lab: Lab, where: dict[str, Any], message: str) -> None:
    lab.parquet(trips(20))
    pyarrow.csv.write_csv(trips(20), lab.base / "rows.csv")
    (lab.base / "junk.parquet").write_bytes(b"PAR1 or is it?")
    with pytest.raises(DataError, match=message) as caught:
        lab.build(data={"source!": where})
    assert "\n" not in str(caught.value)
    assert lab.left_behind() == []


def test_a_version_that_never_was(lab: Lab) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(lab.base / "table"), trips(20))
    with pytest.raises(DataError, match=r"cannot open version 7 of .*/table"):
        lab.build(data=source("delta", path="table", version=7))


def test_one_parquet_file_of_many_with_another_type(lab: Lab) -> None:
    for number, piece in enumerate(in_pieces(trips(), 4, seed=6)):
        if number == 2:
            piece = replaced(piece, "distance", piece.column("distance").cast(pa.string()))
        lab.parquet(piece, f"rows/{number}.parquet")
    message = r"column 'distance' is string in .*/rows/2\.parquet, but double in .*/rows/0\.parquet"
    with pytest.raises(DataError, match=message):
        lab.build()
    assert lab.left_behind() == []


def test_one_csv_file_of_many_with_another_type(lab: Lab) -> None:
    (lab.base / "rows").mkdir()
    for number, piece in enumerate(in_pieces(trips(), 4, seed=6)):
        if number == 2:
            words = piece.column("distance").cast(pa.string()).to_pylist()
            piece = replaced(piece, "distance", ["far away", *words[1:]])
        pyarrow.csv.write_csv(piece, lab.base / "rows" / f"{number}.csv")
    message = r"column 'distance' is string in .*/rows/2\.csv \(such as 'far away'\), but number in 3 other block\(s\)"
    with pytest.raises(DataError, match=message):
        lab.build(data={"source!": {"kind": "csv", "path": "rows"}})
    assert lab.left_behind() == []


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_one_file_of_many_without_a_column(lab: Lab, kind: str) -> None:
    (lab.base / "rows").mkdir()
    for number, piece in enumerate(in_pieces(trips(), 3, seed=7)):
        kept = piece.drop_columns(["stops"]) if number == 1 else piece
        if kind == "csv":
            pyarrow.csv.write_csv(kept, lab.base / "rows" / f"{number}.csv")
        else:
            lab.parquet(kept, f"rows/{number}.parquet")
    message = rf"column 'stops' is missing in .*/rows/1\.{kind}, but present in .*/rows/[02]\.{kind}"
    with pytest.raises(DataError, match=message):
        lab.build(data={"source!": {"kind": kind, "path": "rows"}})


def test_a_csv_file_whose_lines_do_not_match(lab: Lab) -> None:
    (lab.base / "rows").mkdir()
    (lab.base / "rows" / "ragged.csv").write_text("id,at\n1,2024-01-01\n2\n")
    with pytest.raises(DataError, match=r"rows/ragged\.csv is not readable as CSV: .*Expected 2 columns, got 1"):
        lab.build(data={"source!": {"kind": "csv", "path": "rows"}})


@pytest.mark.parametrize("kind", ["parquet", "csv", "function"])
def test_no_rows(lab: Lab, kind: str) -> None:
    empty = trips(0)
    (lab.base / "rows").mkdir()
    lab.parquet(empty)
    pyarrow.csv.write_csv(empty, lab.base / "rows" / "part.csv")
    where: dict[str, Any] = {"kind": kind, "path": "rows"}
    if kind == "function":
        where = {"kind": "function", "function": "lab:nothing"}
    with pytest.raises(DataError, match=r"data\.source: (there are no rows|1 file\(s\), but no rows in any of them)"):
        lab.build(data={"source!": where}, functions={"data.source.function": nothing})
    assert lab.left_behind() == []


def nothing() -> Any:
    import ray.data

    return ray.data.from_arrow(trips(0))
