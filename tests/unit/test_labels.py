"""Labels: durable before they are acknowledged, the same however often and in whatever company they are sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import IntegrityError
from raymlops.serving import label_files, labels
from raymlops.serving.label_files import LabelRow, LabelWriter
from raymlops.serving.label_reader import collapse, read_labels
from raymlops.serving.labels import Label, LabelCounts, LabelError, LabelStore, LabelsUnavailable, label_text
from raymlops.store import Store, StoreError

ALL = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.fixture
def store_of_labels(store: Store) -> Iterator[LabelStore]:
    opened = LabelStore(store, "flights")
    yield opened
    opened.close()


def files(store: Store) -> list[str]:
    return [name for day in store.list("labels/flights") for name in store.list(f"labels/flights/{day}")]


def read(store: Store, **options: Any) -> list[dict[str, Any]]:
    return read_labels(store, "flights", *ALL, **options).to_pylist()


def add(into: LabelStore, *what: Label) -> LabelCounts:
    return asyncio.run(into.add(what))


def test_acknowledged_labels_are_readable_by_others_at_once(store: Store, store_of_labels: LabelStore) -> None:
    given_labels = [Label(12.5, "a", at=1e9), Label("late", "b"), Label(True, key_hash=255)]
    assert add(store_of_labels, *given_labels) == LabelCounts(3, 0, 0)
    rows = read(store)
    assert [(row["prediction_id"], row["key_hash"], row["label"], row["number"], row["conflicts"]) for row in rows] == [
        ("a", None, "12.5", 12.5, 0),
        ("b", None, '"late"', None, 0),
        (None, "00000000000000ff", "true", 1.0, 0),
    ]
    assert rows[0]["at"] == datetime.fromtimestamp(1e9, UTC) and rows[1]["at"] is None


def test_sending_again_writes_nothing(store: Store) -> None:
    batch = [Label(float(n), f"id-{n}") for n in range(5)]
    first = LabelStore(store, "flights")
    assert add(first, *batch) == LabelCounts(5, 0, 0)
    before, seen = files(store), read(store)
    assert add(first, *batch) == LabelCounts(0, 5, 0)
    first.close()
    again = LabelStore(store, "flights")  # another replica, which remembers nothing
    add(again, *reversed(batch))
    again.close()
    assert files(store) == before
    assert read(store) == seen


def test_the_first_label_wins_and_conflicts_are_counted(store: Store, store_of_labels: LabelStore) -> None:
    assert add(store_of_labels, Label(1.0, "a"), Label(1, "a")) == LabelCounts(1, 1, 0)
    assert add(store_of_labels, Label(2.0, "a")) == LabelCounts(1, 0, 1)
    assert add(store_of_labels, Label(1.0, "a"), Label("1", "a")) == LabelCounts(1, 1, 1)
    assert [(row["label"], row["conflicts"]) for row in read(store)] == [("1", 2)]
    everything = read(store, losers=True)
    assert [(row["label"], row["wins"]) for row in everything] == [("1", True), ("2", False), ('"1"', False)]
    assert (
        store_of_labels.statistics() | {"accepted": 3, "duplicates": 2, "conflicts": 2} == store_of_labels.statistics()
    )


def test_a_key_and_an_id_that_look_alike_are_two(store: Store, store_of_labels: LabelStore) -> None:
    add(store_of_labels, Label(1.0, "a"), Label(2.0, key_hash="a"))
    assert [row["label"] for row in read(store)] == ["1", "2"]


def test_many_requests_share_few_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    create = Store.create
    monkeypatch.setattr(Store, "create", lambda *a: gate.wait(20) and create(*a))
    opened = LabelStore(store, "flights")

    async def many() -> list[LabelCounts]:
        requests = [asyncio.ensure_future(opened.add([Label(n, f"id-{n}")])) for n in range(200)]
        await asyncio.sleep(0)  # all are in the queue
        assert not any(request.done() for request in requests)
        gate.set()
        return await asyncio.wait_for(asyncio.gather(*requests), 20)

    assert asyncio.run(many()) == [LabelCounts(1, 0, 0)] * 200
    opened.close()
    assert len(read(store)) == 200
    assert opened.statistics()["written_files"] <= 2


def test_nothing_is_acknowledged_that_the_store_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = LabelStore(store, "flights")
    with monkeypatch.context() as patch:

        def full(*_: Any) -> bool:
            raise StoreError("cannot write: No space left on device")

        patch.setattr(Store, "create", full)
        with pytest.raises(LabelsUnavailable, match="No space left"):
            add(opened, Label(1.0, "a"))
    assert add(opened, Label(1.0, "a")) == LabelCounts(1, 0, 0)  # and a failed one is not taken for a duplicate
    opened.close()
    assert len(read(store)) == 1
    assert opened.statistics()["failed_writes"] == 1


def test_a_full_queue_and_a_closed_store_refuse(store: Store) -> None:
    opened = LabelStore(store, "flights", most_waiting=1)
    with pytest.raises(LabelsUnavailable, match="wait to be stored"):
        add(opened, Label(1.0, "a"), Label(2.0, "b"))
    opened.close()
    with pytest.raises(LabelsUnavailable, match="shutting down"):
        add(opened, Label(1.0, "a"))
    assert opened.statistics()["refused"] == 3


def test_closing_stores_what_was_taken(store: Store) -> None:
    opened = LabelStore(store, "flights")

    async def leave() -> None:
        request = asyncio.ensure_future(opened.add([Label(1.0, "a")]))
        await asyncio.sleep(0)
        request.cancel()

    asyncio.run(leave())
    opened.close()
    assert len(read(store)) == 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"label": float("nan"), "prediction_id": "a"}, "label"),
        ({"label": 10**400, "prediction_id": "a"}, "label"),
        ({"label": None, "prediction_id": "a"}, "label"),
        ({"label": [1], "prediction_id": "a"}, "label"),
        ({"label": 1}, "prediction_id"),
        ({"label": 1, "prediction_id": ""}, "prediction_id"),
        ({"label": 1, "prediction_id": "a", "at": float("inf")}, "at"),
        ({"label": 1, "prediction_id": "a", "at": -1.0}, "at"),
    ],
)
def test_meaningless_labels_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(LabelError, match=f"^{named}: "):
        Label(**wrong)


def test_odd_text_is_stored(store: Store, store_of_labels: LabelStore) -> None:
    add(store_of_labels, Label("\ud800 ü", "\ud800"), Label("", "b"))
    assert [(row["prediction_id"], row["label"]) for row in read(store)] == [("?", '"\\ud800 \\u00fc"'), ("b", '""')]


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
def test_labels_are_spelt_alike_exactly_if_equal(label: Any) -> None:
    assert label_text(label) == label_text(label)
    if isinstance(label, int) and not isinstance(label, bool) and abs(label) <= 2**53:
        assert label_text(float(label)) == label_text(label)
    assert label_text(str(label)) != label_text(label) or isinstance(label, str)


def row(unit: int, label: int, received: float, at: int | None) -> LabelRow:
    return LabelRow(f"id-{unit}", None, str(label), float(label), at, received)


ROWS = st.lists(
    st.builds(row, st.integers(0, 3), st.integers(0, 2), st.integers(0, 4).map(float), st.none() | st.integers(0, 2)),
    max_size=14,
)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 4))
def test_collapsing_knows_no_order_and_no_files(rows: list[LabelRow], random: Any, pieces: int) -> None:
    whole = label_files._table(rows)
    shuffled = list(rows) * 2  # everything twice, in any order and any files
    random.shuffle(shuffled)
    cut = [label_files._table(shuffled[k::pieces]) for k in range(pieces)]
    assert collapse(pa.concat_tables(cut)).equals(collapse(whole))
    kept = [r for r in collapse(whole).to_pylist() if r["wins"]]
    for winner in kept:
        mine = [r for r in rows if r.prediction_id == winner["prediction_id"]]
        first = min(mine, key=lambda r: (r.received, r.label))
        assert winner["label"] == first.label
        assert winner["conflicts"] == len({r.label for r in mine}) - 1
    assert len(kept) == len({r.prediction_id for r in rows})


class Crash(BaseException):
    """Like SIGKILL."""


@pytest.mark.parametrize("effects", range(12))
def test_merging_changes_nothing_wherever_it_crashes(
    store: Store, effects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_files, "GRACE_S", -1.0)
    monkeypatch.setattr(label_files, "Tiers", lambda: labels_tiers(2))
    writer = LabelWriter(store, "flights")
    left = effects
    create, delete = Store.create, Store.delete_file

    def crashing(effect: Any) -> Any:
        def run(*arguments: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise Crash
            left -= 1
            return effect(*arguments)

        return run

    monkeypatch.setattr(Store, "create", crashing(create))
    monkeypatch.setattr(Store, "delete_file", crashing(delete))
    now = datetime.now(UTC).timestamp()
    stored = 0
    try:
        for number in range(4):
            writer.write([row(number, number, now, None)])
            stored += 1
            writer.housekeeping()
    except Crash:
        pass
    assert [r["label"] for r in read(store)] == [str(n) for n in range(stored)]


def labels_tiers(fan: int) -> Any:
    from raymlops.serving.parts import Tiers

    return Tiers(fan)


def test_small_files_become_few(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_files, "GRACE_S", -1.0)
    opened = LabelStore(store, "flights")
    for number in range(70):
        add(opened, Label(number, f"id-{number}"))
    opened.close()
    assert len(files(store)) == 1
    assert len(read(store)) == 70


def test_the_range_is_by_time_received(store: Store) -> None:
    writer = LabelWriter(store, "flights")
    midnight = datetime(2026, 3, 5, tzinfo=UTC)
    writer.write([row(1, 1, midnight.timestamp() - 1, None), row(2, 2, midnight.timestamp(), None)])
    assert [r["label"] for r in read_labels(store, "flights", midnight, ALL[1]).to_pylist()] == ["2"]
    assert [r["label"] for r in read_labels(store, "flights", ALL[0], midnight).to_pylist()] == ["1"]
    with pytest.raises(ValueError, match="time zone"):
        read_labels(store, "flights", datetime(2026, 1, 1), midnight)


def test_no_labels_are_an_empty_table(store: Store) -> None:
    table = read_labels(store, "nobody", *ALL)
    assert table.num_rows == 0 and "conflicts" in table.column_names


def test_a_damaged_file_is_named(store: Store, store_of_labels: LabelStore) -> None:
    add(store_of_labels, Label(1.0, "a"))
    name = files(store)[0]
    (day,) = store.list("labels/flights")
    Path(store.location(f"labels/flights/{day}/{name}")).write_bytes(b"half")
    with pytest.raises(IntegrityError, match=name):
        read(store)


def test_memory_of_labels_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_REMEMBERED", 3)
    opened = LabelStore(store, "flights")
    add(opened, *[Label(n, f"id-{n}") for n in range(5)])
    assert add(opened, Label(4, "id-4"), Label(0, "id-0")) == LabelCounts(1, 1, 0)
    opened.close()
    assert len(read(store)) == 5  # what was forgotten is collapsed by the reader


def test_any_filesystem_will_do() -> None:
    store = Store("memory://labels-test")
    opened = LabelStore(store, "flights")
    add(opened, Label(1.0, "a"))
    opened.close()
    assert len(read(store)) == 1
