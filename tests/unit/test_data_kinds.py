from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymlops.data.kinds import kind_of, normalise, widest
from raymlops.errors import DataError


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        (pa.array([1, None], pa.int8()), "integer", pa.int64()),
        (pa.array([1.5], pa.float32()), "number", pa.float64()),
        (pa.array([Decimal("1.5")]), "number", pa.float64()),
        (pa.array([True]), "boolean", pa.bool_()),
        (pa.array(["a"], pa.large_string()), "string", pa.string()),
        (pa.array(["a", None]).dictionary_encode(), "string", pa.string()),
        (pa.array([date(2030, 1, 1)]), "timestamp", pa.timestamp("us")),
        (pa.array([datetime(2030, 1, 1)], pa.timestamp("ns", "Europe/Berlin")), "timestamp", pa.timestamp("us")),
        (pa.array([[1, 2]]), "tensor", pa.list_(pa.float32(), 2)),
        (pa.nulls(2), "null", pa.null()),
    ],
)
def test_every_type_has_a_kind_and_a_stored_form(values: pa.Array, kind: str, stored: pa.DataType) -> None:
    assert kind_of(values.type) == kind
    out = normalise(pa.table({"x": values}), (), {}).column("x")
    assert out.type == stored
    assert out.null_count == values.null_count


def test_zoned_times_become_utc() -> None:
    zoned = pa.array([datetime(2030, 7, 1, 12)], pa.timestamp("us", "UTC")).cast(pa.timestamp("us", "Europe/Berlin"))
    assert normalise(pa.table({"x": zoned}), (), {}).column("x").to_pylist() == [datetime(2030, 7, 1, 12)]


def test_text_is_read_as_time_where_a_time_is_needed() -> None:
    for texts in (["2030-01-01 05:00:00", None], ["2030-01-01T05:00:00Z", None], ["2030-01-01T07:00:00+02:00", None]):
        out = normalise(pa.table({"x": texts}), {"x"}, {}).column("x")
        assert out.to_pylist() == [datetime(2030, 1, 1, 5), None]
    with pytest.raises(DataError, match=r"column 'x', row 1: found 'soon', expected a time \(ISO 8601\)"):
        normalise(pa.table({"x": ["2030-01-01", "soon"]}), {"x"}, {})
    with pytest.raises(DataError, match=r"column 'x'.*found 5, expected a time"):
        normalise(pa.table({"x": [5]}), {"x"}, {})


def test_tensors_of_every_origin_are_stored_alike() -> None:
    from ray.data.extensions import ArrowTensorArray

    images = np.arange(12, dtype=np.float64).reshape(3, 2, 2)
    origins = [
        pa.array(images.reshape(3, 4).tolist()),
        pa.array(images.tolist()),
        pa.array(images.reshape(3, 4).astype(np.uint8).tolist(), pa.list_(pa.uint8(), 4)),
        pa.FixedShapeTensorArray.from_numpy_ndarray(images),
        ArrowTensorArray.from_numpy(images),
    ]
    for origin in origins:
        out = normalise(pa.table({"x": origin}), (), {"x": [2, 2]}).column("x")
        assert out.type == pa.list_(pa.float32(), 4)
        assert out.to_pylist() == images.reshape(3, 4).tolist()


def test_missing_arrays_stay_missing() -> None:
    out = normalise(pa.table({"x": pa.array([[1.0, 2.0], None, [3.0, 4.0]])}), (), {}).column("x")
    assert out.to_pylist() == [[1.0, 2.0], None, [3.0, 4.0]]


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        ([[1.0], [1.0, 2.0]], None, r"column 'x': rows hold arrays of different lengths \(1, 2\)"),
        ([[1.0, 2.0]], [3], r"column 'x': rows hold 2 values, expected 3 \(shape \[3\]\)"),
        ([["a"]], None, "column 'x': arrays of string, expected arrays of numbers"),
        ([{"a": 1}], None, "column 'x': type struct<.*> is not supported; leave it out .* data.columns"),
        ([b"raw"], None, "column 'x': type binary is not supported"),
        (pa.array([2**64 - 1], pa.uint64()), None, "column 'x': holds integers beyond 64 bits"),
    ],
)
def test_what_cannot_be_stored_is_named(values: Any, shape: list[int] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        normalise(pa.table({"x": values}), (), {"x": shape} if shape else {})


def test_kinds_unify_only_where_values_do() -> None:
    assert widest("integer", "number") == widest("number", "integer") == "number"
    assert widest("null", "string") == widest("string", "null") == "string"
    assert widest("string", "integer") == widest("timestamp", "number") == "mixed"
