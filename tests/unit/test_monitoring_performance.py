"""Degradation with labels, and what is expected without them."""

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
from raymlops.monitoring import (
    Calibration,
    Counts,
    LossDays,
    LossDetector,
    LossFinding,
    LossLevels,
    LossModel,
    LossSums,
    clipped_error,
    expected_metrics,
    layout_of_rows,
    slice_masks,
)
from raymlops.monitoring.losses import FRACTIONS, OVERALL

DAYS, PER_DAY = 30, 400


def wrong(rng: Any, rate: float, n: int = PER_DAY) -> Any:
    return (rng.random(n) < rate).astype(float)


def levels(rate: float = 0.1, tolerance: float = 0.1, slices: int = 0, days: int = DAYS) -> LossLevels:
    rng = np.random.default_rng(0)
    n = DAYS * PER_DAY
    masks = {f"g={i}": np.arange(n) % 4 == i for i in range(slices)}
    return LossLevels.of(wrong(rng, rate, n), np.arange(n) * days // n, masks, tolerance)


def feed(detector: LossDetector, rates: list[float], start: int = 0, slice_rates: Any = None) -> list[LossFinding]:
    rng, found = np.random.default_rng([1, start]), []
    for day, rate in enumerate(rates, start):
        y = wrong(rng, rate)
        masks = {}
        for name in detector.levels.names[1:]:
            mask = np.arange(PER_DAY) % 4 == int(name.partition("=")[2])
            if slice_rates and name in slice_rates:
                y[mask] = wrong(rng, slice_rates[name], int(mask.sum()))
            masks[name] = mask
        found += detector.update(LossSums.of(detector.levels, y, [f"2025-{day:03d}"] * PER_DAY, masks))
    return found


def test_quiet_while_the_loss_is_tolerated() -> None:
    found = feed(LossDetector(levels()), [0.1, 0.105, 0.095] * 60)
    assert len(found) == 180 and not any(finding.alarm for finding in found)


def test_a_worse_model_is_found_with_the_day_it_became_worse() -> None:
    detector = LossDetector(levels())
    found = feed(detector, [0.1] * 20 + [0.2] * 10)
    at = next(i for i, finding in enumerate(found) if finding.alarm)
    worse = found[at].worse[0]
    assert 20 <= at <= 24 and "2025-019" <= worse.since <= "2025-021" and worse.name == OVERALL
    assert worse.mean == pytest.approx(0.2, abs=0.04) and worse.registered == pytest.approx(0.1, abs=0.01)
    assert worse.registered < worse.limit < 0.13 and "mean loss 0.1" in str(worse)


def test_a_better_model_is_no_degradation() -> None:
    assert not any(finding.alarm for finding in feed(LossDetector(levels(0.3)), [0.05] * 50))


def test_the_slice_that_became_worse_is_named() -> None:
    detector = LossDetector(levels(slices=4))
    found = feed(detector, [0.1] * 40, slice_rates={"g=2": 0.35})
    alarm = next(finding for finding in found if finding.alarm)
    assert alarm.worse[0].name == "g=2" and alarm.window < "2025-010"
    assert not any(finding.alarm for finding in feed(LossDetector(levels(slices=4)), [0.1] * 150, start=500))


def test_without_reference_days_a_window_is_one_observation() -> None:
    """The bet is on the window's mean, so the rows inside may depend on each other as they like: it is slow."""
    made = levels(days=5)
    assert made.slices[0].icc is None
    found = feed(LossDetector(made), [0.4] * 40)
    at = next(i for i, finding in enumerate(found) if finding.alarm)
    assert at >= math.log(1000) / math.log(0.45 / made.slices[0].limit) - 1
    # Rows that are all alike within a day and fair between days would look like thousands of independent ones.
    rng, detector = np.random.default_rng(2), LossDetector(made)
    for day in range(300):
        y = np.full(PER_DAY, float(rng.random() < made.slices[0].limit * 0.95))
        (finding,) = detector.update(LossSums.of(made, y, [f"{day:04d}"] * PER_DAY))
        assert not finding.alarm


def test_further_days_say_how_alike_rows_are_and_nothing_about_the_level() -> None:
    rng = np.random.default_rng(3)

    def uneven(rate: float, days: int) -> tuple[Any, Any]:
        today = np.repeat(np.clip(rate + 0.03 * rng.normal(size=days), 0, 1), PER_DAY)
        return (rng.random(len(today)) < today).astype(float), np.repeat(np.arange(days), PER_DAY)

    holdout, fitted = uneven(0.1, 7), uneven(0.05, 40)
    short, helped = LossLevels.of(*holdout), LossLevels.of(*holdout, alike=LossDays(*fitted))
    assert short.slices[0].icc is None and short.slices[0].mean == helped.slices[0].mean
    icc = helped.slices[0].icc
    assert icc is not None and 0.005 < icc < 0.05  # truly 0.01

    delays, quiet = [], []
    for reference in (short, helped):
        detector = LossDetector(reference)
        days = [*([0.1] * 60), *([0.3] * 60)]
        sums = [LossSums.of(reference, uneven(rate, 1)[0], [f"{d:03d}"] * PER_DAY) for d, rate in enumerate(days)]
        alarms = [day for day, part in enumerate(sums) if detector.update(part)[0].alarm]
        quiet.append(all(day >= 60 for day in alarms))
        delays.append(min([day - 60 for day in alarms if day >= 60], default=60))
    assert quiet == [True, True] and delays[1] <= 6 < 8 <= delays[0]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.05, 0.95))
