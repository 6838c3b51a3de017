"""The prediction log: what is appended is read once, whatever happens in between."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.config.serving import PredictionLog as LogConfig
from raymlops.errors import IntegrityError
from raymlops.serving import prediction_reader, prediction_writer
from raymlops.serving.parts import Part, Tiers, days_between, replica_token, split_covered
from raymlops.serving.prediction_log import PredictionLog
from raymlops.serving.prediction_reader import prediction_parts, read_part, read_predictions
from raymlops.serving.prediction_table import HEAD, Record, to_table, unify, values_to_array
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store, StoreError

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
ALL = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def record(number: int, at: datetime = NOON, rows: int = 1, **changes: Any) -> Record:
    inputs = {"distance": np.arange(rows) + float(number), "carrier": ["AA"] * rows}
    base = Record(
        at.timestamp(),
        f"id-{number}",
        "3",
        "champion",
        0.9,
        255,
        inputs,
        {"prediction": np.ones(rows)},
        rows,
        0.002,
        "ok",
    )
    return base._replace(**changes)


def append(log: PredictionLog, number: int, **changes: Any) -> bool:
    return log.append(*record(number, **changes), 100)


def ids(store: Store, since: datetime = ALL[0], until: datetime = ALL[1]) -> list[str]:
    return read_predictions(store, "flights", since, until).column("prediction_id").to_pylist()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def opened(store: Store, **config: Any) -> PredictionLog:
    return PredictionLog(store, "flights", "replica-1", LogConfig(**{"flush_s": 0.02, **config}))


def wait_for(condition: Any) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "did not happen within 20 s"
        time.sleep(0.005)


def test_what_is_appended_is_read(store: Store) -> None:
    log = opened(store)
    assert append(log, 1, rows=2)
    assert append(log, 2, key_hash=None, outputs=None, status="timeout")
    log.close()
    table = read_predictions(store, "flights", *ALL)
    assert table.select(HEAD.names).schema == HEAD
    same = {"time": NOON, "endpoint": "flights", "version": "3", "variant": "champion", "weight": 0.9, "latency": 0.002}
    same |= {"replica": "replica-1", "input.distance": 2.0, "input.carrier": "AA"}
    assert table.to_pylist()[1:] == [
        same
        | {"prediction_id": "id-1", "row": 1, "key_hash": "00000000000000ff", "status": "ok", "output.prediction": 1},
        same | {"prediction_id": "id-2", "row": 0, "key_hash": None, "status": "timeout", "output.prediction": None},
    ]
    assert log.statistics()["written_rows"] == 3 and log.statistics()["waiting_rows"] == 0


def test_parts_appear_while_the_log_is_open(store: Store) -> None:
    log = opened(store)
    append(log, 1)
    wait_for(lambda: ids(store) == ["id-1"])
    log.close()


def test_days_are_utc_and_the_range_is_half_open(store: Store) -> None:
    log = opened(store)
    midnight = datetime(2026, 3, 5, tzinfo=UTC)
    for number, at in enumerate([midnight - timedelta(microseconds=1), midnight, midnight + timedelta(hours=1)]):
        append(log, number, at=at)
    log.close()
    assert store.list("predictions/flights") == ["date=2026-03-04", "date=2026-03-05"]
    assert ids(store, midnight, midnight + timedelta(hours=1)) == ["id-1"]
    assert ids(store, ALL[0], midnight) == ["id-0"]
    assert len(prediction_parts(store, "flights", midnight, ALL[1])) == 1
    assert ids(store, midnight, midnight) == []
    with pytest.raises(ValueError, match="time zone"):
        read_predictions(store, "flights", datetime(2026, 1, 1), midnight)


def test_wanted_columns_come_in_order_and_unknown_ones_are_null(store: Store) -> None:
    log = opened(store)
    append(log, 1)
    log.close()
    table = read_predictions(store, "flights", *ALL, columns=["output.prediction", "prediction_id", "input.new"])
    assert table.to_pylist() == [{"output.prediction": 1.0, "prediction_id": "id-1", "input.new": None}]
    empty = read_predictions(store, "nobody", *ALL, columns=["time", "input.x"])
    assert empty.num_rows == 0 and empty.schema.field("time").type == HEAD.field("time").type
    assert read_predictions(store, "nobody", *ALL).schema == HEAD


def test_redacted_columns_are_never_written(store: Store) -> None:
    log = opened(store, redact=["carrier"])
    append(log, 1)
    log.close()
    assert "input.carrier" not in read_predictions(store, "flights", *ALL).column_names
    path = Path(store.location(prediction_parts(store, "flights", *ALL)[0]))
    assert b"carrier" not in path.read_bytes()


def test_the_sample_is_a_share_of_the_ids_and_the_same_for_every_replica(store: Store) -> None:
    one, other = opened(store, sample=0.25), opened(store, sample=0.25)
    for number in range(4000):
        assert append(one, number) and append(other, number)
    one.close()
    other.close()
    kept = one.statistics()["written_rows"]
    assert 850 < kept < 1150  # 1000 ± 5 standard deviations
    assert kept == other.statistics()["written_rows"]
    assert one.statistics()["sampled_out_rows"] == 4000 - kept


def test_overflow_is_dropped_and_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda *a, **k: gate.wait(20) and write(*a, **k))
    log = opened(store, queue_rows=10)
    kept = [append(log, number, rows=3) for number in range(5)]
    assert kept == [True, True, True, False, False]
    assert log.statistics()["dropped_rows"] == 6
    gate.set()
    wait_for(lambda: log.statistics()["waiting_rows"] == 0)
    assert append(log, 9)
    log.close()
    assert log.statistics() | {"written_rows": 10, "accepted_rows": 10, "dropped_rows": 6} == log.statistics()
    assert not append(log, 10)
    assert log.statistics()["dropped_rows"] == 7


def test_bytes_that_wait_are_bounded_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda *a, **k: gate.wait(20) and write(*a, **k))
    log = opened(store)
    kept = [log.append(*record(number), 100 * 1024 * 1024) for number in range(4)]
    assert kept == [True, True, False, False]
    assert log.append(*record(4), 1000)
    gate.set()
    wait_for(lambda: log.statistics()["waiting_rows"] == 0)
    assert log.append(*record(5), 100 * 1024 * 1024)
    log.close()
    assert log.statistics()["dropped_rows"] == 2


def test_a_store_that_comes_back_gets_every_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()
    broken.set()
    write = Store.write

    def failing(self: Store, path: str, data: bytes, sync: bool = True) -> None:
        if broken.is_set():
            raise StoreError("cannot write: No space left on device")
        write(self, path, data, sync)

    monkeypatch.setattr(Store, "write", failing)
    log = opened(store)
    append(log, 1)
    wait_for(lambda: log.statistics()["failed_writes"] >= 2)
    append(log, 2)
    assert "No space left" in log.statistics()["last_error"]
    broken.clear()
    wait_for(lambda: log.statistics()["waiting_rows"] == 0)
    log.close()
    assert sorted(ids(store)) == ["id-1", "id-2"]


def test_closing_gives_up_on_a_store_that_stays_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError("away")

    monkeypatch.setattr(Store, "write", failing)
    log = opened(store)
    append(log, 1, rows=4)
    log.close(timeout_s=0.3)
    assert log.statistics() | {"dropped_rows": 4, "written_rows": 0, "waiting_rows": 0} == log.statistics()
    log.close()


def test_a_request_that_no_table_can_be_made_of_takes_no_other_with_it(store: Store) -> None:
    log = opened(store, flush_s=30)
    append(log, 1)
    append(log, 2, inputs={"distance": [1.0, 2.0]})  # two values, one row
    append(log, 3, time=float("nan"))
    append(log, 4, inputs={"carrier": ["\ud800"], "list": [[1, {"a": 2}]], "bytes": [b"x"]})
    log.close()
    assert log.statistics() | {"written_rows": 2, "dropped_rows": 2} == log.statistics()
    table = read_predictions(store, "flights", *ALL)
    assert table.column("input.list").to_pylist() == [None, '[1, {"a": 2}]']
    assert table.column("input.carrier").to_pylist() == ["AA", "?"]


def test_many_threads_lose_nothing(store: Store) -> None:
    log = opened(store, flush_s=0.01)
    threads = [threading.Thread(target=lambda k=k: [append(log, 1000 * k + n) for n in range(500)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(ids(store)) == sorted(f"id-{1000 * k + n}" for k in range(4) for n in range(500))


# --- types


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, 2, None], pa.int64(), [1, 2, None]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([2**70, 1], pa.float64(), [float(2**70), 1.0]),
        ([True, None], pa.bool_(), [True, None]),
        ([True, 1, 1.0, "x", None, float("nan")], pa.string(), ["true", "1", "1", "x", None, None]),
        ([None, None], pa.null(), [None, None]),
        ([np.float64(1.5), np.int64(2)], pa.float64(), [1.5, 2.0]),
        ([NOON, NOON.astimezone()], pa.timestamp("us"), [NOON.replace(tzinfo=None)] * 2),
        ([NOON.date(), None], pa.timestamp("us"), [datetime(2026, 3, 4), None]),
    ],
)
def test_values_get_the_narrowest_type(values: list[Any], kind: pa.DataType, stored: list[Any]) -> None:
    array = values_to_array(values)
    assert array.type == kind
    assert array.to_pylist() == stored


def test_numpy_columns_keep_their_type() -> None:
    stamps = np.array(["2026-03-04T12:00"], "datetime64[ns]")
    wide = {"f": np.ones(1, np.float32), "i": np.ones(1, np.int8), "b": np.ones(1, bool), "t": stamps}
    schema = to_table([record(1, inputs=wide)] * 2, "flights", "r").schema
    kinds = [schema.field(f"input.{name}").type for name in wide]
    assert kinds == [pa.float64(), pa.int64(), pa.bool_(), pa.timestamp("us")]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text("ab1", max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(st.dictionaries(st.sampled_from("xyz"), SCALARS, max_size=3), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 11)),
)
def test_types_and_values_do_not_depend_on_how_requests_were_cut_into_parts(
    requests: list[dict[str, Any]], cuts: set[int]
) -> None:
    records = [record(n, inputs={k: [v] for k, v in columns.items()}) for n, columns in enumerate(requests)]
    edges = [0, *sorted(cut for cut in cuts if cut < len(records)), len(records)]
    parts = [to_table(records[a:b], "e", "r") for a, b in pairwise(edges)]
    whole = to_table(records, "e", "r")
    assert unify(parts).select(whole.column_names).equals(whole)


# --- merging


@given(st.text(max_size=30), st.integers(1, 10**8), st.integers(0, 10**8))
def test_names_of_parts_are_read_as_they_were_written(replica: str, first: int, more: int) -> None:
    part = Part(replica_token(replica), first, first + more)
    assert Part.parse(part.name) == part


def test_temporary_and_foreign_files_are_no_parts() -> None:
    assert split_covered([".part-a-000001.parquet.0f", "x.parquet", "part-a-1.parquet"]) == ([], [])


def test_replicas_do_not_cover_each_other() -> None:
    names = [Part("a", 1, 4).name, Part("b", 2, 3).name, Part("a", 2, 3).name, Part("a", 5, 5).name]
    assert split_covered(names) == ([Part("a", 1, 4).name, Part("a", 5, 5).name, Part("b", 2, 3).name], [names[2]])


def test_tiers_never_merge_across_what_they_left() -> None:
    tiers: Tiers[int] = Tiers(fan=2, most_bytes=10)
    tiers.add(1, 4)
    tiers.add(2, 4)
    assert tiers.due() == [1, 2]
    tiers.merged(2, 12, 8)
    tiers.add(3, 8)
    tiers.add(4, 8)
    assert tiers.due() == []  # 3 and 4 are too big together
    tiers.add(5, 1)
    assert tiers.rest() == []  # and 12 must not be merged with 5, which would cover 3 and 4


class Crash(BaseException):
    """Like SIGKILL: nothing after it happens."""


class CrashingStore(Store):
    """Fails for ever from the n-th effect on, before or after the effect itself."""

    def arm(self, effects: int) -> CrashingStore:
        object.__setattr__(self, "_left", effects)
        return self

    def _effect(self) -> None:
        left: int = self._left  # type: ignore[attr-defined]
        object.__setattr__(self, "_left", left - 1)
        if left <= 0:
            raise Crash

    def write(self, path: str, data: bytes, sync: bool = True) -> None:
        self._effect()
        super().write(path, data, sync)
        self._effect()

    def delete_file(self, path: str) -> None:
        self._effect()
        super().delete_file(path)
        self._effect()


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=14),
    effects=st.integers(0, 90),
    fan=st.integers(2, 4),
)
def test_every_row_is_read_once_wherever_the_writer_crashes(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, bool]], effects: int, fan: int
) -> None:
    base = tmp_path_factory.mktemp("crash")
    store = CrashingStore(str(base)).arm(effects)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction_writer, "GRACE_S", 0.0)
        patch.setattr(prediction_writer, "Tiers", lambda: Tiers(fan))
        writer = PartWriter(store, "flights", "r-1", frozenset())
        today = datetime.now(UTC)
        published: list[str] = []
        crashed_at: list[str] = []
        number = 0
        try:
            for size, late in batches:
                records = [record(number + k, today + timedelta(days=late)) for k in range(size)]
                number += size
                (_, part), *_ = writer.encode(records)[0]
                crashed_at = [r.prediction_id for r in records]
                writer.write(part)
                published += crashed_at
                crashed_at = []
                writer.housekeeping()
            writer.housekeeping(last=True)
        except Crash:
            pass
        found = ids(Store(str(base)))
        assert sorted(found) in (sorted(published), sorted(published + crashed_at))


def test_small_parts_become_few_and_old_ones_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_writer, "GRACE_S", 0.0)
    writer = PartWriter(store, "flights", "r", frozenset())
    today = datetime.now(UTC)
    for number in range(100):
        writer.write(writer.encode([record(number, today)])[0][0][1])
        writer.housekeeping()
    files = [name for day in store.list("predictions/flights") for name in store.list(f"predictions/flights/{day}")]
    assert len(files) <= 3 + 4
    assert sorted(ids(store)) == sorted(f"id-{n}" for n in range(100))
    writer.housekeeping(last=True)
    assert len(prediction_parts(store, "flights", *ALL)) == 1


def test_merged_parts_stay_for_readers_that_listed_them(store: Store) -> None:
    writer = PartWriter(store, "flights", "r", frozenset())
    listed: list[str] = []
    for number in range(32):
        writer.write(writer.encode([record(number, datetime.now(UTC))])[0][0][1])
        if number == 30:
            listed = prediction_parts(store, "flights", *ALL)
        writer.housekeeping()
    assert len(listed) == 31 and len(prediction_parts(store, "flights", *ALL)) == 1
    assert sum(read_part(store, path).num_rows for path in listed) == 31


def test_a_part_that_is_merged_away_while_reading_is_found_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = PartWriter(store, "flights", "r", frozenset())
    for number in range(2):
        writer.write(writer.encode([record(number)])[0][0][1])
    read = prediction_reader.read_part
    merged = threading.Event()

    def merging(store: Store, path: str, columns: Any = None) -> pa.Table:
        if not merged.is_set():
            merged.set()
            monkeypatch.setattr(prediction_writer, "GRACE_S", -1.0)
            writer.housekeeping(last=True)
        return read(store, path, columns)

    monkeypatch.setattr(prediction_reader, "read_part", merging)
    assert sorted(ids(store)) == ["id-0", "id-1"]


def test_what_a_crash_left_covered_is_deleted_days_later(store: Store) -> None:
    day = datetime.now(UTC) - timedelta(days=3)
    folder = f"predictions/flights/date={day:%Y-%m-%d}"
    tables = [to_table([record(number, day)], "flights", "old") for number in range(2)]
    for part, table in [
        (Part("old", 1, 1), tables[0]),
        (Part("old", 2, 2), tables[1]),
        (Part("old", 1, 2), unify(tables)),
    ]:
        store.write(f"{folder}/{part.name}", prediction_writer.encode(table))
    opened(store).close()
    assert len(store.list(folder)) == 1
    assert sorted(ids(store)) == ["id-0", "id-1"]


def test_a_damaged_part_is_named(store: Store) -> None:
    log = opened(store)
    append(log, 1)
    log.close()
    path = prediction_parts(store, "flights", *ALL)[0]
    Path(store.location(path)).write_bytes(b"PAR1 cut short")
    with pytest.raises(IntegrityError, match="000001"):
        ids(store)


def test_any_filesystem_will_do() -> None:
    store = Store("memory://prediction-log-test")
    log = opened(store)
    append(log, 1)
    log.close()
    assert ids(store) == ["id-1"]


def test_parts_are_plain_parquet(store: Store) -> None:
    log = opened(store)
    append(log, 1)
    log.close()
    assert pq.read_table(store.location("predictions/flights")).num_rows == 1


def test_days_outside_the_range_are_not_listed() -> None:
    names = ["date=2026-03-03", "date=2026-03-04", "date=2026-03-05", "notes"]
    assert days_between(names, NOON, NOON + timedelta(hours=12)) == ["date=2026-03-04"]
