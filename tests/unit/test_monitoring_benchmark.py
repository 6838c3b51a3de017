"""The simulated traffic is what it says, public rules decide as documented, and the report is complete."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.monitoring import SEED, report
from benchmarks.monitoring_lib.cost import memory, states, throughput
from benchmarks.monitoring_lib.drifts import DRIFTS, OURS, OURS_NAIVE, QUIET, SIZES
from benchmarks.monitoring_lib.errors import CASES, NANNYML, _ours, _row, _stream, _three_sigma
from benchmarks.monitoring_lib.rules import NAMES, Peers
from benchmarks.monitoring_lib.streams import COLUMNS, Scenario, Shifts, drawn_counts, reference_of, reference_rows
from raymlops.monitoring import Counts


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return reference_rows(rng, Shifts(rng, QUIET[0]), 28_000)


def test_drawn_counts_are_those_of_drawn_rows(rows: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    layout = reference_of(rows, True).layout
    shift = np.linspace(-0.5, 0.5, COLUMNS)
    values = rng.normal(size=(50_000, COLUMNS)) + shift
    counted = Counts.of(layout, {f"x{i:02d}": 0.0 for i in range(COLUMNS)}, "w")  # one row, for the shape
    counted.values["w", 0] = layout.count(_table(values))[0]
    drawn = drawn_counts(rng, layout, "w", 50_000, shift)
    assert drawn.rows == counted.rows == 50_000
    spread = np.sqrt(2.0 * np.maximum(drawn.total(), 20))
    assert (np.abs(drawn.total() - counted.total()) < 6 * spread).all()


def _table(values: np.ndarray):
    from raymlops.features.rows import Rows

    return Rows({f"x{i:02d}": column for i, column in enumerate(values.T)}, len(values))


def test_effects_of_days_have_their_size_and_are_in_the_reference_too() -> None:
    rng = np.random.default_rng(2)
    shifts = Shifts(rng, Scenario("x", effect=0.1, carried=0.5))
    drawn = np.stack([shifts.next() for _ in range(4000)])
    assert drawn.std() == pytest.approx(0.1, rel=0.05)
    assert np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1] == pytest.approx(0.5, abs=0.06)
    means = reference_rows(rng, Shifts(rng, Scenario("x", effect=0.1)), 28_000).reshape(28, 1000, COLUMNS).mean(axis=1)
    assert means.std() == pytest.approx(np.hypot(0.1, 1000**-0.5), rel=0.1)


def test_public_rules_decide_as_documented(rows: np.ndarray) -> None:
    peers, rng = Peers(rows), np.random.default_rng(3)
    window = rng.normal(size=(5000, COLUMNS))
    quiet = peers.alarms(window)
    assert list(quiet) == list(NAMES) and not any(quiet[name] for name in NAMES[:5])
    moved = window.copy()
    moved[:, 0] += 0.25
    found = peers.alarms(moved)
    assert [found[name] for name in NAMES] == [False, True, True, False, False, True, True]
    half = window + 0.15 * (np.arange(COLUMNS) < 10)
    assert peers.alarms(half)[NAMES[0]]
    assert peers._wasserstein(0, np.sort(moved[:, 0])) == pytest.approx(0.25, abs=0.03)
    assert peers._psi(0, np.sort(moved[:, 0])) == pytest.approx(0.25**2, abs=0.03)


def test_error_rules_alarm_after_the_rise_only() -> None:
    stream = _stream(np.random.default_rng(4), CASES[2], 70)
    assert len(stream) == 100_000 and stream[:30_000].mean() == pytest.approx(0.1, abs=0.01)
    assert stream[-20_000:].mean() == pytest.approx(0.2, abs=0.01)
    ours, sigma = _ours(stream, 30), _three_sigma(stream)
    assert min(ours) in (51, 52) and 50 in sigma
    row = _row(CASES[2], NANNYML, [[50, 51], [3, 60]], 70)
    assert (row["median"], row["false"], row["days"]) == (6.0, 1, 100)


def test_the_report_has_every_table_and_target() -> None:
    rules = (OURS, *NAMES)
    quiet = [{"scenario": s.name, "rows": n, "rule": r, "alarms": 0, "windows": 10, "per_thousand": 0.0}
             for s in QUIET for n in SIZES for r in (*rules, OURS_NAIVE)]  # fmt: skip
    delays = [{"scenario": s.name, "drift": d, "rows": n, "rule": r, "runs": 3, "median": 1.0, "found": 1.0}
              for s, d in DRIFTS for n in SIZES for r in rules]  # fmt: skip
    errors = [_row(case, rule, [[50]], 60) for case in CASES for rule in (OURS, NANNYML)]
    costs = {"throughput": {"mixed": throughput(2, 2000, 1)}, "memory": [memory(1000)], "states": states(2, 20_000)}
    raw = {"quiet": quiet, "delays": delays, "errors": errors, "river_missing": "no network", "seed": SEED, **costs}
    made = report(raw, quick=True)
    assert len(made.tables) == 6 and len(made.targets) == 7
    size = next(target for target in made.targets if "KB" in target.claim)
    assert size.met and 10 < size.value < 50
    assert "river is not shown: no network" in made.markdown()
