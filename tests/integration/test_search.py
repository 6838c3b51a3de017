"""The search engine on a real Ray: trials, failures, schedulers, data paths."""

from __future__ import annotations

import time
from typing import Any

import pytest
import user_code
from conftest import Prepared, configured

from raymlops.errors import ResourceError
from raymlops.training.checkpoint import load_checkpoint
from raymlops.training.records import TrialRecord
from raymlops.training.refit import refit
from raymlops.training.search import SearchFailed, run_search, share_parts
from raymlops.training.trial import Handles


def search(
    prepared: Prepared, run: str, custom: dict[str, Any] | None = None, **changes: Any
) -> tuple[list[TrialRecord], TrialRecord]:
    config = configured(changes)
    context = prepared.context(config, run, **(custom or {}))
    return run_search(context, share_parts(prepared.snapshot, config))


def digest(prepared: Prepared, path: str) -> str:
    _, facts = load_checkpoint(prepared.store, path)
    return str(facts["weights_sha256"])


def test_trials_learn_and_leave_the_best_checkpoint(prepared: Prepared) -> None:
    updates: list[str] = []
    config = configured({"search__trials": 4, "search__scheduler": "fifo"})
    context = prepared.context(config, "fifo")
    trials, best = run_search(
        context, share_parts(prepared.snapshot, config), lambda records, changed: updates.append(changed.status)
    )
    assert [t.number for t in trials] == [1, 2, 3, 4]
    assert {t.status for t in trials} == {"completed"}
    assert all(len(t.curves) == 3 and t.seconds > 0 for t in trials)
    assert best.best_metric == min(t.best_metric for t in trials if t.best_metric is not None)
    weights, facts = load_checkpoint(prepared.store, best.path)
    assert facts["epoch"] == best.best_epoch
    assert facts["metric"] == best.best_metric
    assert facts["config"]["train"]["learning_rate"] == best.values["train.learning_rate"]
    assert "layers.0.weight" in weights
    assert updates.count("running") >= 8


def test_streaming_from_shards_gives_the_same_weights(prepared: Prepared) -> None:
    in_memory = configured({})
    streamed = configured({"data__in_memory_share": 0.0})
    assert share_parts(prepared.snapshot, in_memory).parts
    assert share_parts(prepared.snapshot, streamed) == Handles({})
    assert len(prepared.snapshot.shards("train")) > 1
    _, best = search(prepared, "memory")
    _, other = search(prepared, "streamed", data__in_memory_share=0.0)
    assert other.best_metric == best.best_metric
    assert digest(prepared, other.path) == digest(prepared, best.path)
    refitted = [
        refit(prepared.context(config, f"refit-{i}"), share_parts(prepared.snapshot, config), best)
        for i, config in enumerate((in_memory, streamed))
    ]
    assert digest(prepared, refitted[0]) == digest(prepared, refitted[1])
    assert digest(prepared, refitted[0]) != digest(prepared, best.path)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_hopeless_trials_are_pruned(prepared: Prepared, scheduler: str) -> None:
    trials, best = search(
        prepared,
        f"prune-{scheduler}",
        train__epochs=12,
        search__scheduler=scheduler,
        search__trials=1,
        search__grace_epochs=2,
        search__space={"train.learning_rate": {"grid": [0.02, 0.03, 0.02, 0.025, 1e-6, 1e-6, 1e-6]}},
    )
    assert any(t.status == "pruned" and len(t.curves) < 12 for t in trials if t.values["train.learning_rate"] == 1e-6)
    assert best.values["train.learning_rate"] > 0.01


def test_optuna_searches_better_than_it_starts(prepared: Prepared) -> None:
    trials, best = search(
        prepared,
        "optuna",
        search__searcher="optuna",
        search__trials=6,
        search__space={"train.learning_rate": {"loguniform": [1e-5, 0.1]}, "model.hidden": {"choice": [4, 16]}},
    )
    assert len(trials) == 6
    assert {t.values["model.hidden"] for t in trials} <= {4, 16}
    assert best.best_metric is not None


def modes(*names: str) -> dict[str, Any]:
    return {
        "model": {"kind": "factory", "factory": "user_code:build"},
        "search__trials": 1,
        "search__scheduler": "fifo",
        "search__space": {"model.params.mode": {"grid": list(names)}},
    }


def test_failing_trials_are_recorded_and_do_not_end_the_search(prepared: Prepared) -> None:
    custom = {"factory": user_code.build}
    trials, best = search(prepared, "failures", custom, train__max_failures=0, **modes("raise", "good", "nan", "die"))
    by_mode = {t.values["model.params.mode"]: t for t in trials}
    assert best is by_mode["good"]
    assert by_mode["raise"].reason == "model.factory: user_code:build raised RuntimeError: no weights for this weather"
    assert "the training loss became nan in epoch 1" in str(by_mode["nan"].reason)
    assert by_mode["die"].status == "failed"
    assert "died" in str(by_mode["die"].reason) or "memory" in str(by_mode["die"].reason)


def test_when_all_fail_the_most_frequent_cause_is_shown(prepared: Prepared) -> None:
    with pytest.raises(SearchFailed) as caught:
        search(prepared, "all-fail", {"factory": user_code.build}, **modes("nan", "raise", "raise"))
    assert str(caught.value) == (
        "search: all 3 trials failed; 2 of them with: "
        "model.factory: user_code:build raised RuntimeError: no weights for this weather"
    )


def test_custom_loss_and_metric(prepared: Prepared) -> None:
    custom = {"loss": user_code.pinball, "metric": user_code.within_one}
    _, best = search(
        prepared,
        "custom",
        custom,
        train__loss="user_code:pinball",
        train__metric="user_code:within_one",
        train__epochs=6,
    )
    assert best.best_metric is not None
    assert 0.1 < best.best_metric <= 1
    assert best.best_metric == max(point["metric"] for point in best.curves)


def test_a_time_budget_ends_the_search_with_what_there_is(prepared: Prepared) -> None:
    began = time.monotonic()
    trials, best = search(
        prepared, "budget", train__epochs=100_000, search__time_budget_s=20, search__scheduler="fifo", search__trials=3
    )
    assert time.monotonic() - began < 60
    assert best.best_metric is not None
    assert {t.status for t in trials} <= {"stopped", "pending"}


def test_what_cannot_fit_is_refused_before_anything_starts(prepared: Prepared) -> None:
    with pytest.raises(ResourceError, match=r"needs 1 worker\(s\) of 64 CPU"):
        search(prepared, "too-big", train__cpus_per_worker=64)
    assert prepared.store.list("runs/small/too-big") == []
