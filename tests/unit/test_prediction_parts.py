"""Parts of the prediction log: merged, read and removed, wherever the writer crashes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import ALL, NOON, append, ids, opened, record

from raymlops.errors import IntegrityError
from raymlops.serving import prediction_reader, prediction_writer
from raymlops.serving.parts import Part, Tiers, days_between, replica_token, split_covered
from raymlops.serving.prediction_reader import prediction_parts, read_part
from raymlops.serving.prediction_table import to_table, unify
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


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
