"""Runs side by side: flattening, profiles by column, and their lines of text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raymlops.lineage_text import collected_lines, diff_lines, reproduction_lines, row_lines, shown, size
from raymlops.registry.comparison import Row, differences, flat, profile_rows, side_by_side
from raymlops.registry.diffing import RunDiff
from raymlops.retraining.collection import Collected
from raymlops.retraining.reproduction import Reproduction
from raymlops.retraining.retention import Item, Plan

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
KEYS = st.text("abc", min_size=1, max_size=3)
TREES = st.dictionaries(KEYS, st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4)


def rebuilt(flattened: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flattened.items():
        *parents, leaf = path.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


@given(TREES)
def test_flattening_loses_nothing(tree: dict[str, Any]) -> None:
    assert rebuilt(flat(tree)) == tree
    assert differences(side_by_side(flat(tree), flat(tree))) == []


@given(TREES, TREES)
def test_exactly_what_differs_is_found_from_both_sides(one: dict[str, Any], other: dict[str, Any]) -> None:
    left, right = flat(one), flat(other)
    found = differences(side_by_side(left, right))
    keys = {k for k in {**left, **right} if left.get(k) != right.get(k)}
    assert {row.key for row in found} == keys
    mirrored = differences(side_by_side(right, left))
    assert {(r.key, repr(r.left), repr(r.right)) for r in found} == {
        (r.key, repr(r.right), repr(r.left)) for r in mirrored
    }


def column(kind: str, rows: int = 100, nulls: int = 0, **more: Any) -> dict[str, Any]:
    plain = {"min": None, "max": None, "mean": None, "quantiles": {}, "top": [], "distinct": 3}
    return {"kind": kind, "rows": rows, "nulls": nulls, **plain, **more}


def test_profiles_by_column() -> None:
    left = {
        "rows": 100,
        "columns": {
            "x": column("number", mean=1.5, min=0.0, max=3.0, quantiles={"0.05": 0.1, "0.5": 1.5, "0.95": 2.9}),
            "city": column("string", nulls=10, top=[["a", 60], ["b", 20], ["c", 10]]),
            "old": column("boolean"),
        },
    }
    right = {
        "rows": 200,
        "columns": {
            "x": column("number", 200, mean=2.5, min=0.0, max=3.0, quantiles={"0.05": 0.1, "0.5": 2.0, "0.95": 2.9}),
            "city": column("string", 200, nulls=10, top=[["a", 60], ["b", 20], ["d", 10]]),
            "new": column("integer", 200),
        },
    }
    found = {row.key: (row.left, row.right) for row in differences(profile_rows(left, right))}
    assert found == {
        "rows": (100, 200),
        "x mean": (1.5, 2.5),
        "x q0.5": (1.5, 2.0),
        "city missing": (0.1, 0.05),
        "city values only here": (["c"], ["d"]),
        "old": ("boolean", None),
        "new": (None, "integer"),
    }
    left["columns"]["city"]["distinct"] = 500
    assert "city frequent values only here" in {row.key for row in profile_rows(left, right)}


def test_a_comparison_as_text() -> None:
    rows = [Row("seed", 1, 2), Row("train.learning_rate", 0.003, 0.01), Row("model.kind", None, "mlp")]
    found = RunDiff("a" * 32, "b" * 32, {"config": rows, "data": []}, ["run b: has recorded no winner.json"])
    text = list(diff_lines(found))
    assert text[2:] == [
        "",
        "config",
        "  seed                 1      → 2",
        "  train.learning_rate  0.003  → 0.01",
        "  model.kind           -      → mlp",
        "",
        "data: the same",
        "note: run b: has recorded no winner.json",
    ]
    assert list(row_lines([Row("same", "x", "x")])) == ["  same  x  = x"]
    assert list(row_lines([])) == []


def test_values_and_sizes_fit_on_a_line() -> None:
    assert shown("0123456789abcdef" * 4) == "0123456789ab"
    assert shown([1, "ü"]) == '[1, "ü"]'
    assert len(shown("long " * 100)) == 60
    assert [size(n) for n in (0, 999, 1000, 2_500_000, 3e13)] == ["0 B", "999 B", "1.0 kB", "2.5 MB", "30.0 TB"]


def test_a_reproduction_as_text() -> None:
    done = Reproduction("a" * 32, "small", "1" * 64, "1" * 64, [Row("config seed", 1, 2)], [Row("cpus", 2, 8)], {})
    assert done.equal and not done.exact
    assert list(reproduction_lines(done)) == [
        "differs from what was recorded:",
        "  config seed  1  → 2",
        "another machine:",
        "  cpus  2  → 8",
        "run aaaaaaaaaaaa of small: weights 111111111111 again, equal to the last bit",
    ]
    for found, words in (("2" * 64, "NOT equal"), (None, "NOT trained again")):
        assert words in list(reproduction_lines(replace(done, weights_sha256=found)))[-1]


def test_what_was_removed_as_text() -> None:
    items = [Item(f"runs/small/{n}/tune", "run", 1500 * n, 0.0) for n in (1, 2, 3)]
    kept = {"a": "it is too new", "b": "it is too new", "c": "models:/small/1 needs it"}
    found = Collected(Plan(tuple(items), kept), items[:1], items[1:2], items[2:])
    assert list(collected_lines(found, dry_run=False)) == [
        "    1.5 kB  run         runs/small/1/tune",
        "    3.0 kB  run         runs/small/2/tune  stays: came into use meanwhile",
        "    4.5 kB  run         runs/small/3/tune  FAILED: is still there",
        "1.5 kB in 1 place(s) removed",
        "  2 kept: it is too new",
        "  1 kept: models:/small/1 needs it",
    ]