def test_bets_are_fair_at_the_limit(values: list[float], limit: float) -> None:
    """With mean loss `limit` the expected factor is 1: here over a distribution on the given values and 1."""
    low = np.array([v for v in values if v < limit] or [0.0])
    weight = (limit - low.mean()) / (1.0 - low.mean())
    factors = 1.0 + FRACTIONS[:, None] * (np.append(low, 1.0) / limit - 1.0)
    chances = np.append(np.full(len(low), (1.0 - weight) / len(low)), weight)
    assert (factors > 0).all() and (factors @ chances) == pytest.approx(np.ones(len(FRACTIONS)))


def test_sums_of_replicas_add_up_in_any_order() -> None:
    made = levels(slices=2)
    rng = np.random.default_rng(3)
    y, day = rng.random(90), np.repeat(["a", "b", "c"], 30)
    masks = {"g=0": np.arange(90) % 4 == 0, "g=1": np.arange(90) % 4 == 1}
    whole = LossSums.of(made, y, day, masks)
    order = rng.permutation(90)
    parts = [LossSums.of(made, y[i], day[i], {k: m[i] for k, m in masks.items()}) for i in np.array_split(order, 4)]
    merged = LossSums(made)
    for part in parts:
        merged.merge(part)
    assert merged.values.keys() == whole.values.keys()
    for at, vector in whole.values.items():
        assert merged.values[at] == pytest.approx(vector)


def test_a_restored_detector_goes_on_and_damage_is_refused() -> None:
    made = levels(slices=2)
    straight, restored = LossDetector(made, 200), LossDetector(made, 200)
    for day in range(12):
        rate = 0.1 if day < 5 else 0.2
        expected = feed(straight, [rate], start=day)
        restored = LossDetector.from_json(
            restored.to_json(), LossLevels.from_dict(json.loads(json.dumps(made.to_dict())))
        )
        assert feed(restored, [rate], start=day) == expected
    assert restored.to_json() == straight.to_json() and len(straight.to_json()) < 1000
    for key, value in (("levels", "x"), ("log_m", "AAAA"), ("sums", [1]), ("open", None)):
        content = json.dumps(json.loads(straight.to_json()) | {key: value})
        with pytest.raises(IntegrityError, match="loss state: cannot be read"):
            LossDetector.from_json(content, made)


def test_late_labels_are_counted() -> None:
    detector = LossDetector(levels())
    feed(detector, [0.1, 0.1])
    assert feed(detector, [0.9]) == [] and detector.late_labels == PER_DAY


def test_wrong_losses_are_named() -> None:
    with pytest.raises(DataError, match=r"expected a number in \[0, 1\] for each row, found 1\.5"):
        LossLevels.of([0.5, 1.5], None)
    with pytest.raises(DataError, match="slice 'g=1': expected at least 2 labelled reference rows, found 1"):
        LossLevels.of([0.5, 0.5], None, {"g=1": np.array([True, False])})
    with pytest.raises(DataError, match="rows of at least 2 days, found 1"):
        LossLevels.of([0.5, 0.5], ["a", "a"])
    with pytest.raises(ConfigError, match="tolerance: expected a share of the loss"):
        LossLevels.of([0.5, 0.5], None, tolerance=-1)
    with pytest.raises(DataError, match=r"found \['new'\]"):
        LossSums.of(levels(), [0.1], ["a"], {"new": np.array([True])})
    with pytest.raises(DataError, match="is a replica behind"):
        LossDetector(levels()).update(LossSums(levels(0.2)))


