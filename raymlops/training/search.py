"""The search engine: many trials of one job on Tune, in few actors, over data that is in the object store once."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from raymlops.config.training import SearchConfig
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.training.ddp import release_workers
from raymlops.training.resources import concurrent_trials
from raymlops.training.space import decode, most_epochs, tune_space
from raymlops.training.trial import FAILURE, Handles, TrialContext, run_trial

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


@dataclass
class TrialRecord:
    """What is known of one trial. `status`: pending, running, completed, pruned, stopped (time budget) or failed."""

    number: int
    values: dict[str, Any]
    path: str
    """Where its best checkpoint is, below the store."""
    status: str = "pending"
    reason: str | None = None
    curves: list[dict[str, float]] = field(default_factory=list)
    """One entry per epoch: epoch, train_loss, learning_rate, seconds, metric."""
    best_metric: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return f"trial-{self.number:03d}"

    @property
    def finished(self) -> bool:
        return self.status not in ("pending", "running")


DRIVER_MEMORY = 1_000_000
"""Bytes."""
Watcher = Callable[[Sequence[TrialRecord], TrialRecord], None]


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
    """
    config = context.config
    os.environ.update(TUNE_ENVIRONMENT)
    concurrent = concurrent_trials(cluster_nodes(), config.train, config.search)
    metric_mode = context.objective(config).metric.mode
    watcher = _Recorder(context, metric_mode, on_update)
    train = config.train
    if train.workers == 1:
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
            search_alg=_searcher(config, concurrent),
            scheduler=_scheduler(config.search, most_epochs(config)),
            num_samples=config.search.trials,
            max_concurrent_trials=None if config.search.searcher == "random" else concurrent,
            time_budget_s=config.search.time_budget_s,
            reuse_actors=train.workers == 1,
            trial_name_creator=watcher.name,
            trial_dirname_creator=watcher.name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=context.store.location(context.path),
            callbacks=[watcher],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
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


def _searcher(config: Config, concurrent: int) -> Any:
    if config.search.searcher == "random":
        return tune.search.BasicVariantGenerator(max_concurrent=concurrent, random_state=config.seed)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=config.seed))


def _scheduler(search: SearchConfig, epochs: int) -> Any:
    grace = min(search.grace_epochs, epochs)
    if search.scheduler == "asha":
        return tune.schedulers.ASHAScheduler(
            time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=search.reduction_factor
        )
    if search.scheduler == "median":
        return tune.schedulers.MedianStoppingRule(time_attr="epoch", grace_period=grace)
    return tune.schedulers.FIFOScheduler()


class _Recorder(tune.Callback):  # type: ignore[misc]
    """Keeps the records as Tune's events come in, on the driver."""

    def __init__(self, context: TrialContext, mode: str, on_update: Watcher) -> None:
        self.context, self.mode, self.on_update = context, mode, on_update
        self.records: dict[str, TrialRecord] = {}
        self.started: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore that is never done; ours holds what cannot be stored

    def __deepcopy__(self, memo: dict[int, Any]) -> _Recorder:
        return self  # Tune copies its run configuration; the events must reach the original

    def name(self, trial: Any) -> str:
        return self._record(trial).name

    def _record(self, trial: Any) -> TrialRecord:
        if trial.trial_id not in self.records:
            number = len(self.records) + 1
            values = decode(self.context.config.search.space, trial.config)
            path = f"{self.context.path}/trial-{number:03d}"
            self.records[trial.trial_id] = TrialRecord(number, values, path)
        return self.records[trial.trial_id]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        record.status = "running"
        self.started[trial.trial_id] = time.monotonic()
        self._tell(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        if FAILURE in result:
            record.status, record.reason = "failed", result[FAILURE]
        if result.get("epoch") is None or result["epoch"] <= len(record.curves):
            return  # Tune repeats the last result when the function returns
        kept = ("epoch", "train_loss", "learning_rate", "seconds", "metric")
        record.curves.append({key: result[key] for key in kept})
        record.best_metric, record.best_epoch = result["best_metric"], result["best_epoch"]
        record.seconds = time.monotonic() - self.started[trial.trial_id]
        record.status = "completed" if result["last"] else "running"
        self._tell(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        if record.status == "running":
            record.status = "pruned"
        self._ended(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        record.status, record.reason = "failed", _cause_of_death(trial)
        self._ended(record)

    def close(self) -> list[TrialRecord]:
        """Records in order; trials that never finished were stopped by the time budget."""
        for record in self.records.values():
            if not record.finished:
                record.status = "stopped"
                record.reason = "time budget" if record.curves else "the time budget ended before the first epoch did"
                self._ended(record)
        return sorted(self.records.values(), key=lambda r: r.number)

    def _ended(self, record: TrialRecord) -> None:
        if self.context.config.train.workers > 1:
            release_workers(self.context.store, record.path)
        self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        self.on_update(list(self.records.values()), record)


def _cause_of_death(trial: Any) -> str:
    """Of a trial whose process ended before it could say why; Ray knows at least how."""
    text = str(trial.get_error() or "")
    if "OutOfMemory" in text or "out of memory" in text.lower():
        return "killed: the node ran out of memory"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"the worker process died: {lines[-1] if lines else 'no message'}"[:500]
