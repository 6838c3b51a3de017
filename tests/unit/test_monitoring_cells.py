"""Counting rows in cells: the same numbers as looking at every value, however rows are split and merged."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.data.hashing import table_codes
from raymlops.data.profile import Profile
from raymlops.errors import DataError
from raymlops.monitoring import CategoryCells, Counts, Layout, NumericCells, layout_of_profile, layout_of_rows
from raymlops.monitoring.building import MAX_SPLITS

EDGES = (-1.0, 0.0, 0.5, 3.0)
LAYOUT = Layout((NumericCells("x", EDGES), CategoryCells("c", ("a", "b"))))

values = st.none() | st.floats(-5, 5) | st.sampled_from([*EDGES, -0.0, math.nan, math.inf, -math.inf])
words = st.none() | st.sampled_from(["a", "b", "new", ""])
rows_of = st.lists(st.tuples(values, words), max_size=40)


def table(rows: list[Any]) -> pa.Table:
    return pa.table({"x": pa.array([r[0] for r in rows], pa.float64()), "c": pa.array([r[1] for r in rows])})


def cell_of(value: float | None) -> int:
    if value is None or not math.isfinite(value):
        return 5
    return next((at for at, edge in enumerate(EDGES) if value <= edge), 4)


@settings(max_examples=150, deadline=None)
@given(rows_of)
def test_every_row_is_in_the_cell_of_its_value(rows: list[Any]) -> None:
    counts = Counts.of(LAYOUT, table(rows), "w").total()
    x = [sum(cell_of(r[0]) == cell for r in rows) for cell in range(6)]
    c = [sum(r[1] == word for r in rows) for word in ("a", "b")]
    missing = sum(r[1] is None for r in rows)
    assert counts.tolist() == [*x, *c, len(rows) - sum(c) - missing, missing]


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of, min_size=1, max_size=4), st.randoms())
def test_counts_of_replicas_add_up(parts: list[list[Any]], random: Any) -> None:
    whole = Counts.of(LAYOUT, table([row for part in parts for row in part]), "w")
    counted = [Counts.of(LAYOUT, table(part), "w") for part in parts]
    random.shuffle(counted)
    merged = Counts(LAYOUT)
    for part in counted:
        merged.merge(Counts.from_dict(LAYOUT, json.loads(json.dumps(part.to_dict()))))
    assert merged.total().tolist() == whole.total().tolist() and merged.rows == sum(map(len, parts))


def test_chunks_do_not_show() -> None:
    x = np.random.default_rng(0).normal(size=70_000)
    x[::7] = np.nan
    layout = Layout((NumericCells("x", tuple(np.linspace(-2, 2, 13))),))
    counts = Counts.of(layout, pa.table({"x": x}), "w").total()
    expected = np.bincount(np.searchsorted(layout.features[0].edges, x[~np.isnan(x)]), minlength=14)  # type: ignore[union-attr]
    assert counts.tolist() == [*expected.tolist(), np.isnan(x).sum()]


@pytest.mark.parametrize("strata", ["none", "hour", "weekday"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_days_and_strata_are_those_of_the_times(strata: Any, shuffled: bool) -> None:
    rng = np.random.default_rng(1)
    times = np.datetime64("2024-02-28T20:00", "us") + np.arange(0, 100, 0.25) * np.timedelta64(3_600_000_000, "us")
    times = rng.permutation(times) if shuffled else times
    x = rng.normal(size=len(times))
    counts = Counts.by_day(LAYOUT, pa.table({"x": x, "c": ["a"] * len(x)}), times, strata)
    assert counts.windows == ["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02", "2024-03-03"]
    days = times.astype("datetime64[D]")
    part = {
        "none": np.zeros(len(x), int),
        "hour": (times - days).astype("timedelta64[h]").astype(int),
        "weekday": np.array([day.item().weekday() for day in days]),
    }[strata]
    for (window, stratum), cells in counts.values.items():
        inside = (days == np.datetime64(window)) & (part == stratum)
        assert (
            cells.tolist()
            == Counts.of(LAYOUT, pa.table({"x": x[inside], "c": ["a"] * inside.sum()}), "w").total().tolist()
        )
    assert counts.rows == len(x)


def test_what_cannot_be_counted_is_named() -> None:
    with pytest.raises(DataError, match="times: expected a time for each of 2 rows"):
        Counts.by_day(LAYOUT, table([(1.0, "a")] * 2), np.array(["2024-01-01", "NaT"], "datetime64[us]"))
    with pytest.raises(DataError, match="column 'x': found string"):
        Counts.of(LAYOUT, pa.table({"x": ["one"], "c": ["a"]}), "w")
    other = Layout((NumericCells("x", (0.0,)),))
    with pytest.raises(DataError, match="is a replica behind"):
        Counts(LAYOUT).merge(Counts(other))
    with pytest.raises(DataError, match="all different, found \\['x', 'x'\\]"):
        Layout((NumericCells("x", ()), CategoryCells("x", ())))


def test_an_absent_column_is_missing_in_every_row() -> None:
    counts = Counts.of(LAYOUT, pa.table({"x": [1.0, 2.0]}), "w").total()
    assert counts.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 2]


def reference_table(n: int = 150) -> pa.Table:
    rng = np.random.default_rng(2)
    return pa.table(
        {
            "price": rng.lognormal(size=n),
            "rooms": rng.integers(1, 5, n),
            "zero": np.where(rng.random(n) < 0.9, 0.0, rng.normal(size=n)),
            "kind": rng.choice(["flat", "house", "boat"], n, p=[0.6, 0.3, 0.1]),
            "sold": pa.array(rng.random(n) < 0.5),
            "at": pa.array(np.full(n, "2024-01-01", "datetime64[us]")),
            "empty": pa.nulls(n, pa.float64()),
        }
    )


def test_cells_are_chosen_by_kind_and_quantile() -> None:
    rows = reference_table()
    layout = layout_of_rows(rows)
    cells = {part.name: part for part in layout.features}
    assert set(cells) == {"price", "rooms", "zero", "kind", "sold"}
    assert cells["kind"].categories == ("flat", "house", "boat") and set(cells["sold"].categories) == {"true", "false"}  # type: ignore[union-attr]
    counts = Counts.of(layout, rows, "w").total()
    inner = counts[: len(cells["price"].labels)][1:-2]
    assert counts[0] == 0 and inner.sum() == 150  # nothing below the least value, nothing above the largest
    assert [round(e) for e in cells["rooms"].edges] == [1, 1, 2, 3, 4]  # type: ignore[union-attr]
    # Small sketches are exact, so the profile leads to the same cells.
    profile = Profile.of(rows, table_codes(rows))
    assert {part.name for part in layout_of_profile(profile).features} == set(cells)
    from_profile = {part.name: part for part in layout_of_profile(profile).features}
    assert from_profile["kind"] == cells["kind"]
    assert from_profile["price"].edges == pytest.approx(cells["price"].edges, rel=0.1)  # type: ignore[union-attr]


def test_many_columns_get_fewer_cells_each_and_too_many_are_refused() -> None:
    def wide(n: int) -> pa.Table:
        rng = np.random.default_rng(3)
        return pa.table({f"x{i}": rng.normal(size=200) for i in range(n)})

    for n in (1, 20, 40, 66):
        assert len(layout_of_rows(wide(n)).splits) <= MAX_SPLITS
    assert len(layout_of_rows(wide(20)).splits) == 320
    with pytest.raises(DataError, match="monitored columns: found 90, about 66 fit"):
        layout_of_rows(wide(90))
    with pytest.raises(DataError, match=r"monitored columns: \['y'\] are not in the reference"):
        layout_of_rows(wide(1), ["y"])


def test_splits_ask_known_values_or_all_rows() -> None:
    counts = Counts.of(LAYOUT, table([(0.2, "a"), (4.0, "zzz"), (None, None), (-1.0, "b")]), "w").total()
    found = {
        (split.feature, split.label): (yes, asked)
        for split, yes, asked in zip(LAYOUT.splits, *map(np.ndarray.tolist, LAYOUT.answers(counts)), strict=True)
    }
    assert found["x", "≤ -1"] == (1, 3) and found["x", "≤ 0.5"] == (2, 3) and found["x", "(missing)"] == (1, 4)
    assert found["c", "a"] == (1, 3) and found["c", "(other)"] == (1, 3) and found["c", "(missing)"] == (1, 4)
    assert Layout.from_dict(json.loads(json.dumps(LAYOUT.to_dict()))) == LAYOUT
