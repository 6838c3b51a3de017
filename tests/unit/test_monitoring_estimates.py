"""What is expected before labels come follows scores and inputs, and is close to what the labels then say."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from raymlops.monitoring.building import layout_of_rows
from raymlops.monitoring.estimates import by_calibration, by_loss_model


def test_unsure_scores_are_expected_to_be_wrong_more_often() -> None:
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.5, 1.0, 8000)
    estimate = by_calibration(sure, (draw.random(8000) > sure).astype(float))

    def day(low: float, high: float) -> pa.Table:
        p = draw.uniform(low, high, 2000)
        return pa.table({"output.prediction": ["a"] * 2000, "output.probability_a": p, "output.probability_b": 1.0 - p})

    assert estimate.expected(day(0.5, 0.7)) == pytest.approx(0.4, abs=0.05)
    assert estimate.expected(day(0.9, 1.0)) == pytest.approx(0.05, abs=0.04)
    assert np.isnan(estimate.expected(pa.table({"output.prediction": ["a"]}))), "scores were not logged"


def test_inputs_that_move_to_where_errors_are_large_raise_the_expected_loss() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=6000)
    losses = np.where(x > 1.0, 0.5, 0.1)
    rows, predicted = pa.table({"x": x}), 2 * x
    layout = layout_of_rows(pa.table({"x": x, "prediction": predicted}))
    estimate = by_loss_model(layout, rows, predicted, losses)

    def day(shift: float) -> pa.Table:
        moved = draw.normal(shift, 1.0, 3000)
        return pa.table({"x": moved, "output.prediction": 2 * moved})

    assert estimate.expected(day(0.0)) == pytest.approx(losses.mean(), abs=0.03)
    assert estimate.expected(day(2.0)) > 0.35
