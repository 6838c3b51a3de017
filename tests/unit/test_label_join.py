"""Predictions and labels become labelled rows: each once, whatever comes when, however often it is interrupted."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_cases import FAR, START, Endpoint, answer, by_prediction, config_of, minute

from raymlops.errors import ConfigError, StoreError
from raymlops.lock import Held
from raymlops.monitoring import label_join
from raymlops.monitoring.label_join import join_labels, joined_until, lock_root
from raymlops.monitoring.label_match import FOUND, KNOWN, LABELS, TIME, latest, match, settle
from raymlops.monitoring.labelled import labelled_path, read_labelled
from raymlops.rollout.evidence import unit_hash
from raymlops.serving.labels import Label
from raymlops.store import Store


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    return Endpoint(tmp_path / "store")


def rows(endpoint: Endpoint, *columns: str) -> dict[tuple[str, int], Any]:
    return by_prediction(read_labelled(endpoint.store, endpoint.name, *FAR), *columns)


def test_a_label_by_id_makes_a_row_that_training_can_read(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(minute(0), "p1", distance=3, zone="b"), answer(minute(1), "p2")])
    endpoint.labelled([Label(7.5, "p1", at=minute(5).timestamp())], minute(6))
    report = join_labels(config_of(), endpoint.store, now=minute(10))
    assert (report.joined, report.labels, report.waiting) == (1, 1, 0)
    [row] = read_labelled(endpoint.store, "fares", *FAR).to_pylist()
    assert row == {
        "prediction_id": "p1",
        "row": 0,
        "time": minute(0),
        "labelled_at": minute(5),
        "received": minute(6),
        "version": "1",
        "variant": "champion",
        "status": "ok",
        "output.prediction": 6.0,
        "distance": 3.0,
        "zone": "b",
        "when": minute(0),
        "fare": 7.5,
    }
    assert joined_until(endpoint.store, "fares") == minute(10)


def test_again_without_anything_new_changes_nothing(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(minute(0), "p1")])
    endpoint.labelled([Label(7, "p1")], minute(6))
    join_labels(config_of(), endpoint.store, now=minute(10))
    before = files(endpoint.store)
    report = join_labels(config_of(), endpoint.store, now=minute(10))
    assert (report.labels, report.joined, report.duplicates, report.conflicts) == (0, 0, 0, 0)
    assert files(endpoint.store) == before


def test_duplicates_conflicts_late_orphans_and_nonsense_are_told_apart(endpoint: Endpoint) -> None:
    config = config_of(labels={"max_delay": "PT1H", "wait": "PT30M"})
    endpoint.predicted([answer(minute(0), "p1"), answer(minute(0), "p2")])
    endpoint.labelled([Label(1, "p1"), Label(5, "nobody"), Label("dear", "p2")], minute(1))
    first = join_labels(config, endpoint.store, now=minute(2))
    assert (first.joined, first.waiting, first.unreadable, first.labels) == (1, 1, 1, 3)
    endpoint.labelled([Label(1, "p1")], minute(3))
    endpoint.labelled([Label(2, "p1")], minute(4))
    endpoint.labelled([Label(3, "p2")], minute(70))
    second = join_labels(config, endpoint.store, now=minute(80))
    assert (second.joined, second.duplicates, second.conflicts, second.late, second.orphans) == (0, 1, 1, 1, 1)
    assert rows(endpoint, "fare") == {("p1", 0): (1.0,)}


def test_what_nobody_got_is_not_labelled(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(minute(0), "p1", status="shadow", version="2"), answer(minute(0), "p2", status="error")])
    endpoint.predicted([answer(minute(0), "p1")])
    endpoint.labelled([Label(1, "p1"), Label(1, "p2")], minute(1))
    assert join_labels(config_of(), endpoint.store, now=minute(2)).joined == 1
    assert rows(endpoint, "version") == {("p1", 0): ("1",)}


def test_a_label_by_key_is_for_the_latest_prediction_before_it(endpoint: Endpoint) -> None:
    key = unit_hash("fares", "anna")
    endpoint.predicted([answer(minute(n), f"p{n}", key=key) for n in (0, 10, 20)])
    labels = [Label(n, key_hash=key, at=minute(n).timestamp()) for n in (5, 12, 13)]
    endpoint.labelled(labels, minute(30))
    report = join_labels(config_of(), endpoint.store, now=minute(31))
    assert (report.joined, report.conflicts) == (2, 1)
    assert rows(endpoint, "fare") == {("p0", 0): (5.0,), ("p10", 0): (12.0,)}


def test_a_label_as_of_just_now_waits_for_predictions_that_are_yet_to_be_logged(endpoint: Endpoint) -> None:
    key = unit_hash("fares", "anna")
    endpoint.predicted([answer(minute(0), "p0", key=key)])
    endpoint.labelled([Label(5, key_hash=key)], minute(10))
    assert join_labels(config_of(), endpoint.store, now=minute(10.5)).waiting == 1
    endpoint.predicted([answer(minute(9), "p9", key=key)])
    assert join_labels(config_of(), endpoint.store, now=minute(12)).joined == 1
    assert list(rows(endpoint)) == [("p9", 0)]


def test_feedback_that_is_stored_after_a_later_join_is_not_lost(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(minute(0), "p1")])
    join_labels(config_of(), endpoint.store, now=minute(10))
    endpoint.labelled([Label(7, "p1")], minute(9))
    assert join_labels(config_of(), endpoint.store, now=minute(11)).joined == 1


def test_a_label_waits_for_a_prediction_that_is_logged_late(endpoint: Endpoint) -> None:
    endpoint.labelled([Label(7, "p1")], minute(1))
    assert join_labels(config_of(), endpoint.store, now=minute(2)).waiting == 1
    endpoint.predicted([answer(minute(0), "p1")])
    report = join_labels(config_of(), endpoint.store, now=minute(60))
    assert (report.joined, report.labels) == (1, 1)


def test_classes_are_text_and_numbers_what_a_contract_says(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(minute(0), "p1", zone="7")])
    endpoint.labelled([Label(True, "p1")], minute(1))
    config = config_of("binary")
    kinds = {"fare": "boolean", "zone": "integer", "distance": "number"}
    lines = "".join(f"  {name}: {{kind: {kind}}}\n" for name, kind in kinds.items())
    for contract, expected in ((None, ("true", "7")), (f"columns:\n{lines}", (True, 7))):
        if contract is not None:
            endpoint.store.write("contracts/fares.yaml", contract.encode())
            endpoint.store.delete_tree(labelled_path("fares"))
        assert join_labels(config, endpoint.store, now=minute(2)).joined == 1
        assert rows(endpoint, "fare", "zone") == {("p1", 0): expected}


def test_an_input_named_as_one_of_our_columns_is_refused(endpoint: Endpoint) -> None:
    config = config_of(features={"numeric": {"row": {}}})
    endpoint.predicted([answer(minute(0), "p1")])
    endpoint.labelled([Label(1, "p1")], minute(1))
    with pytest.raises(ConfigError, match="column 'row' of the data has the name of a column of labelled rows"):
        join_labels(config, endpoint.store, now=minute(2))


def test_only_one_join_at_a_time(endpoint: Endpoint) -> None:
    path = f"{lock_root('fares')}/claims/00000001.json"
    endpoint.store.write(path, b'{"host": "elsewhere", "pid": 1, "started": 0, "wall": 4e9}')
    with pytest.raises(Held, match=r"labels of fares: process 1 on elsewhere, since .* is working on it"):
        join_labels(config_of(), endpoint.store, now=minute(0))
    endpoint.store.write(path, b'{"host": "elsewhere", "pid": 1, "started": 0, "wall": 1}')
    join_labels(config_of(), endpoint.store, now=minute(0))


def test_a_join_that_was_taken_over_writes_nothing(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.predicted([answer(minute(0), "p1")])
    endpoint.labelled([Label(1, "p1")], minute(1))
    real = label_join._search

    def slept(*given: Any) -> pa.Table:
        claim = b'{"host": "elsewhere", "pid": 1, "started": 0, "wall": 4e9}'
        endpoint.store.write(f"{lock_root('fares')}/claims/00000002.json", claim)
        return real(*given)

    monkeypatch.setattr(label_join, "_search", slept)
    with pytest.raises(Held, match=r"elsewhere, since .* has taken this job over"):
        join_labels(config_of(), endpoint.store, now=minute(2))
    assert rows(endpoint) == {} and joined_until(endpoint.store, "fares") is None


def test_times_that_no_clock_shows_stop_no_join(endpoint: Endpoint) -> None:
    key, config = unit_hash("fares", "anna"), config_of(labels={"wait": "PT1H"})
    endpoint.predicted([answer(minute(0), "p1", key=key), answer(minute(0), "p2")])
    last = 253402300799.5  # half a second before the year 10000
    endpoint.labelled([Label(1, "p1", at=last), Label(1, "p2", at=0), Label(2, key_hash=key, at=last)], minute(1))
    first = join_labels(config, endpoint.store, now=minute(2))
    assert (first.joined, first.late, first.waiting) == (1, 1, 1)
    later = join_labels(config, endpoint.store, now=minute(62))
    assert (later.orphans, later.waiting) == (1, 0), "what is to be known in years waits no longer than others"


def test_a_fraction_among_whole_labels_stays_a_number(endpoint: Endpoint) -> None:
    endpoint.store.write("contracts/fares.yaml", b"columns:\n  fare: {kind: integer}\n")
    endpoint.predicted([answer(minute(n), f"p{n}") for n in range(2)])
    for n, fare in enumerate((3, 3.5)):
        endpoint.labelled([Label(fare, f"p{n}")], minute(5 + n))
        join_labels(config_of(), endpoint.store, now=minute(10 + n))
    assert rows(endpoint, "fare") == {("p0", 0): (3.0,), ("p1", 0): (3.5,)}


def test_a_number_is_one_label_however_it_is_written(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(minute(0), "p1")])
    for n, fare in enumerate(("7.50", 7.5, "75e-1")):
        endpoint.labelled([Label(fare, "p1")], minute(1 + n))
    report = join_labels(config_of(), endpoint.store, now=minute(9))
    assert (report.joined, report.duplicates, report.conflicts) == (1, 2, 0)


def test_a_huge_number_under_an_integer_contract_stops_no_join(endpoint: Endpoint) -> None:
    endpoint.store.write("contracts/fares.yaml", b"columns:\n  fare: {kind: integer}\n")
    endpoint.predicted([answer(minute(0), "p1")])
    endpoint.labelled([Label(1e300, "p1")], minute(1))
    assert join_labels(config_of(), endpoint.store, now=minute(9)).joined == 1
    assert rows(endpoint, "fare") == {("p1", 0): (1e300,)}, "for the contract to name"


# Any order, any split, any interruption


class Killed(BaseException):
    """Ends a join where no code expects it, as a kill does."""


class Mortal(Store):
    """Dies at the n-th write."""

    def __init__(self, uri: str, lives: int) -> None:
        super().__init__(uri)
        object.__setattr__(self, "lives", [lives])

    def _spend(self) -> None:
        self.lives[0] -= 1  # type: ignore[attr-defined]
        if self.lives[0] < 0:  # type: ignore[attr-defined]
            raise Killed

    def write(self, path: str, data: bytes, sync: bool = True) -> None:
        if not path.endswith("beat.json"):  # by a thread, whenever it comes to it
            self._spend()
        super().write(path, data, sync)

    def delete_file(self, path: str) -> None:
        if self.lives[0] < 0:  # type: ignore[attr-defined]
            return  # a killed process gives nothing back
        super().delete_file(path)


def files(store: Store) -> dict[str, bytes]:
    root = Path(store.uri) / labelled_path("fares")
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("join-*.parquet"))}


events = st.lists(
    st.tuples(
        st.sampled_from(["id", "key"]),
        st.integers(0, 5),  # which prediction, or which key
        st.integers(0, 3),  # the label
        st.integers(1, 3000),  # minutes after the start, when it was known and received
    ),
    max_size=12,
    unique_by=lambda event: event[3],
)
answers = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3000)), min_size=1, max_size=6)


def made(predictions: list[tuple[int, int]]) -> list[Any]:
    return [answer(minute(at), f"p{n}", key=key) for n, (key, at) in enumerate(predictions)]


def told(event: tuple[str, int, int, int]) -> Label:
    kind, which, value, at = event
    known = minute(at).timestamp()
    return Label(value, f"p{which}", at=known) if kind == "id" else Label(value, key_hash=which % 3, at=known)


def in_words(predictions: list[tuple[int, int]], labels: list[tuple[str, int, int, int]]) -> dict[Any, Any]:
    """What should come out, said slowly."""
    found: dict[Any, Any] = {}
    for kind, which, value, at in sorted(labels, key=lambda e: e[3]):
        if kind == "id":
            chosen = which if which < len(predictions) else None
        else:
            mine = [(t, f"p{n}", n) for n, (key, t) in enumerate(predictions) if key == which % 3 and t <= at]
            chosen = max(mine)[2] if mine else None
        if chosen is not None:
            found.setdefault((f"p{chosen}", 0), (float(value),))
    return found


@settings(max_examples=40, deadline=None)
@given(answers, events, st.lists(st.integers(0, 3100), max_size=3), st.randoms(), st.integers(0, 12))
def test_any_split_and_any_kill_give_every_label_once(
    tmp_path_factory: pytest.TempPathFactory,
    predictions: list[tuple[int, int]],
    labels: list[tuple[str, int, int, int]],
    looks: list[int],
    draw: random.Random,
    lives: int,
) -> None:
    endpoint = Endpoint(tmp_path_factory.mktemp("join") / "store")
    config = config_of(labels={"wait": "P100D"})
    waiting = list(labels)
    records = made(predictions)
    draw.shuffle(records)
    endpoint.predicted(records)
    for look in [*sorted(looks), 3200]:
        arrived = [event for event in waiting if event[3] < look]
        waiting = [event for event in waiting if event[3] >= look]
        for event in arrived:
            endpoint.labelled([told(event)], minute(event[3]))
        try:
            join_labels(config, Mortal(endpoint.store.uri, draw.randint(0, lives)), now=minute(look))
        except Killed:
            endpoint.store.delete_tree(lock_root("fares"))  # its process is gone
        by_prediction(read_labelled(endpoint.store, "fares", *FAR))
    report = join_labels(config, endpoint.store, now=minute(3300))
    assert rows(endpoint, "fare") == in_words(predictions, labels)
    assert report.waiting == len(unmatched(predictions, labels))


def unmatched(predictions: list[tuple[int, int]], labels: list[tuple[str, int, int, int]]) -> list[Any]:
    return [event for event in labels if not in_words(predictions, [event])]


@settings(max_examples=100, deadline=None)
@given(answers, events, st.randoms())
def test_parts_in_any_order_match_alike(
    predictions: list[tuple[int, int]], labels: list[tuple[str, int, int, int]], draw: random.Random
) -> None:
    rows = [
        {"time": minute(at), "prediction_id": f"p{n}", "row": 0, "key": f"key {key}"}
        for n, (key, at) in enumerate(predictions)
    ]
    table = pa.table(
        {
            "unit": [f"id p{w}" if kind == "id" else f"key {w % 3}" for kind, w, _, _ in labels],
            "as_of": [kind == "key" for kind, _, _, _ in labels],
            "label": [str(value) for _, _, value, _ in labels],
            "at": [minute(at) for *_, at in labels],
            "received": [minute(at) for *_, at in labels],
            "fresh": [True] * len(labels),
        },
        schema=LABELS,
    )

    def part(chosen: list[dict[str, Any]]) -> pa.Table:
        schema = pa.schema([("time", TIME), ("prediction_id", pa.string()), ("row", pa.int32()), ("key", pa.string())])
        found = pa.Table.from_pylist(chosen, schema)
        ids = pa.chunked_array([pa.array([f"id {row['prediction_id']}" for row in chosen], pa.string())])
        return match(table, found, [ids, found.column("key")])

    whole = latest([part(rows)])
    pieces = [part([row]) for row in rows]
    draw.shuffle(pieces)
    assert latest(pieces).equals(whole)
    assert latest([latest(pieces[:2]), latest(pieces[2:]), whole]).equals(whole)
    settled = settle(table, whole, KNOWN.empty_table(), timedelta(days=30))
    counted = settled.joined.num_rows + settled.duplicates + settled.conflicts + settled.late
    assert counted == whole.num_rows
    assert settled.joined.schema.equals(FOUND)


def test_a_store_that_fails_ends_the_join_with_its_reason(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.predicted([answer(minute(0), "p1")])
    endpoint.labelled([Label(1, "p1")], minute(1))
    (tmp_path / "store" / "labelled").write_text("in the way")
    with pytest.raises(StoreError, match="labelled"):
        join_labels(config_of(), endpoint.store, now=minute(2))


def test_the_directory_is_a_parquet_table(endpoint: Endpoint) -> None:
    endpoint.predicted([answer(START + timedelta(days=n), f"p{n}", zone=f"z{n}") for n in range(3)])
    endpoint.labelled([Label(n, f"p{n}") for n in range(3)], START + timedelta(days=4))
    join_labels(config_of(), endpoint.store, now=START + timedelta(days=5))
    table = pq.read_table(endpoint.store.location(labelled_path("fares")))
    assert table.sort_by("fare").column("zone").to_pylist() == ["z0", "z1", "z2"]
    assert sorted(set(table.column("date").cast(pa.string()).to_pylist())) == ["2026-03-01", "2026-03-02", "2026-03-03"]
