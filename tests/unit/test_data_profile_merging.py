"""Profiles: blocks merged in any order say the same as one look at everything."""

from __future__ import annotations

import itertools
import json
import math
from datetime import datetime
from typing import Any

import datasketches as ds
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.data.hashing import table_codes
from raymlops.data.profile import ColumnProfile, Profile
from raymlops.errors import IntegrityError


def profile_of(table: pa.Table) -> Profile:
    return Profile.of(table, table_codes(table))


def column(values: Any, kind: pa.DataType | None = None) -> ColumnProfile:
    return profile_of(pa.table({"x": pa.array(values, kind)})).columns["x"]


numbers = st.none() | st.floats(-1e100, 1e100) | st.sampled_from([math.nan, math.inf, -math.inf])
cells = st.tuples(
    numbers,
    st.none() | st.integers(-(2**40), 2**40),
    st.none() | st.sampled_from(["a", "b", "ç", ""]) | st.text(st.characters(codec="utf-8"), max_size=3),
    st.none() | st.booleans(),
    st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
)


def table_of(rows: list[Any]) -> pa.Table:
    kinds = {"a": pa.float64(), "b": pa.int64(), "c": pa.string(), "d": pa.bool_(), "e": pa.timestamp("us")}
    return pa.table({name: pa.array([row[i] for row in rows], k) for i, (name, k) in enumerate(kinds.items())})


@settings(max_examples=100, deadline=None)
@given(st.lists(cells, min_size=1, max_size=30), st.lists(st.integers(0, 30), max_size=3), st.randoms())
def test_parts_merge_to_the_whole(rows: list[Any], cuts: list[int], random: Any) -> None:
    whole = profile_of(table_of(rows))
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [profile_of(table_of(rows[a:b])) for a, b in itertools.pairwise(edges)]
    random.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.rows == len(rows)
    for name, expected in whole.columns.items():
        found = merged.columns[name]
        for fact in ("kind", "rows", "nulls", "minimum", "maximum", "fractions", "distinct"):
            assert getattr(found, fact) == getattr(expected, fact), (name, fact)
        assert found.counted_values() == expected.counted_values()
        assert found.mean == pytest.approx(expected.mean, rel=1e-9, abs=1e-9 * scale_of(found))
        if expected.variance is not None:
            assert found.variance == pytest.approx(expected.variance, rel=1e-9, abs=1e-9 * scale_of(found) ** 2)
        assert (found.variance is None) == (expected.variance is None)


def scale_of(profile: ColumnProfile) -> float:
    bounds = [abs(v) for v in (profile.minimum, profile.maximum) if isinstance(v, float)]
    return max(bounds, default=0.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=40))
def test_numbers_are_described_as_numpy_would(values: list[float | None]) -> None:
    found = column(values, pa.float64())
    known = np.array([v for v in values if v is not None and math.isfinite(v)])
    assert (found.rows, found.nulls) == (len(values), len(values) - len(known))
    if known.size:
        assert (found.minimum, found.maximum) == (known.min(), known.max())
        assert found.mean == pytest.approx(known.mean(), rel=1e-9, abs=1e-9 * scale_of(found))
        assert found.variance == pytest.approx(known.var(), rel=1e-6, abs=1e-9 * scale_of(found) ** 2)
        assert found.distinct == len(np.unique(known))
        assert found.fractions == int((known % 1 != 0).sum())
    else:
        assert found.minimum is found.maximum is found.variance is None and found.quantiles() == {}


def test_variance_of_close_numbers_far_from_zero() -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=20_000)
    parts = [column(values[i::4]) for i in range(4)]
    merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    assert merged.variance == pytest.approx(values.var(), rel=1e-6)


def test_huge_numbers_do_not_spoil_a_profile() -> None:
    halves = [column([1.7e308, 1.0]), column([-1.7e308, 2.0])]
    merged = halves[0].merge(halves[1])
    assert (merged.minimum, merged.maximum, merged.known) == (-1.7e308, 1.7e308, 4)
    assert math.isfinite(merged.mean)
    text, sketches = Profile({"x": merged}, 4).to_bytes()
    assert "Infinity" not in text.decode() and "NaN" not in text.decode()  # neither is JSON
    assert Profile.from_bytes(text, sketches).columns["x"].known == 4


@pytest.mark.parametrize("blocks", [1, 7])
def test_quantiles_lie_within_the_rank_error_of_the_sketch(blocks: int) -> None:
    values = np.random.default_rng(1).lognormal(0, 2, 60_000)
    parts = [column(part) for part in np.array_split(values, blocks)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    ordered = np.sort(values)
    for q, value in merged.quantiles().items():
        assert abs(np.searchsorted(ordered, value) / len(values) - float(q)) < 0.03, q


@pytest.mark.parametrize("distinct", [10, 1000, 50_000])
@pytest.mark.parametrize("kind", ["integer", "number", "string"])
def test_distinct_counts_are_within_five_percent(distinct: int, kind: str) -> None:
    codes = np.random.default_rng(distinct).integers(0, distinct, 60_000)
    values: Any = {"integer": codes, "number": codes / 7, "string": [f"v{c}" for c in codes]}[kind]
    parts = [column(values[i::3]) for i in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.distinct == pytest.approx(len(np.unique(codes)), rel=0.05)


def test_the_most_frequent_values_are_found_among_very_many() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(10_000, 10**9, 40_000), np.repeat([1, 2, 3], [5000, 4000, 3000])])
    rng.shuffle(values)
    parts = [column(part) for part in np.array_split(values, 4)]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    top = merged.counted_values()[:3]
    assert [value for value, _ in top] == ["1", "2", "3"]
    assert [count for _, count in top] == pytest.approx([5000, 4000, 3000], abs=150)


