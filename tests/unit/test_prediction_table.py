"""The columns of the prediction log, whatever the requests were."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import NOON, SCALARS, record

from raymlops.serving.prediction_table import to_table, unify, values_to_array


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
