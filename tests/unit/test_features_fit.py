"""Fitting: right values, whatever the order and the grouping of the rows; and clear refusals."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymlops.config.features import FeaturesConfig
from raymlops.errors import DataError, IntegrityError
from raymlops.features import fit
from raymlops.features.fit import FitPartial
from raymlops.features.state import FeatureState
from raymlops.features.transform import Transform


def features(**content: Any) -> FeaturesConfig:
    return FeaturesConfig.model_validate(content)


def fit_all(
    config: FeaturesConfig, columns: dict[str, Any], target: list[Any] | None = None, task: str = "regression"
) -> FeatureState:
    rows = len(next(iter(columns.values())))
    table = pa.table({**columns, "y": target if target is not None else np.arange(rows, dtype=float)})
    return FitPartial.from_batch(config, task, "y", {}, table, np.arange(rows, dtype=np.uint64)).finish(config, task)


def test_statistics_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).gamma(2.0, 3.0, 1001)
    kinds = ("standard", "robust", "minmax", "none")
    config = features(numeric={kind: {"scale": kind, "impute": "mean"} for kind in kinds})
    state = fit_all(config, dict.fromkeys(kinds, values))
    quarter, middle, three = np.quantile(values, [0.25, 0.5, 0.75])
    expected = {
        "standard": (values.mean(), values.std()),
        "robust": (middle, three - quarter),
        "minmax": (values.min(), np.ptp(values)),
        "none": (0.0, 1.0),
    }
    for kind, (center, scale) in expected.items():
        found = state.numeric[kind]
        assert (found.center, found.scale) == pytest.approx((center, scale), rel=1e-12)
        assert found.fill == pytest.approx(values.mean(), rel=1e-12)
    assert state.target == pytest.approx({"mean": 500.0, "scale": np.arange(1001).std()})


def test_scaling_applies_to_the_logarithm_and_imputation_to_the_raw_value() -> None:
    values = [1.0, 10.0, 100.0, None]
    config = features(numeric={"x": {"transform": "log", "impute": "median"}})
    state = fit_all(config, {"x": values})
    logs = np.log1p([1.0, 10.0, 100.0])
    assert state.numeric["x"].fill == 10.0
    assert state.numeric["x"].center == pytest.approx(logs.mean())
    out = Transform(config, state, "regression", {}).row({"x": None})["numeric"]
    assert out.item() == pytest.approx((np.log1p(10.0) - logs.mean()) / logs.std())


@pytest.mark.parametrize("scale", ["standard", "robust", "minmax"])
def test_a_constant_column_becomes_zeros_instead_of_dividing_by_nothing(scale: str) -> None:
    config = features(numeric={"x": {"scale": scale}})
    state = fit_all(config, {"x": [0.1, 0.1, 0.1]})
    assert state.numeric["x"].scale == 1.0
    assert Transform(config, state, "regression", {}).row({"x": 0.1})["numeric"].item() == 0.0


def test_robust_falls_back_to_the_deviation_when_the_quartiles_coincide() -> None:
    values = [5.0] * 9 + [100.0]
    state = fit_all(features(numeric={"x": {"scale": "robust"}}), {"x": values})
    assert state.numeric["x"].scale == pytest.approx(np.std(values))


def test_categories_are_ordered_by_count_then_text_and_rare_ones_dropped() -> None:
    config = features(categorical={"c": {"min_count": 2, "max_categories": 3}})
    values = ["z"] * 3 + ["b"] * 2 + ["a"] * 2 + ["y"] * 2 + ["once"] + [None] * 9
    state = fit_all(config, {"c": values})
    assert state.categories["c"] == ("z", "a", "b")
    transform = Transform(config, state, "regression", {})
    codes = transform.batch([{"c": v} for v in (None, "once", "y", "z", "a", "b")])["categorical"]
    assert codes.ravel().tolist() == [0, 1, 1, 2, 3, 4]
    assert transform.spec.cardinalities == (5,)


blocks = st.lists(st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from("abc")), min_size=1, max_size=6), min_size=1)


@settings(max_examples=60, deadline=None)
@example([[(0.0, "a"), (-0.0, "a")]], Random(0), 3)  # equal, but not the same bits
@example([[(0.0, "a"), (-0.0, "a")]], Random(1), 3)
@given(blocks, st.randoms(use_true_random=False), st.sampled_from([3, 1000]))
def test_the_state_does_not_depend_on_blocks_or_order(
    groups: list[list[tuple[float, str]]], random: Any, sample: int
) -> None:
    config = features(
        numeric={"x": {"scale": "standard"}, "r": {"scale": "robust", "impute": "mean"}}, categorical={"c": {}}
    )
    flat = [(i, row) for i, row in enumerate(row for group in groups for row in group)]
    ids = np.random.default_rng(1).permutation(len(flat)).astype(np.uint64)

    def partial(part: list[tuple[int, tuple[float, str]]]) -> FitPartial:
        x = [row[0] for _, row in part]
        table = pa.table({"x": x, "r": x, "c": [row[1] for _, row in part], "y": x})
        return FitPartial.from_batch(config, "regression", "y", {}, table, ids[[i for i, _ in part]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "SAMPLE", sample)
        whole = partial(flat).finish(config, "regression").to_json()
        shuffled = random.sample(flat, len(flat))
        size = random.randint(1, len(flat))
        pieces = [partial(shuffled[i : i + size]) for i in range(0, len(flat), size)]
        merged = pieces[0]
        for piece in pieces[1:]:
            merged = FitPartial.from_bytes(piece.to_bytes()).merge(merged)
        assert merged.finish(config, "regression").to_json() == whole


def test_the_sample_is_the_rows_with_the_smallest_hashes_while_extremes_see_all(monkeypatch: Any) -> None:
    monkeypatch.setattr(fit, "SAMPLE", 3)
    config = features(numeric={"m": {"scale": "minmax"}, "s": {"scale": "standard"}})
    x = np.array([1.0, 2.0, 3.0, 1000.0])
    table = pa.table({"m": x, "s": x, "y": x})
    ids = np.array([5, 3, 1, 2**63], dtype=np.uint64)
    state = FitPartial.from_batch(config, "regression", "y", {}, table, ids).finish(config, "regression")
    assert (state.numeric["m"].center, state.numeric["m"].scale) == (1.0, 999.0)
    assert state.numeric["s"].center == 2.0 and (state.rows, state.sampled) == (4, 3)


floats = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e100, max_value=1e100)


@settings(max_examples=60, deadline=None)
@given(st.lists(floats, min_size=1), st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_json_gives_back_exactly_what_was_fitted(values: list[float], words: list[str]) -> None:
    config = features(numeric={"x": {}}, categorical={"c": {}})
    count = max(len(values), len(words))
    columns = {"x": (values * count)[:count], "c": (words * count)[:count]}
    state = fit_all(config, columns)
    text = state.to_json()
    again = FeatureState.from_json(text)
    assert again == state and again.to_json() == text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: "not json", "not a feature state"),
        (lambda c: json.dumps({**c, "version": 99}), "version 99 found, 1 expected"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "target"}), "target"),
        (lambda c: json.dumps({**c, "numeric": {"x": {"fill": 0, "center": 0, "scale": 0}}}), "positive scale"),
        (lambda c: json.dumps({**c, "numeric": {"x": {"fill": "a", "center": 0, "scale": 1}}}), "ValueError"),
        (lambda c: json.dumps({**c, "categories": {"c": ["a", "a"]}}), "distinct"),
        (lambda c: json.dumps([]), "not a feature state"),
    ],
)
def test_a_damaged_state_is_refused(damage: Any, message: str) -> None:
    state = fit_all(features(numeric={"x": {}}, categorical={"c": {}}), {"x": [1.0, 2.0], "c": ["a", "b"]})
    with pytest.raises(IntegrityError, match=message):
        FeatureState.from_json(damage(json.loads(state.to_json())))


def test_a_state_of_other_features_is_refused() -> None:
    state = fit_all(features(numeric={"x": {}}), {"x": [1.0, 2.0]})
    with pytest.raises(IntegrityError, match="nothing fitted for numeric z"):
        Transform(features(numeric={"z": {}}), state, "regression", {})


@pytest.mark.parametrize(
    ("config", "columns", "message"),
    [
        (
            features(numeric={"x": {}}),
            {"x": [None, float("nan"), float("inf")]},
            r"numeric\.x: all 3 training rows are",
        ),
        (features(categorical={"c": {}}), {"c": pa.array([None, None], pa.string())}, r"categorical\.c: all 2"),
        (features(numeric={"x": {}}), {"x": [1e308, -1e308]}, r"numeric\.x: values from -1e\+308 to 1e\+308"),
        (features(numeric={"x": {}}), {"x": ["1", "b"]}, "column 'x': found string .such as '1'., expected numbers"),
        (features(numeric={"z": {}}), {"x": [1.0]}, "column 'z': missing; the rows have x, y"),
    ],
)
def test_columns_that_cannot_be_fitted_are_named(config: FeaturesConfig, columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_all(config, columns)


def test_an_identifier_is_not_a_category(monkeypatch: Any) -> None:
    monkeypatch.setattr(fit, "MAX_DISTINCT", 5)
    with pytest.raises(DataError, match=r"categorical\.c: found more than 5 distinct values"):
        fit_all(features(categorical={"c": {}}), {"c": [str(i) for i in range(6)]})


@pytest.mark.parametrize(
    ("task", "target", "classes"),
    [
        ("multiclass", [10, 9, 2, 2], ["2", "9", "10"]),
        ("multiclass", ["10", "9", "b", "--1"], ["--1", "10", "9", "b"]),
        ("binary", [True, False, True, True], ["false", "true"]),
        ("binary", [1.0, 0.0, 1.0, 0.0], ["0", "1"]),
        ("multiclass", [-1, 1, 0, 0], ["-1", "0", "1"]),
    ],
)
def test_classes_are_canonical_text_in_a_natural_order(task: str, target: list[Any], classes: list[str]) -> None:
    config = features(numeric={"x": {}})
    state = fit_all(config, {"x": [1.0, 2.0, 3.0, 4.0]}, target, task)
    assert state.target == {"classes": classes}
    codes = Transform(config, state, task, {}).targets(target)
    assert codes.dtype == np.int64
    assert [classes[code] for code in codes] == [fit_text(value) for value in target]


def fit_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | str) else str(int(value))


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("binary", ["a", "b", "c"], r"needs 2 classes, training rows have 3: \['a', 'b', 'c'\]"),
        ("binary", ["a", "a", "a"], "needs 2 classes, training rows have 1"),
        ("multiclass", ["a", "a", "a"], "at least 2 classes"),
        ("binary", ["a", None, "b"], "label: 1 of 3 training rows have no usable value"),
        ("regression", [1e308, 0.0, -1e308], r"label: values up to 1e\+308 cannot be scaled"),
        ("regression", [1.0, None, float("inf")], "label: 2 of 3 training rows have no usable value"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(task: str, target: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_all(features(numeric={"x": {}}), {"x": [1.0, 2.0, 3.0]}, target, task)
