"""Quality in production, distances for display, and pictures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.data.contract import ColumnContract, Contract
from raymlops.monitoring import (
    Counts,
    DriftDetector,
    Layout,
    NumericCells,
    QualityCounts,
    QualityLimits,
    Reference,
    distances,
    layout_of_rows,
    quality_violations,
    volume_limits,
)
from raymlops.monitoring.display import kolmogorov_p, kolmogorov_smirnov, population_stability, wasserstein
from raymlops.monitoring.pictures import heatmap, moved_picture

CONTRACT = Contract(
    columns={
        "age": ColumnContract(kind="number", min=0, max=120, max_null_fraction=0.05),
        "city": ColumnContract(kind="string", categories=["Rome", "Oslo"]),
        "plan": ColumnContract(kind="string", categories=["a", "b"], closed=True),
        "id": ColumnContract(kind="integer", nullable=False),
    }
)
COLUMNS = ["age", "city", "plan", "id"]
NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
LIMITS = QualityLimits(max_share=0.01, max_age=timedelta(hours=1), rows=(50, 500))


def good(n: int = 100) -> dict[str, list[Any]]:
    return {"age": [30.0] * n, "city": ["Rome"] * n, "plan": ["a"] * n, "id": list(range(n))}


def judge(columns: dict[str, Any], newest: datetime | None = NOW) -> dict[tuple[str, str], str]:
    counts = QualityCounts.of(CONTRACT, pa.table(columns), COLUMNS, newest)
    return {(v.column, v.check): str(v) for v in quality_violations(counts, CONTRACT, LIMITS, NOW)}


def test_good_rows_are_good_and_a_single_bad_one_is_no_news() -> None:
    assert judge(good()) == {}
    assert judge(good() | {"age": [-1.0] + [30.0] * 99}) == {}


@pytest.mark.parametrize(
    ("change", "at", "words"),
    [
        ({"age": [-1.0] * 5 + [30.0] * 95}, ("age", "min"), "allowed >= 0 in all but 0.01 of rows, observed 5 of "),
        ({"age": [130.0] * 5 + [30.0] * 95}, ("age", "max"), "allowed <= 120"),
        ({"age": [None] * 6 + [30.0] * 94}, ("age", "null"), "missing in at most 0.05 of rows, observed 6 of"),
        ({"age": ["old"] * 100}, ("age", "schema"), "allowed kind number, observed 100 of 100"),
        ({"city": ["Bonn"] * 9 + ["Lima"] + ["Rome"] * 90}, ("city", "unseen"), "10 of 100 rows (10.00%), such as"),
        ({"plan": ["z"] * 2 + ["a"] * 98}, ("plan", "category"), "one of a, b"),
        ({"id": [None, None, *range(98)]}, ("id", "missing"), "no missing values"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_share(change: dict[str, Any], at: tuple[str, str], words: str) -> None:
    found = judge(good() | change)
    assert list(found) == [at] and words in found[at]


def test_absent_columns_volume_and_age() -> None:
    columns = {name: values for name, values in good().items() if name != "city"}
    assert "allowed the column" in judge(columns)["city", "absent"]
    assert "50 to 500 rows, observed 20 rows" in judge(good(20))["(rows)", "volume"]
    assert "2:00:00 old" in judge(good(), NOW - timedelta(hours=2))["(rows)", "freshness"]
    assert "no row" in judge(good(0), None)["(rows)", "freshness"]
    assert volume_limits([1000, 800, 1500]) == (400, 3000)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([-1.0, 5.0, None]), st.sampled_from(["Rome", "x", "y", None])), max_size=30),
       st.integers(0, 30))  # fmt: skip
def test_counts_of_replicas_add_up(rows: list[Any], cut: int) -> None:
    def table(part: list[Any]) -> pa.Table:
        ages, cities = pa.array([r[0] for r in part], pa.float64()), pa.array([r[1] for r in part], pa.string())
        return pa.table({"age": ages, "city": cities})

    def count(part: list[Any], newest: datetime) -> QualityCounts:
        return QualityCounts.of(CONTRACT, table(part), ["age", "city"], newest)

    whole = count(rows, NOW)
    merged = count(rows[:cut], NOW - timedelta(1)).merge(
        QualityCounts.from_dict(json.loads(json.dumps(count(rows[cut:], NOW).to_dict())))
    )
    assert merged.to_dict() == whole.to_dict()


def test_distances_agree_with_their_definitions_on_the_cells() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20_000), rng.normal(0.3, 1, 20_000)
    table = pa.table({"x": x})
    layout = layout_of_rows(table)
    before, after = Counts.of(layout, table, "w").total(), Counts.of(layout, pa.table({"x": y}), "w").total()
    found = distances(layout.features[0], before, after)
    assert found["psi"] == pytest.approx(0.3**2, abs=0.02)  # Jeffreys' divergence of two unit normals is δ²
    assert found["ks"] == pytest.approx(0.1192, abs=0.012) and found["ks_p"] < 1e-9
    inside = np.clip(np.sort(y), x.min(), x.max())
    assert found["wasserstein"] == pytest.approx(np.abs(np.sort(x) - inside).mean(), rel=0.05)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=9))
def test_distances_are_finite_and_vanish_between_equals(cells: list[tuple[int, int]]) -> None:
    before, after = np.array(cells).T
    if before.sum() and after.sum():
        assert 0.0 <= kolmogorov_smirnov(before, after) <= 1.0 + 1e-12
        assert np.isfinite(population_stability(before, after)) and population_stability(before, after) >= -1e-12
        edges = list(range(len(cells) - 1))
        assert wasserstein(edges, before, after) >= 0.0
        assert population_stability(before, before) == kolmogorov_smirnov(before, before) == 0.0
        assert wasserstein(edges, before, before) == 0.0


def test_kolmogorov_p_values_are_those_of_the_tables() -> None:
    n = 2_000_000
    for critical, p in ((1.2238, 0.1), (1.3581, 0.05), (1.6276, 0.01)):
        assert kolmogorov_p(critical * np.sqrt(2 / n), n, n) == pytest.approx(p, rel=0.01)
    assert kolmogorov_p(0.0, 10, 10) == 1.0


def test_pictures_show_the_feature_its_cells_and_the_alarm() -> None:
    rng = np.random.default_rng(1)
    table = pa.table({"width_$": rng.normal(size=20_000), "kind": rng.choice(["a", "b"], 20_000)})
    layout = layout_of_rows(table)
    reference = Reference.of_counts(Counts.of(layout, table, "2024"), independent=True)
    detector, findings = DriftDetector(reference), []
    for day in range(6):
        now = pa.table({"width_$": rng.normal(0.5 * (day > 3), 1, 2000), "kind": rng.choice(["a", "b"], 2000)})
        findings += detector.update(Counts.of(layout, now, f"2025-01-0{day + 1}"))
    moved = next(finding for finding in findings if finding.alarm).moved[0]
    expected = {
        moved_picture(moved): ["width_$ since 2025-01-05", "(missing)", "reference"],
        heatmap(findings): ["width_$", "kind", "2025-01-01", "evidence, powers of ten"],
    }
    for drawn, words in expected.items():
        text = "".join(ET.fromstring(drawn).itertext())
        assert drawn.startswith("<svg") and all(word in text for word in words)
    with pytest.raises(ValueError, match="expected at least one"):
        heatmap([])


def test_a_feature_without_edges_can_be_counted() -> None:
    layout = Layout((NumericCells("x", ()),))
    assert layout.features[0].labels == ("any value", "(missing)")
    assert Counts.of(layout, pa.table({"x": [1.0, None]}), "w").total().tolist() == [1, 1]
