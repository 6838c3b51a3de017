"""What may not matter to a content hash and to a split (order, layout, storage types), and what must: every value."""

from __future__ import annotations

import itertools
import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from raymlops.config.data import HashSplit, TimeSplit
from raymlops.data.hashing import ContentHash, row_ids, table_codes, value_codes
from raymlops.data.kinds import normalise
from raymlops.data.split import EXCLUDED, HOLDOUT, TRAIN, VALIDATION, assign

KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "integer": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "number": (pa.float64(), st.floats()),
    "flag": (pa.bool_(), st.booleans()),
    "text": (pa.string(), st.text(st.characters(codec="utf-8"), max_size=8)),
    "time": (pa.timestamp("us"), st.integers(-(2**55), 2**55)),
    "tensor": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
}


@st.composite
def tables(draw: st.DrawFn, min_rows: int = 0) -> pa.Table:
    rows = draw(st.integers(min_rows, 7))
    columns = {}
    for name in draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, unique=True)):
        kind, values = KINDS[name]
        columns[name] = pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


def hash_of(table: pa.Table) -> ContentHash:
    return ContentHash.of(*row_ids(table_codes(table)))


def digest(table: pa.Table) -> str:
    return hash_of(table).hexdigest()


def normal(table: pa.Table) -> pa.Table:
    return normalise(table, (), {})


@settings(max_examples=80, deadline=None)
@given(tables(), st.lists(st.integers(0, 7), max_size=4), st.randoms(use_true_random=False))
def test_blocks_of_rows_in_any_order_merge_in_any_grouping(table: pa.Table, cuts: list[int], random: Any) -> None:
    rows, names = list(range(table.num_rows)), list(table.column_names)
    random.shuffle(rows)
    random.shuffle(names)
    shuffled = table.take(pa.array(rows, pa.int64())).select(names)
    edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    parts = [hash_of(shuffled.slice(a, b - a)) for a, b in itertools.pairwise(edges)]
    while len(parts) > 1:
        right = parts.pop(random.randrange(len(parts)))
        left = parts.pop(random.randrange(len(parts)))
        parts.append(left.merge(right))
    assert parts[0].hexdigest() == digest(table)
    assert parts[0].rows == table.num_rows


@settings(max_examples=150, deadline=None)
@given(tables(min_rows=1), st.data())
def test_any_changed_cell_of_any_kind_changes_the_hash(table: pa.Table, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(table.column_names))
    row = data.draw(st.integers(0, table.num_rows - 1))
    kind, values = KINDS[name]
    cells = table.column(name).combine_chunks()
    new = pa.array([data.draw(st.none() | values)], kind)
    assume(not same_values(cells.slice(row, 1).to_pylist(), new.to_pylist()))
    changed = pa.concat_arrays([cells.slice(0, row), new, cells.slice(row + 1)])
    assert digest(table.set_column(table.column_names.index(name), name, changed)) != digest(table)


