"""What is expected before labels come follows scores and inputs, and is close to what the labels then say."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from label_cases import config_of

from raymlops.errors import ConfigError
from raymlops.monitoring.building import layout_of_rows
from raymlops.monitoring.estimates import by_calibration, by_loss_model
from raymlops.monitoring.references import References
from raymlops.monitoring.row_losses import LOG_LOSS_SCALE, labelled_errors


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
        return pa.table({"input.x": moved, "output.prediction": 2 * moved})

    assert estimate.expected(day(0.0)) == pytest.approx(losses.mean(), abs=0.03)
    assert estimate.expected(day(2.0)) > 0.35


def test_log_loss_is_counted_up_to_a_stated_bound() -> None:
    config = config_of("multiclass", monitoring={"performance": {"loss": "log_loss"}})
    table = pa.table(
        {
            "output.prediction": ["a", "b", "a", "a"],
            "output.probability_a": [0.5, 0.2, 0.999, 0.9],
            "output.probability_b": [0.5, 0.8, 0.001, None],
            "fare": ["a", "b", "b", "c"],  # a class that the model does not know
        }
    )
    errors = labelled_errors(config, table)
    assert errors[:3] == pytest.approx(-np.log([0.5, 0.8, 0.001])) and errors[3] > 30
    losses = References(None, None, LOG_LOSS_SCALE, {}, []).losses(errors)
    assert losses == pytest.approx([np.log(2) / LOG_LOSS_SCALE, -np.log(0.8) / LOG_LOSS_SCALE, 1.0, 1.0])
    wrong = labelled_errors(config_of("multiclass"), table)
    assert wrong.tolist() == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match=r"performance\.loss: found log_loss, expected error, the one for regression"):
        config_of(monitoring={"performance": {"loss": "log_loss"}})
