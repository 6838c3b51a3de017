"""Drift: bets are fair whatever the tolerated truth is; alarms are rare without drift and say what moved with it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.errors import ConfigError, DataError, IntegrityError
from raymlops.monitoring import Counts, DriftDetector, DriftFinding, Layout, Reference, layout_of_rows
from raymlops.monitoring.bets import STEPS, SplitBets
from raymlops.monitoring.detector import ShiryaevRoberts

DAYS, PER_DAY = 30, 700


def frame(n: int, seed: int, shift: float = 0.0, **more: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "age": rng.normal(40 + 10 * shift, 10, n),
        "income": rng.lognormal(10, 0.5, n),
        "rooms": rng.integers(1, 6, n),
        "city": rng.choice(["Rome", "Oslo", "Lima", "Bonn"], n, p=[0.5, 0.3, 0.15, 0.05]),
        "prediction": rng.normal(size=n),
    }
    return pa.table(columns | more)


def day_name(number: int) -> str:
    return str(np.datetime64("2025-01-01") + number)


def days(n: int, count: int = DAYS) -> Any:
    return np.datetime64("2024-01-01", "us") + (np.arange(n) * count // n).astype("timedelta64[D]")


@pytest.fixture(scope="module")
def reference() -> Reference:
    table = frame(DAYS * PER_DAY, 0)
    return Reference.of_counts(Counts.by_day(layout_of_rows(table), table, days(table.num_rows)))


def feed(detector: DriftDetector, *tables: pa.Table, start: int = 0) -> list[DriftFinding]:
    layout = detector.reference.layout
    return [
        finding
        for number, table in enumerate(tables, start)
        for finding in detector.update(Counts.of(layout, table, day_name(number)))
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_tolerated_share_makes_a_bet_profitable(reference: Reference, data: Any) -> None:
    """E[E] <= 1, summed over all outcomes of n rows that are independent."""
    bets, (low, high) = SplitBets.of(reference), reference.bounds
    split = data.draw(st.integers(0, len(reference.layout.splits) - 1))
    n, at = data.draw(st.integers(1, 60)), data.draw(st.floats(0, 1))
    p = float(low[0, split] + at * (high[0, split] - low[0, split]))
    k = np.arange(n + 1)[:, None, None]
    log_e = k * bets.yes[0, split] + (n - k) * bets.no[0, split]
    chance = np.array([math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)])
    mean = (chance[:, None, None] * np.exp(log_e)).sum(axis=0)
    assert (mean <= 1.0 + 1e-9).all()


@pytest.mark.parametrize("p", [0.3, 0.34])
def test_false_alarms_are_as_rare_as_stated_at_the_edge_of_the_null(p: float) -> None:
    """Independent coins with the very share that the bets start from: the mean time to an alarm is A or more."""
    rng, threshold, runs = np.random.default_rng(5), 15.0, 400
    odds = 0.3 / 0.7 * np.exp(STEPS)
    steps = odds / (1 + odds)
    times = []
    for _ in range(runs):
        detector = ShiryaevRoberts(np.ones(len(STEPS)), threshold)
        time, alarm = 0, False
        while not alarm and time < 2000:
            time += 1
            k = rng.binomial(30, p)
            detector.log_m = detector.after(k * np.log(steps / 0.3) + (30 - k) * np.log((1 - steps) / 0.7))
            alarm = detector.statistic(detector.log_m) >= detector.log_threshold
        times.append(time)
    mean, error = np.mean(times), np.std(times) / math.sqrt(runs)
    assert mean - 2 * error >= threshold if p == 0.3 else mean < threshold


def test_quiet_without_drift_and_under_immaterial_changes(reference: Reference) -> None:
    rng = np.random.default_rng(6)
    detector = DriftDetector(reference)
    found = feed(detector, *(frame(PER_DAY, 100 + i, shift=0.02 * rng.normal()) for i in range(150)))
    assert len(found) == 150 and not any(finding.alarm for finding in found)
    assert max(finding.statistic for finding in found) < math.log(1000)


def test_an_alarm_says_what_moved_where_how_far_and_since_when(reference: Reference) -> None:
    detector = DriftDetector(reference)
    quiet = feed(detector, *(frame(PER_DAY, i) for i in range(10)))
    found = feed(detector, *(frame(PER_DAY, 50 + i, shift=0.6) for i in range(10)), start=10)
    at = next(i for i, finding in enumerate(found) if finding.alarm)
    assert not any(finding.alarm for finding in quiet) and at <= 3
    moved = found[at].moved
    assert [m.feature for m in moved] == ["age"] and "2025-01-10" <= moved[0].since <= "2025-01-12"
    assert moved[0].shift == pytest.approx(0.6, abs=0.08) and 0.15 < moved[0].change < 0.35
    assert moved[0].found < moved[0].expected  # fewer rows below the edge
    assert sum(cell.found for cell in moved[0].cells) == pytest.approx(1) and len(moved[0].cells) == 17
    assert max(found[at].evidence, key=found[at].evidence.__getitem__) == "age"
    assert "age: ≤ " in str(moved[0]) and " σ, since " in str(moved[0]) and moved[0].since in str(moved[0])
    later = next(finding for finding in found[at + 1 :] if finding.alarm)
    assert later.moved[0].since == found[at + 1].window  # it started afresh


@pytest.mark.parametrize(
    ("change", "feature", "split"),
    [
        ({"city": ["Rome"] * 350 + ["Oslo"] * 210 + ["Lima"] * 105 + ["Paris"] * 35}, "city", "(other)"),
        ({"rooms": pa.array([None if i < 70 else i % 5 + 1 for i in range(PER_DAY)])}, "rooms", "(missing)"),
        ({"rooms": [1, 2, 3, 4, 5, 3, 1] * 60 + [1, 2, 3, 4, 5, 6, 4] * 40}, "rooms", "≤ 5"),
    ],
    ids=["unseen category", "missing values", "beyond the range"],
)  # fmt: skip
def test_other_parts_of_a_range_are_named_too(
    reference: Reference, change: dict[str, Any], feature: str, split: str
) -> None:
    found = feed(DriftDetector(reference), *(frame(PER_DAY, i, **change) for i in range(5)))
    alarm = next(finding for finding in found if finding.alarm)
    assert alarm.moved[0].feature == feature and alarm.moved[0].split == split


def test_an_absent_column_is_drift(reference: Reference) -> None:
    found = feed(DriftDetector(reference), *(frame(PER_DAY, day).drop_columns(["rooms"]) for day in (1, 2)))
    assert [finding.alarm for finding in found] == [False, True]
    assert found[1].moved[0].feature == "rooms" and found[1].moved[0].found == 1.0


def test_one_odd_day_is_no_drift_and_two_are() -> None:
    table = frame(DAYS * PER_DAY, 0)
    counts = Counts.by_day(layout_of_rows(table), table, days(table.num_rows))
    odd, usual = frame(PER_DAY, 1, shift=3.0), [frame(PER_DAY, 2 + day) for day in range(20)]
    detector = DriftDetector(Reference.of_counts(counts))
    assert not any(finding.alarm for finding in feed(detector, *usual, odd, *usual))
    assert feed(detector, odd, odd, start=100)[-1].alarm
    # Rows that are independent need no second window.
    assert feed(DriftDetector(Reference.of_counts(counts, independent=True)), odd)[0].alarm


def test_a_day_may_come_in_pieces_and_from_several_replicas(reference: Reference) -> None:
    tables = [frame(PER_DAY, i, shift=0.15 * (i > 5)) for i in range(12)]
    whole, pieces = DriftDetector(reference), DriftDetector(reference)
    for number, table in enumerate(tables):
        judged = feed(whole, table, start=number)[-1]
        for start in (0, 300, 500):
            last = feed(pieces, table.slice(start, min(200 + 100 * (start == 0), 300)), start=number)
        assert last[-1].statistic == pytest.approx(judged.statistic, abs=1e-5) and last[-1].alarm == judged.alarm
    assert whole.to_json() == pieces.to_json()


def test_late_rows_are_counted_and_change_nothing(reference: Reference) -> None:
    detector = DriftDetector(reference)
    feed(detector, frame(PER_DAY, 1), frame(PER_DAY, 2))
    before = json.loads(detector.to_json())
    assert feed(detector, frame(40, 3, shift=5.0)) == []
    assert json.loads(detector.to_json()) == before | {"late_rows": 40}
    alarm = feed(detector, frame(PER_DAY, 4, shift=2.0), frame(PER_DAY, 5, shift=2.0), start=2)
    assert alarm[1].alarm and feed(detector, frame(60, 6, shift=2.0), start=3) == []  # the day has had its say
    assert detector.late_rows == 100


def test_a_restored_detector_goes_on_as_if_nothing_had_happened(reference: Reference) -> None:
    tables = [frame(PER_DAY, i, shift=0.2 * (i > 4)) for i in range(16)]
    straight, restored = DriftDetector(reference, 300), DriftDetector(reference, 300)
    seen = 0
    for number, table in enumerate(tables):
        expected = feed(straight, table, start=number)
        restored = DriftDetector.from_json(restored.to_json(), Reference.from_json(reference.to_json()))
        assert feed(restored, table, start=number) == expected
        seen += expected[0].alarm
    assert seen and restored.to_json() == straight.to_json()
    assert len(restored.to_json()) + len(reference.to_json()) < 20_000


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_state_is_an_integrity_error(reference: Reference, data: Any) -> None:
    content = json.loads(DriftDetector(reference).to_json())
    key = data.draw(st.sampled_from(["reference", "log_m", "open", "since", "mean_windows", "late_rows"]))
    content[key] = data.draw(st.none() | st.text(max_size=4) | st.just("0") | st.lists(st.integers(), max_size=2))
    with pytest.raises(IntegrityError, match="drift state: cannot be read"):
        DriftDetector.from_json(json.dumps(content), reference)


def test_what_does_not_belong_together_is_refused(reference: Reference) -> None:
    detector = DriftDetector(reference)
    other = frame(500, 1).select(["age"])
    with pytest.raises(DataError, match="is a replica behind"):
        detector.update(Counts.of(layout_of_rows(other), other, "w"))
    with pytest.raises(DataError, match="found stratum 3, expected strata 'none'"):
        detector.update(Counts.of(reference.layout, frame(5, 1), "2025-01-01", stratum=3))
    with pytest.raises(DataError, match=r"window: expected a day such as 2025-01-31.*found '2025-01-01T10'"):
        detector.update(Counts.of(reference.layout, frame(5, 1), "2025-01-01T10"))
    with pytest.raises(ConfigError, match=r"mean_windows: expected a number of windows above 1, found 0\.5"):
        DriftDetector(reference, 0.5)


def test_days_that_differ_need_the_correlation_of_their_rows() -> None:
    """Day effects of 0.1 σ: quiet with the estimated correlation, full of alarms when rows are called independent."""

    def day(rng: Any, n: int) -> dict[str, Any]:
        return {f"x{i}": rng.normal(0.1 * rng.normal(), 1, n) for i in range(5)}

    rng = np.random.default_rng(7)
    parts = [day(rng, 2000) for _ in range(28)]
    table = pa.table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    counts = Counts.by_day(layout_of_rows(table), table, days(table.num_rows, 28))
    careful = DriftDetector(Reference.of_counts(counts))
    naive = DriftDetector(Reference.of_counts(counts, independent=True))
    tables = [pa.table(day(rng, 2000)) for _ in range(60)]
    assert sum(finding.alarm for finding in feed(careful, *tables)) == 0
    assert sum(finding.alarm for finding in feed(naive, *tables)) >= 3


def test_strata_make_a_daily_cycle_normal() -> None:
    def hours(seed: int, count: int, swapped: bool = False) -> tuple[pa.Table, Any]:
        rng = np.random.default_rng(seed)
        clock = np.datetime64("2024-01-01", "us") + np.arange(count * 240) * np.timedelta64(360_000_000, "us")
        hour = (np.arange(count * 240) // 10) % 24
        night = (hour < 6) ^ swapped
        return pa.table({"x": rng.normal(2.0 * night, 1)}), clock

    table, clock = hours(1, 40)
    made = Reference.of_counts(Counts.by_day(layout_of_rows(table), table, clock, "hour"), "hour")
    detector = DriftDetector(made)
    quiet = detector.update(Counts.by_day(made.layout, *hours(2, 3), "hour"))
    assert len(quiet) == 3 and not any(finding.alarm for finding in quiet)
    # Exchanging day and night leaves the share of the six hours at 6 of 24 only for the hours, not for their values.
    table, clock = hours(3, 5, swapped=True)
    found = detector.update(Counts.by_day(made.layout, table, clock + np.timedelta64(10, "D"), "hour"))
    assert any(finding.alarm for finding in found)
    again = DriftDetector.from_json(detector.to_json(), made)
    assert again.to_json() == detector.to_json()


def test_an_odd_day_does_not_date_a_change_that_comes_later(reference: Reference) -> None:
    detector = DriftDetector(reference)
    odd, usual = frame(PER_DAY, 1, shift=4.0), [frame(PER_DAY, 2 + day) for day in range(30)]
    quiet = feed(detector, *usual[:5], odd, *usual)  # the odd day is 2025-01-06
    assert not any(finding.alarm for finding in quiet)
    found = feed(detector, *(frame(PER_DAY, 50 + day, shift=0.6) for day in range(8)), start=36)
    moved = next(finding for finding in found if finding.alarm).moved[0]
    assert moved.feature == "age" and "2025-02-05" <= moved.since <= "2025-02-07"


def test_features_may_be_counted_on_different_rows() -> None:
    """Predictions on fewer rows, inputs on others: shares, tolerances and what was expected are each feature's own."""
    rng = np.random.default_rng(0)
    inputs, answers = pa.table({"x": rng.normal(size=28_000)}), pa.table({"prediction": rng.normal(size=7_000)})
    layout = layout_of_rows(inputs, None, answers)
    counts = Counts.by_day(layout_of_rows(inputs), inputs, days(28_000, 28)).placed(layout)
    fresh = days(7_000, 7) + np.timedelta64(28, "D")
    counts.merge(Counts.by_day(Layout(layout.features[1:]), answers, fresh).placed(layout))
    with pytest.raises(DataError, match=r"at least 14 days.*found 7"):
        Reference.of_counts(counts)
    seen = pa.table({"prediction": rng.normal(size=28_000)})  # rows that the model was fitted on
    alike = Counts.by_day(Layout(layout.features[1:]), seen, days(28_000, 28)).placed(layout)
    made = Reference.of_counts(counts, alike=alike)
    assert made.layout.totals(made.cells).tolist() == [[28_000, 7_000]] and made.days == 28
    low, high = made.bounds
    width = (high - low)[0]
    middle = [[s.label for s in layout.splits if s.feature == name][7] for name in ("x", "prediction")]
    at = [next(i for i, s in enumerate(layout.splits) if s.label == label) for label in middle]
    assert width[at[1]] > width[at[0]], "fewer rows say less"
    detector = DriftDetector(made)
    day = [pa.table({"x": rng.normal(size=500), "prediction": rng.normal(0.7 * (n >= 5), 1, 500)}) for n in range(9)]
    alarm = next(finding for finding in feed(detector, *day, start=60) if finding.alarm)
    [moved] = alarm.moved
    assert moved.feature == "prediction" and moved.shift == pytest.approx(0.7, abs=0.1) and moved.expected > moved.found