def same_values(a: Any, b: Any) -> bool:
    """Equal for our purposes: null and NaN are both "missing", zero has no sign."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_values, a, b))
    missing = [x is None or (isinstance(x, float) and math.isnan(x)) for x in (a, b)]
    return all(missing) or (not any(missing) and type(a) is type(b) and bool(a == b))


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.int64(), 0), (pa.float64(), 0.0), (pa.bool_(), False), (pa.string(), ""), (pa.timestamp("us"), 0)],
)
def test_missing_is_not_zero_or_empty(kind: pa.DataType, value: Any) -> None:
    known, missing = (pa.table({"x": pa.array([v], kind), "y": [1]}) for v in (value, None))
    assert digest(known) != digest(missing)


def test_words_for_missing_are_words() -> None:
    for word in ("None", "null", "nan"):
        assert digest(pa.table({"x": [word]})) != digest(pa.table({"x": pa.array([None], pa.string())}))


def test_a_gap_that_moves_changes_the_hash() -> None:
    gaps = pa.table({"a": [1.0, None], "b": [None, 4.0]})
    assert digest(pa.table({"a": [4.0, None], "b": [None, 1.0]})) != digest(gaps)
    assert digest(pa.table({"a": [1.0, 4.0], "b": pa.nulls(2, pa.float64())})) != digest(gaps)


def test_an_empty_column_is_part_of_the_content_whatever_its_type() -> None:
    table = pa.table({"a": [1, 2]})
    assert digest(table.append_column("b", pa.nulls(2))) != digest(table)
    assert digest(table.append_column("b", pa.nulls(2))) == digest(table.append_column("b", pa.nulls(2, pa.string())))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=8))
def test_numbers_hash_alike_however_they_are_stored(values: list[int | None]) -> None:
    plain = pa.array(values, pa.int64())
    expected = digest(normal(pa.table({"x": plain, "y": plain})))
    with_nan = pa.array(np.array([math.nan if v is None else v for v in values], dtype=np.float64))
    stored = [plain.cast(kind) for kind in (pa.int32(), pa.float64(), pa.decimal128(20, 1))]
    for column in [*stored, plain.dictionary_encode(), with_nan]:
        assert digest(normal(pa.table({"y": column, "x": column}))) == expected, column.type


@settings(max_examples=80, deadline=None)
@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=6), max_size=8))
def test_text_hashes_alike_however_it_is_stored(values: list[str | None]) -> None:
    plain = pa.array(values, pa.string())
    chunked = pa.chunked_array([plain.slice(0, 3), plain.slice(3)]).dictionary_encode()
    for stored in (plain.cast(pa.large_string()), plain.cast(pa.string_view()), plain.dictionary_encode(), chunked):
        assert digest(normal(pa.table({"x": stored}))) == digest(pa.table({"x": plain}))


def test_times_hash_alike_in_every_unit_and_zone() -> None:
    plain = pa.array([0, None, 1_700_000_000_000_000], pa.timestamp("us"))
    zoned = plain.cast(pa.timestamp("us", tz="America/New_York"))
    for stored in (plain.cast(pa.timestamp("ns")), plain.cast(pa.timestamp("s")), zoned):
        assert digest(normal(pa.table({"x": stored}))) == digest(pa.table({"x": plain}))


@settings(max_examples=80, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
@example(2**53, 2**53 + 1)
@example(2**63 - 1, 2**63 - 2)
def test_large_integers_are_told_apart(a: int, b: int) -> None:
    codes = value_codes(pa.chunked_array([pa.array([a, b], pa.int64())]))
    assert (codes[0] == codes[1]) == (a == b)


def test_the_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    table = pa.table(
        {"a": [1, 2, None], "b": ["x", "ÿ", None], "c": [0.5, math.nan, math.inf], "d": [True, False, None]}
    )
    assert digest(table) == "117261a2379d1396e127ede56999f7855f72c9ffb3ee064a6663f2c64f039273"


moments = st.datetimes(datetime(2023, 12, 25), datetime(2024, 1, 10))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(moments, min_size=4, max_size=4, unique=True).map(sorted),
    st.booleans(),
    st.booleans(),
    st.lists(moments, max_size=20),
    st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_parts_follow_each_other_in_time_in_every_unit(
    marks: list[datetime], starts: bool, ends: bool, times: list[datetime], unit: str
) -> None:
    start, validation, holdout, end = marks
    split = TimeSplit(
        by="time",
        column="at",
        start=start if starts else None,
        validation_from=validation,
        holdout_from=holdout,
        end=end if ends else None,
    )
    times += [mark + timedelta(microseconds=d) for mark in marks for d in (-1, 0, 1)]
    stored = pa.array(times, pa.timestamp("us")).cast(pa.timestamp(unit), safe=False)
    table = normalise(pa.table({"at": stored}), ["at"], {})
    for at, code in zip(table.column("at").to_pylist(), assign(split, table).tolist(), strict=True):
        if (starts and at < start) or (ends and at >= end):
            assert code == EXCLUDED
        else:
            assert code == (TRAIN if at < validation else VALIDATION if at < holdout else HOLDOUT)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-100, 100) | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=12),
    st.floats(0.01, 0.45),
    st.floats(0.01, 0.45),
    st.text(max_size=5),
)
def test_a_row_is_dealt_alone_as_it_is_among_others(
    values: list[int], validation: float, holdout: float, salt: str
) -> None:
    split = HashSplit(by="hash", key="id", validation=validation, holdout=holdout, salt=salt)
    table = normal(pa.table({"id": values, "other": list(range(len(values)))}))
    codes = assign(split, table)
    assert codes.tolist() == [assign(split, table.slice(i, 1))[0] for i in range(table.num_rows)]


@pytest.mark.parametrize("key", ["id", ["id", "name"]])
def test_shares_are_about_right_and_growing_ones_keep_their_rows(key: str | list[str]) -> None:
    rows = 50_000
    table = pa.table({"id": np.arange(rows), "name": [f"n{i % 7}" for i in range(rows)]})
    small = assign(HashSplit(by="hash", key=key, validation=0.1, holdout=0.25), table)
    assert np.bincount(small, minlength=3) / rows == pytest.approx([0.65, 0.1, 0.25], abs=0.01)
    large = assign(HashSplit(by="hash", key=key, validation=0.1, holdout=0.4), table)
    assert (large[small == HOLDOUT] == HOLDOUT).all() and (small[large == TRAIN] == TRAIN).all()
