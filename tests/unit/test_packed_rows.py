"""Requests of one row, packed: the log says of them what it says of all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import SCALARS, append, ids, opened, record

from raymlops.serving.packed_rows import Names, pack, packed_table
from raymlops.serving.prediction_table import Record, to_table
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store

VALUES = SCALARS | st.floats() | st.text() | st.just("half a pair \ud800")
REQUESTS = st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3), min_size=1, max_size=8)


def packed(records: list[Record]) -> dict[Names, list[bytes]]:
    found: dict[Names, list[bytes]] = {}
    for one in records:
        head = one.time, one.prediction_id, one.version, one.variant, one.weight, one.key_hash, one.latency, one.status
        made = pack(head, one.inputs, one.outputs or {})
        assert made is not None
        found.setdefault(made[0], []).append(made[1])
    return found


@settings(max_examples=100, deadline=None)
@given(requests=REQUESTS, redact=st.sampled_from([frozenset[str](), frozenset("x")]))
def test_packed_requests_give_the_same_table(requests: list[dict[str, Any]], redact: frozenset[str]) -> None:
    typed = {"f": np.ones(1, np.float32), "i": np.ones(1, np.int8), "s": np.array(["a"]), "t": ("b",)}
    whole = [record(n, inputs={k: [v] for k, v in columns.items()} | typed) for n, columns in enumerate(requests)]
    writer = PartWriter(Store("/nowhere"), "e", "r", redact)
    [(rows, part)], bad = writer.encode([], packed(whole))
    wanted = to_table(whole, "e", "r", redact)
    assert (rows, bad) == (len(whole), 0)
    ordered = part.table.take(pc.sort_indices(part.table, [("prediction_id", "ascending")])).select(wanted.column_names)
    assert ordered.schema == wanted.schema
    assert repr(ordered.to_pylist()) == repr(wanted.to_pylist())  # two NaN are not equal, but look it


@pytest.mark.parametrize(
    "columns",
    [
        {"x": [1, 2]},
        {"x": [1], "y": []},
        {"x": np.ones(2)},
        {"x": np.float64(1)},
        {"x": 7},
        {"x": [[1.0, 2.0]]},
        {"x": np.ones((1, 2))},
        {"x": [b"raw"]},
        {"x": np.array(["2026-03-04"], "datetime64[ns]")},
    ],
)
def test_what_is_no_column_of_one_plain_value_is_not_packed(columns: Any) -> None:
    assert pack((0.0, "", "", "", 0.0, None, 0.0, ""), columns, {}) is None


@pytest.mark.parametrize(
    "value", [np.float64(1), np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(1), np.str_("a")]
)
def test_a_value_of_numpy_becomes_the_plain_one_that_an_unpacked_request_has(value: Any) -> None:
    for column in ([value], np.array([value])):
        one = record(1, inputs={"x": column}, outputs={"y": column})
        [(names, rows)] = packed([one]).items()
        assert packed_table(names, rows, "e", "r", frozenset()) == to_table([one], "e", "r")


def test_one_bad_request_does_not_take_the_packed_ones_with_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    log = opened(store, flush_s=30)
    for number in range(3):
        assert append(log, number)
    assert append(log, 3, inputs={"distance": [1.0, 2.0]})
    assert append(log, 4, time=1e30)
    log.close()
    assert ids(store) == ["id-0", "id-1", "id-2"]
    assert log.statistics() | {"written_rows": 3, "dropped_rows": 2, "waiting_rows": 0} == log.statistics()
