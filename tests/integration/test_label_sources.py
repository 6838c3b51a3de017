"""Labels from tables, joined by Ray Data, into rows that a snapshot is made of."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from label_cases import FAR, START, Endpoint, answer, by_prediction, config_of, minute

from raymlops.data.build import build_snapshot
from raymlops.errors import DataError
from raymlops.monitoring import label_join
from raymlops.monitoring.label_join import JoinReport, join_labels
from raymlops.monitoring.labelled import labelled_path, read_labelled
from raymlops.rollout.evidence import unit_hash

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Four parts on two days, small enough bounds that every step goes through Ray."""
    monkeypatch.setattr(label_join, "MOST_PARTS_HERE", 1)
    monkeypatch.setattr(label_join, "PARTS_PER_TASK", 2)
    monkeypatch.setattr(label_join, "ROWS_PER_FILE", 3)
    made = Endpoint(tmp_path / "store")
    for part in range(4):
        at = START + timedelta(hours=6 * part)
        made.predicted(
            [
                answer(at, f"p{part}", key=unit_hash("fares", f"user {part}"), distance=part, rows=2),
                answer(at + timedelta(minutes=1), f"q{part}", zone=f"z{part}", distance=10.5),
            ]
        )
    return made


def join(endpoint: Endpoint, *sources: dict[str, Any], days: float = 2.0) -> JoinReport:
    config = config_of(labels={"sources": list(sources)})
    base = Path(endpoint.store.uri).parent
    return join_labels(config, endpoint.store, now=START + timedelta(days=days), base=base)


def labels(endpoint: Endpoint) -> dict[tuple[str, int], float]:
    table = read_labelled(endpoint.store, "fares", *FAR)
    return {unit: value for unit, (value,) in by_prediction(table, "fare").items()}


