from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from data_cases import trips, with_value
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.data.hashing import ContentHash, key_hashes, row_ids, table_codes, value_codes


def digest(table: pa.Table) -> str:
    return ContentHash.of(*row_ids(table_codes(table))).hexdigest()


def codes(values: list[Any], kind: pa.DataType) -> list[int]:
    return value_codes(pa.chunked_array([pa.array(values, kind)])).tolist()


ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-(2**53), 2**53)),
        st.one_of(st.none(), st.floats(allow_nan=True)),
        st.one_of(st.none(), st.text(max_size=4)),
    ),
    min_size=1,
    max_size=12,
)


def table_of(rows: list[tuple[Any, ...]]) -> pa.Table:
    a, b, c = zip(*rows, strict=True)
    return pa.table({"a": pa.array(a, pa.int64()), "b": pa.array(b, pa.float64()), "c": pa.array(c, pa.string())})


@settings(max_examples=150, deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.data())
def test_content_hash_ignores_row_order_layout_and_column_order(rows: Any, random: Any, data: Any) -> None:
    expected = digest(table_of(rows))
    random.shuffle(rows)
    shuffled = table_of(rows)
    assert digest(shuffled) == expected
    assert digest(shuffled.select(["c", "a", "b"])) == expected
    cut = data.draw(st.integers(0, len(rows)))
    first, second = (ContentHash.of(*row_ids(table_codes(t))) for t in (shuffled.slice(0, cut), shuffled.slice(cut)))
    assert first.merge(second).hexdigest() == expected


@settings(max_examples=150, deadline=None)
@given(ROWS, st.data())
def test_changing_any_cell_changes_the_hash(rows: Any, data: Any) -> None:
    table = table_of(rows)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(["a", "b", "c"]))
    old = table.column(column)[row].as_py()
    if column == "c":
        new: Any = (old or "") + "x"
    else:
        new = 7 if old != 7 else 8
    assert digest(with_value(table, column, row, new)) != digest(table)


def test_swapping_values_between_rows_or_columns_changes_the_hash() -> None:
    table = pa.table({"a": [1, 2], "b": [3, 4]})
    assert digest(pa.table({"a": [1, 2], "b": [4, 3]})) != digest(table)
    assert digest(pa.table({"a": [3, 4], "b": [1, 2]})) != digest(table)
    assert digest(pa.table({"a": [1, 2], "z": [3, 4]})) != digest(table)


def test_repeated_rows_count() -> None:
    once = pa.table({"a": [1, 2]})
    assert digest(pa.table({"a": [1, 2, 2]})) != digest(once)
    assert digest(pa.table({"a": [1, 1, 1, 2]})) != digest(pa.table({"a": [1, 1, 2, 2]}))


@given(st.lists(st.integers(-(2**60), 2**60), max_size=20))
def test_equal_numbers_have_equal_codes_whatever_stores_them(values: list[int]) -> None:
    exact = [v for v in values if int(float(v)) == v]
    assert codes(exact, pa.int64()) == codes([float(v) for v in exact], pa.float64())


def test_large_neighbouring_integers_differ() -> None:
    assert len(set(codes([2**53, 2**53 + 1, 2**53 + 2, 2**62 + 1, -(2**62) - 1], pa.int64()))) == 5


def test_missing_values_and_zero_have_one_code() -> None:
    assert codes([None, math.nan], pa.float64()) == codes([None, None], pa.string()) == codes([None, None], pa.null())
    assert codes([0.0], pa.float64()) == codes([-0.0], pa.float64()) == codes([0], pa.int8())
    assert codes([0.0], pa.float64()) != codes([None], pa.float64())


def test_arrays_are_hashed_as_wholes() -> None:
    kind = pa.list_(pa.float32(), 2)
    a, b, c, d = codes([[1, 2], [2, 1], None, [1, 2]], kind)
    assert a == d and len({a, b, c}) == 3


def test_text_codes_do_not_depend_on_dictionary_encoding() -> None:
    column = trips(50).column("carrier")
    assert value_codes(column).tolist() == value_codes(column.dictionary_encode()).tolist()


def test_keys_hash_by_all_their_columns_and_salt() -> None:
    hashed = table_codes(pa.table({"a": [1, 1, 2], "b": ["x", "y", "x"]}))
    assert len(set(key_hashes(hashed, ["a", "b"]).tolist())) == 3
    assert key_hashes(hashed, ["a"])[0] == key_hashes(hashed, ["a"])[1]
    assert key_hashes(hashed, ["a"], "s")[0] != key_hashes(hashed, ["a"], "t")[0]


def test_row_ids_are_spread_evenly() -> None:
    first, _ = row_ids(table_codes(pa.table({"a": np.arange(20_000)})))
    counts = np.bincount((first >> np.uint64(60)).astype(int), minlength=16)
    assert counts.min() > 1000 and counts.max() < 1500
