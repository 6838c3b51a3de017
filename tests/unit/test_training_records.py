"""What a search that is started again finds of the trials that it had."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest

from raymlops.store import Store
from raymlops.training.records import (
    RECORD,
    TrialRecord,
    finished_record,
    read_record,
    stored_trials,
    write_record,
)
from raymlops.training.samplers import NumberedTpe

VALUES = {"train.learning_rate": 0.1 + 0.2, "train.early_stopping": {"patience": 3}, "model.hidden": 16}


def record(number: int = 1, **facts: Any) -> TrialRecord:
    curves = [{"epoch": 1, "train_loss": 0.5, "metric": math.nan}]
    return TrialRecord(number, VALUES, f"run/trial-{number:03d}", **{"status": "completed", "curves": curves, **facts})


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    written = record(best_metric=0.25, best_epoch=1, seconds=3.5, weights_sha256="ab")
    write_record(store, written, elapsed=12.5)
    stored = read_record(store, written.path)
    assert stored is not None and stored.elapsed == 12.5
    assert repr(stored.record) == repr(written)  # NaN is not equal to itself
    assert finished_record(store, written.path, VALUES) is not None


@pytest.mark.parametrize(
    ("facts", "final"),
    [
        ({"status": "pruned"}, True),
        ({"status": "failed", "reason": "model.factory: raised"}, True),
        ({"status": "stopped"}, True),
        ({"status": "failed", "reason": "the worker process died", "died": True}, False),
        ({"status": "pending"}, False),
    ],
)
def test_a_death_is_no_answer(tmp_path: Path, facts: dict[str, Any], final: bool) -> None:
    store = Store(str(tmp_path))
    write_record(store, record(**facts), 0.0)
    assert (finished_record(store, "run/trial-001", VALUES) is not None) == final


def test_a_record_of_other_values_is_not_this_trial(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_record(store, record(), 0.0)
    assert finished_record(store, "run/trial-001", {**VALUES, "model.hidden": 17}) is None
    assert finished_record(store, "run/trial-002", VALUES) is None


def test_records_count_up_to_the_first_gap(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in (1, 2, 4):
        write_record(store, record(number), 0.0)
    assert [trial.record.number for trial in stored_trials(store, "run")] == [1, 2]
    store.write(f"run/trial-002/{RECORD}", b"{")
    assert [trial.record.number for trial in stored_trials(store, "run")] == [1]


def test_a_search_that_goes_on_suggests_what_it_would_have_suggested() -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1), "n": optuna.distributions.IntDistribution(1, 9)}

    def suggested(known: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=NumberedTpe(3))
        for point in known:
            study.enqueue_trial(point)
        drawn = []
        for _ in range(count):
            trial = study.ask(fixed_distributions=space)
            drawn.append(dict(trial.params))
            study.tell(trial, (trial.params["x"] - 0.3) ** 2 + trial.params["n"])
        return drawn

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    whole = suggested([], 16)
    assert len({point["x"] for point in whole}) == 16
    for known in (1, 5, 12):
        assert suggested(whole[:known], 16) == whole
    assert sum(point["n"] for point in whole[10:]) < sum(point["n"] for point in whole[:6])  # it learns
