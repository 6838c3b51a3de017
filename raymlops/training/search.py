"""The search engine: many trials of one job on Tune, in few actors, over data that is in the object store once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raymlops.config.training import SearchConfig
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.training.recorder import Recorder, Watcher
from raymlops.training.records import Stored, TrialRecord, stored_trials
from raymlops.training.resources import concurrent_trials
from raymlops.training.space import encode, most_epochs, tune_space
from raymlops.training.trial import Handles, TrialContext, run_trial

if TYPE_CHECKING:
    from raymlops.data.snapshot import Snapshot

# Set before Tune reads them: no CSV/JSON/TensorBoard files per trial (MLflow holds the curves), and a trial without the
# metric (it failed) is recorded instead of ending the search, and Ctrl-C ends the job: Tune would only end the search
# and hand over what it has as if that were the result.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
DRIVER_MEMORY = 1_000_000
"""Bytes."""
REPLAY_SECONDS = 10.0
"""Least time, with as much again for every ten trials, that a search gets which goes on after its time budget: to learn
what it knew."""


class SearchFailed(RaymlopsError):
    """No trial produced a model."""

    def __init__(self, trials: Sequence[TrialRecord]) -> None:
        reasons = Counter(t.reason or "no reason recorded" for t in trials)
        most, count = reasons.most_common(1)[0] if reasons else ("no trial was started", 0)
        super().__init__(f"search: all {len(trials)} trials failed; {count} of them with: {most}")
        self.trials = list(trials)


def share_parts(snapshot: Snapshot, config: Config) -> Handles:
    """Put the encoded parts into the object store once, or decide to stream them because they are too large for it."""
    from raymlops.data.snapshot import assemble

    wanted = sum(snapshot.encoded_bytes(part) for part in ("train", "validation"))
    room = ray.cluster_resources().get("object_store_memory", 0.0) * config.data.in_memory_share
    if wanted > room:
        return Handles({})
    task = ray.remote(num_cpus=0)(assemble)
    return Handles({part: task.remote(snapshot, part) for part in ("train", "validation")})


def run_search(
    context: TrialContext, handles: Handles, on_update: Watcher = lambda trials, changed: None
) -> tuple[list[TrialRecord], TrialRecord]:
    """Run all trials; returns every record and the best one.

    `on_update` is called on the driver after every epoch and every change of status. Raises ResourceError before
    anything starts when a trial does not fit the cluster, SearchFailed when no trial ends with a model.

    Called again over the same `context.path` after a kill, with the same configuration and snapshot, it goes on:

    - Trials that had ended are not trained again. Their records come from their files, with `replayed` set; `on_update`
      is called for them as for others: the kill may have come before they were logged.
    - Trials that were under way go on from their last stored state, with the values and in the directory that they had,
      and end with the weights that they would have had.
    - Others are drawn as they would have been; with `optuna`, as they would have been from the results that are known.
    - `search.time_budget_s` counts what the earlier processes took.
    - Nobody else may be running the same search: the caller sees to that.
    """
    config = context.config
    os.environ.update(TUNE_ENVIRONMENT)
    concurrent = concurrent_trials(cluster_nodes(), config.train, config.search)
    earlier = stored_trials(context.store, context.path)
    elapsed = max((trial.elapsed for trial in earlier), default=0.0)
    context.store.delete_tree(f"{context.path}/tune")  # what Tune notes for a restore of its own
    metric_mode = context.objective(config).metric.mode
    watcher = Recorder(context, on_update, elapsed)
    train = config.train
    if train.most_workers == 1:
        resources: Any = {"cpu": train.cpus_per_worker, "gpu": train.gpus_per_worker}
    else:
        # The workers bring their own placement group. The process that drives them mostly waits, and must not take a
        # CPU away from them; Tune refuses a trial without resources, so it asks for a trace of memory.
        resources = tune.PlacementGroupFactory([{"memory": DRIVER_MEMORY}])
    trainable = tune.with_resources(tune.with_parameters(run_trial, context=context, handles=handles), resources)
    tuner = tune.Tuner(
        trainable,
        param_space=tune_space(config.search.space),
        tune_config=tune.TuneConfig(
            metric="metric",
            mode=metric_mode,
            search_alg=_searcher(config, concurrent, earlier),
            scheduler=_scheduler(config.search, most_epochs(config)),
            num_samples=config.search.trials,
            max_concurrent_trials=None if config.search.searcher == "random" else concurrent,
            time_budget_s=_time_left(config.search, elapsed, len(earlier)),
            reuse_actors=train.most_workers == 1,
            trial_name_creator=watcher.name,
            trial_dirname_creator=watcher.name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=context.store.location(context.path),
            callbacks=[watcher],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=train.max_failures),
        ),
    )
    tuner.fit()
    trials = watcher.close()
    candidates = [t for t in trials if t.best_metric is not None and t.status != "failed"]
    if not candidates:
        raise SearchFailed(trials)
    sign = 1.0 if metric_mode == "min" else -1.0
    return trials, min(candidates, key=lambda t: (sign * (t.best_metric or 0.0), t.number))


def cluster_nodes() -> list[Mapping[str, float]]:
    """Resources of the nodes that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _searcher(config: Config, concurrent: int, earlier: Sequence[Stored]) -> Any:
    if config.search.searcher == "random":
        return tune.search.BasicVariantGenerator(max_concurrent=concurrent, random_state=config.seed)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    from raymlops.training.samplers import NumberedTpe

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What an earlier process tried comes first and under the same numbers, whatever was known when it was drawn.
    first = [encode(config.search.space, trial.record.values) for trial in earlier]
    return OptunaSearch(sampler=NumberedTpe(config.seed), points_to_evaluate=first or None)


def _time_left(search: SearchConfig, elapsed: float, trials: int) -> float | None:
    if search.time_budget_s is None:
        return None
    return max(search.time_budget_s - elapsed, REPLAY_SECONDS * (1 + trials / 10) if trials else 0.0)


def _scheduler(search: SearchConfig, epochs: int) -> Any:
    grace = min(search.grace_epochs, epochs)
    if search.scheduler == "asha":
        return tune.schedulers.ASHAScheduler(
            time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=search.reduction_factor
        )
    if search.scheduler == "median":
        return tune.schedulers.MedianStoppingRule(time_attr="epoch", grace_period=grace)
    return tune.schedulers.FIFOScheduler()
