"""What the transform gives to a model, and what it says about rows that it cannot use."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raymlops.config.features import FeaturesConfig
from raymlops.errors import DataError
from raymlops.features.fit import FitPartial
from raymlops.features.transform import Transform


def make(
    columns: dict[str, Any], task: str = "regression", functions: dict[str, Any] | None = None, **content: Any
) -> Transform:
    config = FeaturesConfig.model_validate(content)
    rows = len(next(iter(columns.values())))
    table = pa.table({"y": np.arange(rows, dtype=float), **columns})
    ids = np.arange(rows, dtype=np.uint64)
    state = FitPartial.from_batch(config, task, "y", functions or {}, table, ids).finish(config, task)
    return Transform(config, state, task, functions or {})


def test_numbers_are_imputed_scaled_clipped_and_flagged() -> None:
    transform = make(
        {"x": [0.0, 10.0], "m": [0.0, 4.0]},
        numeric={
            "x": {"scale": "minmax", "impute": "constant", "fill": 5.0, "clip": 2.0, "missing_indicator": True},
            "m": {"scale": "none"},
        },
    )
    assert transform.spec.numeric_names == ("x", "x:missing", "m")
    records = [{"x": x, "m": 1} for x in (0, 2.5, 1000, -1000, None, math.nan, math.inf, True)]
    out = transform.batch(records)["numeric"]
    assert out.dtype == np.float32
    assert out[:, 0].tolist() == pytest.approx([0.0, 0.25, 2.0, -2.0, 0.5, 0.5, 0.5, 0.1])
    assert out[:, 1].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]


def test_no_number_can_become_infinite() -> None:
    transform = make({"x": [0.0, 1e-300]}, numeric={"x": {"scale": "minmax", "clip": None}})
    out = transform.batch([{"x": v} for v in (1.7e308, -1.7e308, 10**400)])["numeric"]
    assert np.isfinite(out).all() and out[0, 0] > 1e38 and out[1, 0] < -1e38


def test_dates_are_points_on_circles_and_years_are_standardised() -> None:
    parts = ["hour", "minute_of_day", "weekday", "day", "day_of_year", "month", "year"]
    times = [datetime(2010, 1, 1), datetime(2014, 1, 1)]
    transform = make({"t": times}, dates={"t": {"parts": parts}})
    names = transform.spec.numeric_names
    assert len(names) == 13 and names[0] == "t:hour:sin" and names[-1] == "t:year"
    out = dict(zip(names, transform.row({"t": datetime(2016, 12, 31, 18, 30)})["numeric"][0].tolist(), strict=True))

    def circle(part: str) -> float:
        return math.atan2(out[f"t:{part}:sin"], out[f"t:{part}:cos"]) / (2 * math.pi) % 1

    assert circle("hour") == pytest.approx(18 / 24)
    assert circle("minute_of_day") == pytest.approx((18 * 60 + 30) / 1440)
    assert circle("weekday") == pytest.approx(5 / 7)  # a Saturday
    assert circle("day") == pytest.approx(30 / 31)
    assert circle("day_of_year") == pytest.approx(365 / 366)
    assert circle("month") == pytest.approx(11 / 12)
    assert out["t:year"] == pytest.approx((2016 - 2012) / 2)
    assert transform.row({"t": None})["numeric"].tolist() == [[0.0] * 13]


def test_a_moment_is_the_same_in_every_notation() -> None:
    transform = make({"t": [datetime(2010, 1, 1), datetime(2014, 1, 1)]}, dates={"t": {"parts": ["hour", "day"]}})
    expected = transform.row({"t": datetime(2013, 5, 6, 22, 0, 0, 123456)})["numeric"].tobytes()
    east = timezone(timedelta(hours=3))
    for same in (
        "2013-05-06T22:00:00.123456",
        "2013-05-07 01:00:00.123456+03:00",
        "2013-05-06T22:00:00.123456Z",
        datetime(2013, 5, 7, 1, 0, 0, 123456, tzinfo=east),
        datetime(2013, 5, 6, 22, 0, 0, 123456, tzinfo=UTC),
        np.datetime64("2013-05-06T22:00:00.123456789"),
        pd.Timestamp("2013-05-06T22:00:00.123456789"),
        pd.Timestamp("2013-05-07T01:00:00.123456789+03:00"),
    ):
        assert transform.row({"t": same})["numeric"].tobytes() == expected, same
        if not isinstance(same, str):
            assert transform.batch(pd.DataFrame({"t": [same]}))["numeric"].tobytes() == expected, same


def test_nanoseconds_before_1970_round_down_everywhere() -> None:
    transform = make({"t": [datetime(1960, 1, 1), datetime(1961, 1, 1)]}, dates={"t": {"parts": ["minute_of_day"]}})
    moment = pd.Timestamp("1965-01-01T11:59:59.999999999")
    frame = pd.DataFrame({"t": pd.Series([moment], dtype="datetime64[ns]")})
    single = transform.row({"t": moment})["numeric"].tobytes()
    assert transform.batch(frame)["numeric"].tobytes() == single
    assert transform.row({"t": np.datetime64(moment)})["numeric"].tobytes() == single


def test_tensors_come_through_in_shape_from_every_container() -> None:
    image = [[1.0, 2.0], [3.0, 4.0]]
    kind = pa.list_(pa.list_(pa.float64()))
    transform = make({"i": pa.array([image, image], kind)}, tensor={"i": {"shape": [1, 2, 2], "divide_by": 2.0}})
    nested = pa.table({"i": pa.array([image], kind)})
    flat = pa.table({"i": pa.array([[1, 2, 3, 4]], pa.list_(pa.int64(), 4))})
    for rows in (
        {"i": image},
        {"i": np.array(image)},
        [{"i": [1, 2, 3, 4]}],
        nested,
        nested.to_pandas(),
        flat,
        flat.to_pandas(),
        pd.DataFrame({"i": [np.array(image, dtype=np.uint8)]}),
    ):
        out = transform.batch(rows)["i"]
        assert out.dtype == np.float32 and out.shape == (1, 1, 2, 2)
        assert out.ravel().tolist() == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], r"row 1: found 2 values, expected 4 \(shape \[2, 2\]\)"),
        (None, "row 1: found a missing value, expected 4 numbers"),
        ([1.0, None, 2.0, 3.0], "row 1: found .*, expected numbers"),
        ("abcd", "row 1: found 'abcd', expected numbers"),
        ([1.0, math.nan, 2.0, 3.0], "row 1: the array holds NaN or infinity"),
        ([1.0, 1e300, 2.0, 3.0], "row 1: the array holds NaN or infinity"),
        ([[1.0, 2.0], [3.0]], "row 1: found .*, expected numbers"),
    ],
)
def test_bad_tensors_name_column_row_and_value(value: Any, message: str) -> None:
    good = [1.0, 2.0, 3.0, 4.0]
    transform = make({"i": [good, good]}, tensor={"i": {"shape": [2, 2]}})
    with pytest.raises(DataError, match=f"column 'i', {message}"):
        transform.batch([{"i": good}, {"i": value}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": "abc", "t": None}, "column 'x', row 0: found 'abc', expected a number"),
        ({"x": b"1", "t": None}, "column 'x', row 0: found b'1', expected a number"),
        ({"x": [1], "t": None}, r"column 'x', row 0: found \[1\], expected a number"),
        ({"x": datetime(2013, 1, 1), "t": None}, "column 'x', row 0: found datetime.*, expected a number"),
        ({"t": None}, "column 'x': missing; the rows have t"),
        ({"x": 1, "t": "yesterday"}, r"column 't', row 0: found 'yesterday', expected a time \(ISO 8601\)"),
        ({"x": 1, "t": "0001-01-01T00:00:00+14:00"}, "column 't', row 0: .*, expected a year from 1 to 9999"),
        ({"x": 1, "t": 1367877600}, "column 't', row 0: found 1367877600, expected a time"),
    ],
)
def test_bad_values_name_column_row_and_value(row: dict[str, Any], message: str) -> None:
    transform = make(
        {"x": [1.0, 2.0], "t": [datetime(2013, 1, 1), datetime(2014, 1, 1)]},
        numeric={"x": {}},
        dates={"t": {"parts": ["month"]}},
    )
    with pytest.raises(DataError, match=message):
        transform.row(row)


def test_rows_that_are_not_rows_are_refused() -> None:
    transform = make({"x": [1.0, 2.0], "z": [1.0, 2.0]}, numeric={"x": {}, "z": {}})
    with pytest.raises(DataError, match="found int, expected a table, a data frame, a row or a list of rows"):
        transform.batch(3)
    with pytest.raises(DataError, match="column 'z': missing from row 1"):
        transform.batch([{"x": 1, "z": 2}, {"x": 1}])


def test_an_empty_frame_gives_empty_arrays() -> None:
    transform = make({"x": [1.0, 2.0], "c": ["a", "b"]}, numeric={"x": {}}, categorical={"c": {}})
    frame = pd.DataFrame({"x": pd.Series([], dtype=float), "c": pd.Series([], dtype=str)})
    out = transform.batch(frame)
    assert out["numeric"].shape == (0, 1) and out["categorical"].shape == (0, 1)


def test_derived_features_get_arrays_and_are_used_like_columns() -> None:
    seen: list[tuple[Any, ...]] = []

    def join(n: np.ndarray, w: np.ndarray, t: np.ndarray, suffix: str) -> np.ndarray:
        seen.append((n.dtype, w.dtype, t.dtype))
        month = t.astype("datetime64[M]").astype(str)
        return np.array([f"{int(a)}{b}{m}{suffix}" for a, b, m in zip(n, w, month, strict=True)])

    columns = {"n": [1, 2], "w": ["a", "b"], "t": [datetime(2013, 1, 1), datetime(2013, 2, 1)]}
    transform = make(
        columns,
        functions={"key": join, "double": lambda n: n * 2},
        derived={
            "key": {"function": "mine:join", "inputs": ["n", "w", "t"], "params": {"suffix": "!"}},
            "double": {"function": "mine:double", "inputs": ["n"]},
        },
        categorical={"key": {}},
        numeric={"double": {"scale": "none"}},
    )
    assert transform.state.categories["key"] == ("1a2013-01!", "2b2013-02!")
    out = transform.row({"n": 2, "w": "b", "t": "2013-02-01"})
    assert out["categorical"].item() == 3 and out["numeric"].item() == 4.0
    assert set(seen) == {(np.dtype(float), np.dtype(object), np.dtype("datetime64[us]"))}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"features.derived.d: mine:f returned shape \(1,\), expected \(2,\)"),
        (lambda x: 3.0, r"features.derived.d: mine:f returned shape \(\), expected \(2,\)"),
        (lambda x: x / "a", "features.derived.d: mine:f raised .*Error"),
        (lambda x: x.astype(complex), "column 'd'"),
    ],
)
def test_a_derived_function_that_fails_is_named(function: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(
            {"x": [1.0, 2.0]},
            functions={"d": function},
            derived={"d": {"function": "mine:f", "inputs": ["x"]}},
            numeric={"d": {}},
        )


def test_regression_labels_are_standardised_and_come_back() -> None:
    transform = make({"x": [1.0, 2.0, 3.0], "y": [10.0, 20.0, 60.0]}, numeric={"x": {}})
    labels = transform.targets(pd.Series([10.0, 60.0], index=[7, 9]))
    assert labels.dtype == np.float32
    assert transform.unscale(labels) == pytest.approx([10.0, 60.0], rel=1e-6)
    assert transform.raw_targets(np.array([10.0, 60.0])).tolist() == [10.0, 60.0]
    with pytest.raises(DataError, match="label: 1 of 2 values are missing"):
        transform.targets([1.0, None])


def test_unseen_and_missing_classes_are_refused() -> None:
    transform = make({"x": [1.0, 2.0], "y": ["no", "yes"]}, task="binary", numeric={"x": {}})
    assert transform.targets(pa.chunked_array([["yes", "no"]])).tolist() == [1, 0]
    with pytest.raises(DataError, match="label, row 1: found 'maybe', training saw only no, yes"):
        transform.targets(pd.Series(["no", "maybe"], index=[5, 6]))
    with pytest.raises(DataError, match="label: 1 of 2 values are missing"):
        transform.targets(["no", None])


def test_specs_say_how_many_outputs_a_task_needs() -> None:
    numbers = {"x": [1.0, 2.0, 3.0]}
    assert make(numbers, numeric={"x": {}}).spec.outputs == 1
    assert make({**numbers, "y": ["a", "b", "a"]}, task="binary", numeric={"x": {}}).spec.outputs == 1
    assert make({**numbers, "y": ["a", "b", "c"]}, task="multiclass", numeric={"x": {}}).spec.outputs == 3
