"""One row alone and the same row inside a batch, in whatever container, give the same bits."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.config.features import FeaturesConfig
from raymlops.features.fit import FitPartial
from raymlops.features.transform import Transform

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

NUMERIC = st.fixed_dictionaries(
    {
        "impute": st.sampled_from(["mean", "median", "constant"]),
        "fill": st.floats(-1e6, 1e6),
        "transform": st.sampled_from(["none", "log"]),
        "scale": st.sampled_from(["none", "standard", "robust", "minmax"]),
        "clip": st.none() | st.floats(0.1, 100),
        "missing_indicator": st.booleans(),
    }
)
CATEGORICAL = st.fixed_dictionaries({"min_count": st.integers(1, 2), "max_categories": st.integers(1, 5)})
PARTS = ["hour", "minute_of_day", "weekday", "day", "day_of_year", "month", "year"]

words = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["a", "b", "ä", "日本", "true", "3", ""])
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], Any]] = {
    "number": (pa.float64(), st.none() | st.floats(), 1.5),
    "single": (pa.float32(), st.none() | st.floats(width=32), -2.0),
    "count": (pa.int64(), st.none() | st.integers(-(2**63), 2**63 - 1), 7),
    "flag": (pa.bool_(), st.none() | st.booleans(), True),
    "word": (pa.string(), st.none() | words, "a"),
    "code": (pa.int64(), st.none() | st.integers(-5, 5) | st.integers(-(2**53), 2**53), 3),
    "level": (pa.float64(), st.none() | st.sampled_from([0.0, -0.0, 0.5, 3.0, math.nan, 1e300]), 0.5),
    "switch": (pa.bool_(), st.none() | st.booleans(), False),
    "at": (pa.timestamp("us"), st.none() | moments, datetime(2013, 2, 28, 23, 59)),
    "zoned": (pa.timestamp("us", tz="UTC"), st.none() | moments.map(lambda t: t.replace(tzinfo=UTC)), None),
    "image": (pa.list_(pa.float64()), st.lists(st.floats(-1e30, 1e30), min_size=4, max_size=4), [0.0, 1.0, 2.0, 3.0]),
}


def total(number: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.nan_to_num(number) + 2 * np.nan_to_num(count)


def initial(word: np.ndarray) -> np.ndarray:
    return np.array([None if w is None else w[:1] for w in word], dtype=object)


FUNCTIONS = {"total": total, "initial": initial}


@st.composite
def configs(draw: st.DrawFn) -> FeaturesConfig:
    return FeaturesConfig.model_validate(
        {
            "numeric": {name: draw(NUMERIC) for name in ("number", "single", "count", "flag", "total")},
            "categorical": {name: draw(CATEGORICAL) for name in ("word", "code", "level", "switch", "initial")},
            "dates": {
                name: {"parts": draw(st.lists(st.sampled_from(PARTS), min_size=1, unique=True))}
                for name in ("at", "zoned")
            },
            "tensor": {"image": {"shape": [1, 2, 2], "divide_by": draw(st.sampled_from([1.0, 3.0, 16.0]))}},
            "derived": {
                "total": {"function": "features:total", "inputs": ["number", "count"]},
                "initial": {"function": "features:initial", "inputs": ["word"]},
            },
        }
    )


rows = st.fixed_dictionaries({name: strategy for name, (_, strategy, _) in COLUMNS.items()})


def fitted(config: FeaturesConfig, records: list[dict[str, Any]]) -> Transform:
    """Large values are kept out of the fit, which refuses what it cannot scale; they still come to the transform."""
    tame = []
    for record in records:
        small = {
            name: None if isinstance(value, float) and not abs(value) < 1e100 else value
            for name, value in record.items()
        }
        tame.append({**small, "y": 1.0})
    tame.append({**{name: known for name, (_, _, known) in COLUMNS.items()}, "y": 2.0})
    columns = {name: pa.array([r[name] for r in tame], kind) for name, (kind, _, _) in COLUMNS.items()}
    table = pa.table({**columns, "y": [r["y"] for r in tame]})
    ids = np.arange(len(tame), dtype=np.uint64)
    state = FitPartial.from_batch(config, "regression", "y", FUNCTIONS, table, ids).finish(config, "regression")
    return Transform(config, state, "regression", FUNCTIONS)


def same_bits(batch: dict[str, np.ndarray], singles: list[dict[str, np.ndarray]]) -> None:
    for name, array in batch.items():
        for i, single in enumerate(singles):
            assert single[name].dtype == array.dtype and single[name].shape == (1, *array.shape[1:])
            assert single[name].tobytes() == array[i : i + 1].tobytes(), (name, i)
        assert np.isfinite(array).all()


@settings(max_examples=150, deadline=None)
@given(configs(), st.lists(rows, min_size=1, max_size=8), st.lists(rows, max_size=6))
def test_a_row_gives_the_same_bits_alone_and_in_every_container(
    config: FeaturesConfig, records: list[dict[str, Any]], training: list[dict[str, Any]]
) -> None:
    transform = fitted(config, training)
    table = pa.table({name: pa.array([r[name] for r in records], kind) for name, (kind, _, _) in COLUMNS.items()})
    plain = table.to_pylist()
    singles = [transform.row(record) for record in plain]
    same_bits(transform.batch(plain), singles)
    same_bits(transform.batch(table), singles)
    same_bits(transform.batch(pa.concat_tables([table.slice(0, 1), table.slice(1)])), singles)
    frame = table.to_pandas()
    same_bits(transform.batch(frame), singles)
    same_bits(transform.batch(frame), [transform.row(record) for record in frame.to_dict("records")])


anything_numeric = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.floats(width=32).map(np.float32),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9),
    st.sampled_from([10**400, -(10**400), np.bool_(True), pd.NA, pd.NaT, np.nan]),
)


@settings(max_examples=150, deadline=None)
@given(NUMERIC, st.lists(anything_numeric, min_size=1, max_size=8))
def test_records_of_mixed_types_give_the_same_bits_alone_and_together(
    numeric: dict[str, Any], values: list[Any]
) -> None:
    config = FeaturesConfig.model_validate({"numeric": {"x": numeric}, "categorical": {"c": {}}})
    table = pa.table({"x": [1.0, 2.0, 5.0], "c": ["1", "true", "0.5"], "y": [1.0, 2.0, 3.0]})
    ids = np.arange(3, dtype=np.uint64)
    state = FitPartial.from_batch(config, "regression", "y", {}, table, ids).finish(config, "regression")
    transform = Transform(config, state, "regression", {})
    records = [{"x": value, "c": value} for value in values]
    singles = [transform.row(record) for record in records]
    same_bits(transform.batch(records), singles)
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object), "c": pd.Series(values, dtype=object)})
    same_bits(transform.batch(frame), singles)


def test_logarithms_do_not_depend_on_length_or_position() -> None:
    values = np.random.default_rng(0).lognormal(3, 4, 300)
    config = FeaturesConfig.model_validate({"numeric": {"x": {"transform": "log", "clip": None}}})
    table = pa.table({"x": values, "y": values})
    ids = np.arange(len(values), dtype=np.uint64)
    state = FitPartial.from_batch(config, "regression", "y", {}, table, ids).finish(config, "regression")
    transform = Transform(config, state, "regression", {})
    whole = transform.batch(table)["numeric"]
    for start in range(40):
        for length in (1, 2, 3, 7, 8, 9, 31, 33, 64, 100):
            part = transform.batch(table.slice(start, length))["numeric"]
            assert part.tobytes() == whole[start : start + length].tobytes()


def test_categories_are_the_same_however_they_are_stored() -> None:
    config = FeaturesConfig.model_validate({"categorical": {"c": {}}})
    table = pa.table({"c": ["3", "3", "true", "0.5"], "y": [1.0, 2.0, 3.0, 4.0]})
    ids = np.arange(4, dtype=np.uint64)
    state = FitPartial.from_batch(config, "regression", "y", {}, table, ids).finish(config, "regression")
    transform = Transform(config, state, "regression", {})
    three = transform.row({"c": "3"})["categorical"].item()
    for value in (3, 3.0, np.int8(3), np.float32(3), Decimal("3.0"), np.str_("3")):
        assert transform.row({"c": value})["categorical"].item() == three
    for stored in (
        pd.Series(["3"]).astype("category"),
        pd.Series([3]).astype("category"),
        pd.Series([3], dtype="Int64"),
        pd.Series([3.0]),
        pd.Series(["3"], dtype="string"),
    ):
        assert transform.batch(pd.DataFrame({"c": stored}))["categorical"].item() == three
    assert transform.batch(pa.table({"c": pa.array(["3"]).dictionary_encode()}))["categorical"].item() == three
    assert transform.row({"c": True})["categorical"].item() == transform.row({"c": "true"})["categorical"].item() > 1
    assert transform.row({"c": math.nan})["categorical"].item() == 0
    assert transform.row({"c": "unseen"})["categorical"].item() == 1