def test_kinds_widen_and_missing_blocks_say_nothing() -> None:
    assert column([1, 2]).merge(column([1.5])).kind == "number"
    gap = column([None, None])
    assert gap.kind == "null"
    both = gap.merge(column(["a"]))
    assert (both.kind, both.rows, both.nulls, both.distinct) == ("string", 3, 2, 1)


def test_what_people_read() -> None:
    table = pa.table(
        {
            "price": [1.0, 2.0, None, 4.0],
            "word": ["a", "b", "a", None],
            "flag": [True, True, False, None],
            "at": pa.array([datetime(2024, 1, 2), datetime(2024, 1, 1), None, None], pa.timestamp("us")),
            "nothing": pa.nulls(4),
            "image": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8, np.float32)), 2),
        }
    )
    shown = json.loads(json.dumps(profile_of(table).to_dict()))
    assert shown["rows"] == 4
    price, word, at = (shown["columns"][name] for name in ("price", "word", "at"))
    assert (price["min"], price["max"], price["nulls"], price["distinct"]) == (1.0, 4.0, 1, 3)
    assert price["mean"] == pytest.approx(7 / 3) and price["variance"] == pytest.approx(14 / 9)
    assert price["quantiles"]["0.5"] == 2.0
    assert word["top"] == [["a", 2], ["b", 1]] and word["mean"] is None and word["quantiles"] == {}
    assert (at["min"], at["max"]) == ("2024-01-01T00:00:00", "2024-01-02T00:00:00")
    assert shown["columns"]["flag"]["top"] == [["true", 2], ["false", 1]]
    assert shown["columns"]["nothing"] | {"top": []} == shown["columns"]["nothing"]
    assert (shown["columns"]["nothing"]["nulls"], shown["columns"]["image"]["kind"]) == (4, "tensor")


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=1, max_size=20), st.lists(cells, min_size=1, max_size=20))
def test_stored_profiles_come_back_and_can_be_merged_further(rows: list[Any], more: list[Any]) -> None:
    profile = profile_of(table_of(rows))
    text, sketches = profile.to_bytes()
    assert b"pickle" not in sketches and json.loads(text)["rows"] == len(rows)
    back = Profile.from_bytes(text, sketches)
    assert back.to_dict() == profile.to_dict()
    added = back.merge(profile_of(table_of(more))).to_dict()
    expected = profile.merge(profile_of(table_of(more))).to_dict()
    for name in expected["columns"]:
        for fact in ("rows", "nulls", "min", "max", "mean", "variance", "distinct", "top"):
            assert added["columns"][name][fact] == expected["columns"][name][fact]


def test_sketches_are_in_the_portable_format() -> None:
    text, sketches = profile_of(pa.table({"x": [1.0, 2.0, 3.0]})).to_bytes()
    at, length = json.loads(text)["columns"]["x"]["sketches"]["kll"]
    assert ds.kll_doubles_sketch.deserialize(sketches[at : at + length]).get_max_value() == 3.0


def stored() -> tuple[bytes, bytes]:
    return profile_of(pa.table({"x": np.arange(2000) / 3, "w": [f"v{i % 5}" for i in range(2000)]})).to_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text, sketches: (text[: len(text) // 2], sketches),
        lambda text, sketches: (b"", sketches),
        lambda text, sketches: (b"[]", sketches),
        lambda text, sketches: (b"{}", sketches),
        lambda text, sketches: (b"\xff\xfe", sketches),
        lambda text, sketches: (text, b""),
        lambda text, sketches: (text, sketches[: len(sketches) // 2]),
        lambda text, sketches: (text, bytes(len(sketches))),
        lambda text, sketches: (text, sketches[::-1]),
        lambda text, sketches: (text.replace(b'"m2"', b'"m3"'), sketches),
        lambda text, sketches: (text.replace(b'"kll": [', b'"kll": [1, '), sketches),
    ],
)
def test_a_damaged_profile_is_refused(damage: Any) -> None:
    with pytest.raises(IntegrityError, match="profile: cannot be read"):
        Profile.from_bytes(*damage(*stored()))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_damage_gets_through_as_another_error(data: st.DataObject) -> None:
    text, sketches = stored()
    spoiled = bytearray(sketches)
    for at in data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=4)):
        spoiled[at] = data.draw(st.integers(0, 255))
    try:
        Profile.from_bytes(text, bytes(spoiled))
    except IntegrityError as error:
        assert "profile: cannot be read" in str(error)
