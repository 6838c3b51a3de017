"""Requests of one row: the log says of them what it says of all others, alone or scored together."""

from __future__ import annotations

import asyncio
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import ALL, SCALARS, append, ids, opened, record

from raymlops.serving.batching import Batch, MicroBatcher, merge
from raymlops.serving.prediction_reader import read_predictions
from raymlops.serving.prediction_table import Record, to_table
from raymlops.serving.prediction_writer import PartWriter
from raymlops.serving.single_rows import Single, apart
from raymlops.store import Store

VALUES = SCALARS | st.floats() | st.text() | st.just("half a pair \ud800")
ARRAYS = st.sampled_from(
    [
        np.ones(1, np.float32),
        np.ones(1, np.float64),
        np.ones(1, np.int8),
        np.ones(1, np.bool_),
        np.ones((1, 2)),
        np.array(["a"]),
        np.array(["2026-03-04"], "datetime64[us]"),
        np.array([{"any": 1}], object),
    ]
)
COLUMNS = VALUES.map(lambda value: [value]) | VALUES.map(lambda value: (value,)) | ARRAYS
REQUESTS = st.lists(st.dictionaries(st.sampled_from("xyz"), COLUMNS, max_size=3), min_size=1, max_size=8)


def single(one: Record, place: tuple[Batch, int] | None = None) -> Single:
    """`place`: the batch that the request was scored in, and its row there; None: it was alone."""
    *who, inputs, outputs, rows, latency, status = one
    return (*who, latency, status, *(place or (Batch(inputs, outputs, rows), 0)))


def same(singles: list[Single], wanted: list[Record], redact: frozenset[str] = frozenset()) -> None:
    wanted = sorted(wanted, key=lambda one: one.prediction_id)
    [(rows, part)], bad = PartWriter(Store("/nowhere"), "e", "r", redact).encode([], singles)
    assert (rows, bad) == (len(wanted), 0)
    table = to_table(wanted, "e", "r", redact)
    found = part.table.take(pc.sort_indices(part.table, [("prediction_id", "ascending")])).select(table.column_names)
    assert found.schema == table.schema
    assert repr(found.to_pylist()) == repr(table.to_pylist())  # two NaN are not equal, but look it
    each = sorted(apart(singles), key=lambda one: one.prediction_id)
    assert repr(to_table(each, "e", "r", redact).to_pylist()) == repr(table.to_pylist())


@settings(max_examples=200, deadline=None)
@given(requests=REQUESTS, outputs=COLUMNS, redact=st.sampled_from([frozenset[str](), frozenset("x")]))
def test_requests_of_one_row_give_the_same_table(
    requests: list[dict[str, Any]], outputs: Any, redact: frozenset[str]
) -> None:
    whole = [record(n, inputs=columns, outputs={"prediction": outputs}) for n, columns in enumerate(requests)]
    same(list(map(single, whole)), whole, redact)


@settings(max_examples=200, deadline=None)
@given(
    batches=st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=6),
    mixed=st.booleans(),
    data=st.data(),
)
def test_requests_that_were_scored_together_are_logged_as_if_alone(
    batches: list[list[bool]], mixed: bool, data: st.DataObject
) -> None:
    """Of each batch, the requests that are logged; in order, or mixed with those of other batches."""
    requests, within = [], {}
    for logged in batches:
        start = len(requests)
        for number in range(start, start + len(logged)):
            texts, numbers = data.draw(VALUES), float(data.draw(st.integers(0, 9)))
            inputs = {"x": [texts], "y": np.array([numbers])}
            requests.append(record(number, inputs=inputs, outputs={"prediction": np.array([numbers + 1])}))
        one = requests[start:]
        columns, answer = merge([r.inputs for r in one]), merge([r.outputs for r in one])
        assert columns is not None and answer is not None
        batch = Batch(columns, answer, len(one))
        within |= {start + at: (batch, at) for at, wanted in enumerate(logged) if wanted}
    kept = sorted(within, key=(lambda n: within[n][1]) if mixed else None)
    if kept:
        same([single(requests[n], within[n]) for n in kept], [requests[n] for n in kept])


def test_the_log_has_for_every_request_what_it_was_answered(tmp_path: Path) -> None:
    def double(columns: Any, rows: int) -> dict[str, np.ndarray]:
        return {"prediction": 2 * columns["x"]}

    async def ask(batcher: MicroBatcher, number: int) -> None:
        rows = 1 + number % 7 // 5  # some have two
        columns = {"x": np.arange(rows) + 10.0 * number, "word": [f"w{number}"] * rows}
        found = await batcher.submit(columns, rows)
        one = record(number, inputs=columns, outputs=found.answer, rows=rows)
        assert log.append(*one, 9, found.batch, found.at)

    async def everybody() -> None:
        batcher = MicroBatcher(double, max_rows=16)
        await asyncio.gather(*(ask(batcher, number) for number in range(100)))

    store = Store(str(tmp_path))
    log = opened(store, flush_s=30)
    asyncio.run(everybody())
    log.close()
    columns = ["prediction_id", "row", "input.x", "input.word", "output.prediction"]
    table = read_predictions(store, "flights", *ALL, columns)
    assert table.num_rows == log.statistics()["written_rows"] == 128
    for identity, row, x, word, answer in (one.values() for one in table.to_pylist()):
        number = int(identity.removeprefix("id-"))
        assert (x, word, answer) == (10.0 * number + row, f"w{number}", 2 * x)


@pytest.mark.parametrize(
    "columns", [{"x": [1, 2]}, {"x": [1], "y": []}, {"x": np.ones(2)}, {"x": np.float64(1)}, {"x": 7}]
)
def test_one_bad_request_does_not_take_the_others_with_it(tmp_path: Path, columns: Any) -> None:
    store = Store(str(tmp_path))
    log = opened(store, flush_s=30)
    for number in range(3):
        assert append(log, number)
    assert append(log, 3, inputs=columns)
    assert append(log, 4, time=1e30)
    log.close()
    assert ids(store) == ["id-0", "id-1", "id-2"]
    assert log.statistics() | {"written_rows": 3, "dropped_rows": 2, "waiting_rows": 0} == log.statistics()


def test_what_is_not_in_the_sample_does_not_wait_with_what_is(tmp_path: Path) -> None:
    log = opened(Store(str(tmp_path)), flush_s=30, sample=0.5)
    columns = {"x": np.arange(100.0)}
    batch, alive = Batch(columns, {"prediction": np.ones(100)}, 100), weakref.ref(columns["x"])
    one = record(0, inputs={"x": np.zeros(1)})
    taken = [log.append(*one._replace(prediction_id=f"id-{n}"), 9, batch, n) for n in range(100)]
    assert all(taken) and 0 < log.statistics()["waiting_rows"] < 100
    del columns, batch
    assert alive() is None
    log.close()
