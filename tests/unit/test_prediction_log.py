"""The prediction log: what is appended is read, and what does not fit is counted."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prediction_cases import ALL, NOON, append, ids, opened, record

from raymlops.serving.prediction_reader import prediction_parts, read_predictions
from raymlops.serving.prediction_table import HEAD
from raymlops.store import Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


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
    table = read_predictions(store, "flights", *ALL).sort_by("prediction_id")
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
