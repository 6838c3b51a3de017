"""A search whose trials, workers or driver are killed goes on, and ends with what it would have found."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import user_code
from conftest import Prepared, configured

from raymlops.errors import RaymlopsError
from raymlops.registry.backend import tracking
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.reproduction import reproduce
from raymlops.retraining.watch import Silent
from raymlops.store import Store
from raymlops.training.checkpoint import load_checkpoint
from raymlops.training.ddp import run_data_parallel
from raymlops.training.records import TrialRecord, stored_trials
from raymlops.training.search import run_search, share_parts

STEPS = 3 * 29
"""Of a training: 3 epochs of 1,8xx rows in batches of 64."""


def digest(prepared: Prepared, path: str) -> str:
    _, facts = load_checkpoint(prepared.store, path)
    return str(facts["weights_sha256"])


def watched(folder: Path, at: int, **changes: Any) -> dict[str, Any]:
    folder.mkdir()
    params = {"mode": "watched", "folder": str(folder), "at": at}
    return {
        "model": {"kind": "factory", "factory": "user_code:build", "params": params},
        "search__trials": 1,
        "search__space": {},
        "search__scheduler": "fifo",
        "train__checkpoint": {"every": 0.001},
        **changes,
    }


def search(prepared: Prepared, run: str, changes: dict[str, Any], on_update: Any = None) -> list[TrialRecord]:
    config = configured(changes)
    custom = {"factory": user_code.build} if "model" in changes else {}
    context = prepared.context(config, run, **custom)
    return run_search(context, share_parts(prepared.snapshot, config), on_update or (lambda trials, changed: None))[0]


def test_a_killed_trial_goes_on_in_the_same_search(prepared: Prepared, tmp_path: Path) -> None:
    [whole] = search(prepared, "undisturbed", watched(tmp_path / "undisturbed", at=0))
    [killed] = search(prepared, "killed", watched(tmp_path / "killed", at=2 * STEPS // 3))
    whole_steps = user_code.steps_of(tmp_path / "undisturbed")
    assert whole_steps < user_code.steps_of(tmp_path / "killed") < whole_steps + STEPS // 2
    assert killed.status == whole.status == "completed"
    assert killed.weights_sha256 == whole.weights_sha256 == digest(prepared, killed.path)
    assert [p["metric"] for p in killed.curves] == [p["metric"] for p in whole.curves]
    assert "state" not in prepared.store.list(killed.path)


class DriverKilled(BaseException):
    pass


@pytest.mark.parametrize("searcher", [{}, {"search__searcher": "optuna", "search__max_concurrent": 1}])
def test_a_search_goes_on_after_its_driver_died(prepared: Prepared, searcher: dict[str, Any]) -> None:
    kind = "optuna" if searcher else "random"
    changes = {"search__trials": 4, "search__scheduler": "asha", "search__max_concurrent": 1, **searcher}
    whole = search(prepared, f"{kind}-whole", changes)

    def die(trials: Sequence[TrialRecord], changed: TrialRecord) -> None:
        if changed.number == 3 and changed.curves:
            raise DriverKilled

    with pytest.raises(DriverKilled):
        search(prepared, f"{kind}-killed", changes, die)
    gc.collect()  # a process that died would have let go of its trial's actor; here cycles hold it, and with it a CPU
    told: list[tuple[int, bool]] = []
    again = search(
        prepared, f"{kind}-killed", changes, lambda trials, changed: told.append((changed.number, changed.replayed))
    )
    assert [t.replayed for t in again] == [True, True, False, False]
    assert {number for number, replayed in told if replayed} == {1, 2}
    for one, other in zip(again, whole, strict=True):
        assert one.values == other.values
        assert (one.status, one.best_epoch, one.best_metric) == (other.status, other.best_epoch, other.best_metric)
        assert one.weights_sha256 == other.weights_sha256 == digest(prepared, one.path)
        assert [p["metric"] for p in one.curves] == [p["metric"] for p in other.curves]


def test_two_workers_train_one_model_and_a_lost_one_costs_no_bits(prepared: Prepared, tmp_path: Path) -> None:
    """About 70 s: Ray Train takes 20 s to start and stop a group of workers, and here it does so three times: for a job
    that loses a worker, and when nothing disturbs the same training.

    ASHA stops the trial at its last epoch by killing its driver; the next group then needs the CPUs that its workers
    held.
    """
    [alone] = search(prepared, "alone", watched(tmp_path / "alone", at=0))
    two = {"search__scheduler": "asha", "search__refit": False, "train__workers": 2}
    changes = watched(tmp_path / "lost", at=2 * STEPS // 3, storage=str(tmp_path / "storage"), **two)
    done = run_job(configured(changes), prepared.base, Silent())
    assert user_code.steps_of(tmp_path / "lost") > user_code.steps_of(tmp_path / "alone")  # it was killed
    store = Store(str(tmp_path / "storage"))
    [pair] = [trial.record for trial in stored_trials(store, f"runs/small/{done.run_id}")]
    assert pair.status == "completed"
    assert len(pair.curves) == 3
    # Same batches, same initial weights; the order of floating-point sums differs, and dropout.
    assert pair.best_metric == pytest.approx(alone.best_metric, rel=0.02)
    weights, _ = load_checkpoint(store, pair.path)
    assert not any(name.startswith("module.") for name in weights)
    assert pair.weights_sha256 == done.weights_sha256
    again = reproduce(tracking(None, store), store, done.run_id, Silent())
    assert again.exact, again.to_dict()


def test_a_trial_that_was_ended_starts_no_other_workers(prepared: Prepared) -> None:
    """Its driver is stopped a moment after its workers; a group that it starts meanwhile would keep its CPUs."""
    config = configured({"train__workers": 2, "train__max_failures": 3})
    context = prepared.context(config, "ended")
    path = f"{context.path}/trial-001"
    with pytest.raises(RaymlopsError, match="the trial was ended, and its workers released"):
        run_data_parallel(
            config, context, share_parts(prepared.snapshot, config), path,
            name="trial-001", callbacks=[user_code.Releasing(context.store, path)],
        )  # fmt: skip