def test_slices_by_value_and_errors_as_bounded_losses() -> None:
    masks = slice_masks(pa.table({"city": ["a", "b", None, "a"]}), {"city": ["a", "b"]})
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "city=a": [True, False, False, True],
        "city=b": [False, True, False, False],
    }
    assert clipped_error([1, 2, 9], [1, 4, 0], 4.0).tolist() == [0.0, 0.5, 1.0]


def scored(rng: Any, n: int, a: float, b: float) -> tuple[Any, Any]:
    """Scores that are too sure of themselves, and labels."""
    truth = rng.beta(a, b, n)
    odds = (truth / (1 - truth)) ** 1.7
    return odds / (1 + odds), (rng.random(n) < truth).astype(float)


def test_expected_metrics_follow_the_scores_to_other_mixtures() -> None:
    rng = np.random.default_rng(4)
    calibration = Calibration.from_dict(json.loads(json.dumps(Calibration.fit(*scored(rng, 40_000, 2, 2)).to_dict())))
    assert np.all(np.diff(calibration.shares) >= 0)
    for mixture in ((2, 2), (1, 3), (5, 5)):
        p, y = scored(rng, 40_000, *mixture)
        found = expected_metrics(
            calibration.sums(p[:1000], p[:1000] > 0.5) + calibration.sums(p[1000:], p[1000:] > 0.5)
        )
        called = p > 0.5
        assert found["error"] == pytest.approx(np.mean(called != y), abs=0.012)
        assert found["brier"] == pytest.approx(np.mean((p - y) ** 2), abs=0.01)
        assert found["recall"] == pytest.approx((called & (y == 1)).sum() / (y == 1).sum(), abs=0.03)
        assert found["precision"] == pytest.approx((called & (y == 1)).sum() / called.sum(), abs=0.03)
    naive = np.mean(np.where(p > 0.5, 1 - p, p))  # the scores at their word
    assert abs(naive - found["error"]) > 0.05


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_calibration_rises_and_keeps_the_mean(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    made = Calibration.fit(scores, labels)
    assert np.all(np.diff(made.shares) >= 0) and np.all(np.diff(made.scores) >= 0)
    shares = made.share(np.linspace(0, 1, 9))
    assert ((shares >= 0) & (shares <= 1)).all() and np.all(np.diff(shares) >= -1e-12)
    total = made.sums(scores)
    assert total[0] == len(rows) and total[3] + total[4] == pytest.approx(len(rows))


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="scores: expected one probability"):
        Calibration.fit([1.2], [1.0])
    with pytest.raises(DataError, match="a label 0 or 1 for each of 2 scores"):
        Calibration.fit([0.2, 0.3], [1.0, 0.5])
    with pytest.raises(IntegrityError, match="found 1 scores and 0 shares"):
        Calibration.from_dict({"scores": [0.5], "shares": []})


def errors(rng: Any, n: int, hard: float) -> tuple[pa.Table, Any]:
    x, kind = rng.normal(hard, 1, n), rng.choice(["a", "b"], n)
    loss = np.exp(0.5 * x) * (1 + (kind == "b")) * rng.exponential(size=n)
    return pa.table({"x": x, "kind": kind}), loss


def test_a_loss_model_expects_more_loss_where_the_model_errs_more() -> None:
    rng = np.random.default_rng(5)
    rows, loss = errors(rng, 30_000, 0.0)
    layout = layout_of_rows(rows)
    made = LossModel.fit(layout, rows, loss)
    again = LossModel.from_dict(json.loads(json.dumps(made.to_dict())))
    assert 0.05 < made.explained < 0.6
    for hard in (-0.5, 0.0, 0.5):
        table, truth = errors(rng, 20_000, hard)
        expected = again.expected(layout, Counts.of(layout, table, "w").total())
        assert expected == pytest.approx(truth.mean(), rel=0.12)
    with pytest.raises(DataError, match="the window has no rows"):
        made.expected(layout, np.zeros(layout.size, np.int64))
    with pytest.raises(DataError, match="losses: expected a number for each of 3 rows"):
        LossModel.fit(layout, rows.slice(0, 3), [1.0, 2.0, 3.0])
    with pytest.raises(IntegrityError, match="loss model: cannot be read"):
        LossModel.from_dict({"digest": "x"})


def test_an_odd_day_does_not_date_a_degradation_that_comes_later() -> None:
    detector = LossDetector(levels())
    found = feed(detector, [0.1] * 5 + [0.9] + [0.1] * 30 + [0.2] * 10)
    worse = next(finding for finding in found if finding.alarm).worse[0]
    assert "2025-035" <= worse.since <= "2025-037"