def test_tables_of_every_kind_are_joined_once(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(endpoint.store.uri).parent
    (base / "out").mkdir()
    ids = pa.table({"id": ["p0", "p0", "p1", "p2"], "n": [0, 1, 1, 0], "fare": [1.0, 2.0, 3.0, None]})
    pq.write_table(ids, base / "out" / "1.parquet")
    times = [minute(1), START + timedelta(hours=7), START + timedelta(hours=19), START - timedelta(hours=1)]
    (base / "zones.csv").write_text(
        "zone,far,when,cost\n" + "".join(f"z{n},10.5,{t.isoformat()},{n + 20}\n" for n, t in enumerate(times))
    )
    keys = pa.table({"user": ["user 2", "user 3"], "at": [START + timedelta(days=1)] * 2, "fare": [32, 33]})
    write_deltalake(str(base / "keys"), keys)
    with sqlite3.connect(base / "outcomes.db") as database:
        database.execute("CREATE TABLE outcomes (id TEXT, fare REAL, added TEXT)")
        database.execute("INSERT INTO outcomes VALUES ('q3', 40, '2026-03-01 20:00:00'), ('p0', 1, '2026-03-01 21:00')")
    connect = f"import sqlite3\n\n\ndef connect():\n    return sqlite3.connect({str(base / 'outcomes.db')!r})\n"
    (base / "outcomes_of_fares.py").write_text(connect)
    monkeypatch.syspath_prepend(str(base))
    sources: list[dict[str, Any]] = [
        {"source": {"kind": "parquet", "path": "out"}, "prediction_id": "id", "row": "n"},
        {
            "source": {"kind": "csv", "path": "zones.csv"},
            "entity": {"zone": "zone", "distance": "far"},
            "time": "when",
            "label": "cost",
        },
        {"source": {"kind": "delta", "path": "keys"}, "key": "user", "time": "at"},
        {
            "source": {"kind": "sql", "query": "SELECT * FROM outcomes", "connection": "outcomes_of_fares:connect"},
            "prediction_id": "id",
            "received": "added",
        },
    ]
    first = join(endpoint, *sources)
    expected = {("p0", 0): 1.0, ("p0", 1): 2.0, ("p1", 1): 3.0, ("q0", 0): 20.0, ("q1", 0): 21.0}
    expected |= {("p2", 0): 32.0, ("p3", 0): 33.0, ("q2", 0): 22.0, ("q3", 0): 40.0}
    assert labels(endpoint) == expected
    assert (first.joined, first.duplicates, first.conflicts) == (9, 1, 0)

    again = join(endpoint, *sources, days=3.0)
    assert (again.joined, again.duplicates, again.labels - again.waiting - again.orphans) == (0, 0, 0)

    pq.write_table(pa.table({"id": ["p1", "p0"], "n": [0, 0], "fare": [5.0, 9.0]}), base / "out" / "2.parquet")
    write_deltalake(str(base / "keys"), keys.slice(0, 1).set_column(2, "fare", pa.array([7])), mode="append")
    later = join(endpoint, *sources, days=4.0)
    assert (later.joined, later.conflicts) == (1, 2)
    assert labels(endpoint) == expected | {("p1", 0): 5.0}


def test_a_source_without_rows_has_no_labels_yet(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(endpoint.store.uri).parent
    (base / "empty.csv").write_text("id,fare\n")
    with sqlite3.connect(base / "none.db") as database:
        database.execute("CREATE TABLE outcomes (id TEXT, fare REAL)")
    connect = f"import sqlite3\n\n\ndef connect():\n    return sqlite3.connect({str(base / 'none.db')!r})\n"
    (base / "no_outcomes.py").write_text(connect)
    monkeypatch.syspath_prepend(str(base))
    sql = {"kind": "sql", "query": "SELECT * FROM outcomes", "connection": "no_outcomes:connect"}
    for source in ({"kind": "csv", "path": "empty.csv"}, sql):
        assert join(endpoint, {"source": source, "prediction_id": "id"}).labels == 0


BY_DAY = {"source": {"kind": "csv", "path": "out"}, "prediction_id": "id", "received": "day"}


def exported(endpoint: Endpoint, name: str, *lines: str) -> None:
    path = Path(endpoint.store.uri).parent / "out" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("id,fare,day\n" + "".join(f"{line}\n" for line in lines))


def test_a_time_ahead_hides_nothing_and_waits(endpoint: Endpoint) -> None:
    typing_error, hasty = "q0,2,2062-03-02", "q1,5,2026-03-03T15:00:00"
    exported(endpoint, "1", "p0,1,2026-03-02", typing_error)
    first = join(endpoint, BY_DAY)
    exported(endpoint, "1", "p0,1,2026-03-02", typing_error, "p1,3,2026-03-03", hasty, "p2,dear,2026-03-03")
    second = join(endpoint, BY_DAY, days=2.1)
    assert labels(endpoint) == {("p0", 0): 1.0, ("p1", 0): 3.0}
    assert [(r.joined, r.waiting, r.unreadable, r.late) for r in (first, second)] == [(1, 1, 0, 0), (1, 2, 1, 0)]
    third = join(endpoint, BY_DAY, days=2.2)
    assert (third.joined, third.waiting) == (1, 1), "its time has come, without another look at the file"
    exported(endpoint, "1", "q0,2,2026-03-03T18:00:00", hasty)
    last = join(endpoint, BY_DAY, days=2.3)
    assert (last.joined, last.duplicates, last.unreadable) == (1, 0, 0)
    assert labels(endpoint)["q0", 0] == 2.0, "the error was corrected"


def test_what_comes_with_the_newest_time_is_not_lost(endpoint: Endpoint) -> None:
    exported(endpoint, "1", "p0,1,2026-03-02")
    first = join(endpoint, BY_DAY)
    nothing_new = join(endpoint, BY_DAY, days=2.05)
    exported(endpoint, "1", "p0,1,2026-03-02", "p1,3,2026-03-02", "nobody,3,2026-03-02", "p2,4,2026-03-01")
    second = join(endpoint, BY_DAY, days=2.1)
    assert [report.joined for report in (first, nothing_new, second)] == [1, 0, 1]
    assert (second.duplicates, second.conflicts) == (0, 0)
    assert labels(endpoint) == {("p0", 0): 1.0, ("p1", 0): 3.0}, "earlier times were seen, whatever was read since"


def test_a_file_that_nobody_has_read_is_read_whole(endpoint: Endpoint) -> None:
    exported(endpoint, "1", "p0,1,2026-03-02")
    assert join(endpoint, BY_DAY).joined == 1
    exported(endpoint, "1", "p0,1,2026-03-02", "q0,9,2026-03-01")
    exported(endpoint, "late", "p2,4,2026-03-01")
    assert join(endpoint, BY_DAY, days=2.1).joined == 1
    assert labels(endpoint) == {("p0", 0): 1.0, ("p2", 0): 4.0}, "even when another one has changed as well"


def test_the_labelled_rows_become_a_snapshot(endpoint: Endpoint) -> None:
    table = pa.table({"id": [f"{kind}{n}" for n in range(4) for kind in "pq"], "fare": [float(n) for n in range(8)]})
    pq.write_table(table, Path(endpoint.store.uri).parent / "out.parquet")
    report = join(endpoint, {"source": {"kind": "parquet", "path": "out.parquet"}, "prediction_id": "id"})
    assert report.joined == 8
    data = config_of().data.model_dump(mode="json")
    split = {
        "by": "time",
        "column": "when",
        "validation_from": "2026-03-01T15:00:00",
        "holdout_from": "2026-03-02T00:00:00",
    }
    path = endpoint.store.location(labelled_path("fares"))
    config = config_of(data={**data, "source": {"kind": "parquet", "path": path}, "split": split})
    built = build_snapshot(config, Path(path), endpoint.store, "run", START + timedelta(days=2), {})
    assert {part: rows for part, rows in built.snapshot.manifest["rows"].items() if rows} == {
        "train": 2,
        "validation": 2,
        "holdout": 4,
    }


def test_a_source_that_cannot_be_read_is_named(endpoint: Endpoint) -> None:
    base = Path(endpoint.store.uri).parent
    source = {"source": {"kind": "parquet", "path": "none"}, "prediction_id": "id"}
    with pytest.raises(DataError, match=r"labels\.sources\[0\]\.source\.path: .*none does not exist"):
        join(endpoint, source)
    pq.write_table(pa.table({"id": ["p0"], "cost": [1.0]}), base / "none")
    with pytest.raises(DataError, match=r"labels\.sources\[0\]: column 'fare' is missing; the source has id"):
        join(endpoint, source)
