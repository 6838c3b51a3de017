"""The four ways to search that `benchmarks.search` compares; each function runs in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT

if TYPE_CHECKING:
    from raymlops.training.trial import TrialContext

CONFIG = ROOT / "configs" / "flights.yaml"
WORKERS = 2
"""Trials at a time; every contender gets two cores."""
TINY = ["train.epochs=1", "train.batch_size=1000000", "search.scheduler=fifo"]
"""A trial of one optimiser step: what remains is overhead."""


def prepare(work: str) -> dict[str, Any]:
    """Build the snapshot that everybody trains on."""
    from datetime import UTC, datetime

    from raymlops.cluster import connected
    from raymlops.config.tree import RayConfig
    from raymlops.data.build import build_snapshot
    from raymlops.imports import resolve, ship_by_value, user_functions
    from raymlops.store import Store

    config = _config(work, [])
    functions = {name: resolve(path, name) for name, path in user_functions(config).items()}
    with connected(RayConfig(num_cpus=WORKERS)):
        ship_by_value(CONFIG.parent)
        built = build_snapshot(config, CONFIG.parent, Store.at(work), "benchmark", datetime.now(UTC), functions)
    return {"digest": built.snapshot.hash}


def raymlops(work: str, digest: str, trials: int, tiny: bool) -> dict[str, Any]:
    """The search engine as `raymlops run` uses it."""
    with _ray() as startup:
        from raymlops.training.search import run_search, share_parts

        context = _context(work, digest, tiny, [f"search.trials={trials}"])
        began = time.perf_counter()
        records, _ = run_search(context, share_parts(context.snapshot, context.config))
        wall = time.perf_counter() - began
    lengths = [epoch["seconds"] for record in records for epoch in record.curves]
    found = _result(wall, WORKERS, startup, len(records), len(lengths), sum(lengths))
    return {**found, "values": [record.values for record in records]}


def tune_defaults(work: str, digest: str, values: list[dict[str, Any]], tiny: bool) -> dict[str, Any]:
    """A function trainable as Tune's own guide writes it."""
    with _ray() as startup:
        from ray import tune

        from benchmarks.plain import load_parts

        context = _context(work, digest, tiny)
        began = time.perf_counter()
        trainable = tune.with_parameters(_tune_trial, context=context, parts=load_parts(context))
        grid = _fit(trainable, context, values, tune.TuneConfig)
        wall = time.perf_counter() - began
    last = [result.metrics for result in grid]
    epochs, training = sum(m["epoch"] for m in last), sum(m["spent"] for m in last)
    return _result(wall, WORKERS, startup, len(last), epochs, training)


def trainer_per_trial(work: str, digest: str, values: list[dict[str, Any]], tiny: bool) -> dict[str, Any]:
    """A Tune trial that drives a TorchTrainer, the way Ray documents for Train v2."""
    with _ray() as startup:
        import ray
        from ray import tune

        from benchmarks.plain import load_parts

        context = _context(work, digest, tiny)
        began = time.perf_counter()
        driver = tune.with_parameters(_trainer_trial, context=context, parts=[ray.put(load_parts(context))])
        # A driver that took even a share of a CPU would leave too little for the second trial's worker, for ever.
        trainable = tune.with_resources(driver, tune.PlacementGroupFactory([{"memory": 1_000_000}]))
        # Unpruned: a trial that Tune stops leaves its workers' CPUs taken where Ray runs without a dashboard.
        config = context.config.model_copy(
            update={"search": context.config.search.model_copy(update={"scheduler": "fifo"})}
        )
        context = dataclasses.replace(context, config=config)
        grid = _fit(trainable, context, values, lambda **more: tune.TuneConfig(max_concurrent_trials=WORKERS, **more))
        wall = time.perf_counter() - began
    last = [result.metrics for result in grid]
    epochs, training = sum(m["epoch"] for m in last), sum(m["spent"] for m in last)
    return _result(wall, WORKERS, startup, len(last), epochs, training)


def optuna(
    work: str, digest: str, values: list[dict[str, Any]], tiny: bool, jobs: int, own_pruner: bool = False
) -> dict[str, Any]:
    """Optuna's study and the plain loop in one process, pruned by Tune's rule or by Optuna's own."""
    began = time.perf_counter()
    import optuna as library
    import torch

    from benchmarks.plain import load_parts, train_plainly, warm_up

    library.logging.set_verbosity(library.logging.WARNING)
    torch.set_num_threads(WORKERS // jobs)
    context = _context(work, digest, tiny)
    warm_up()
    startup = time.perf_counter() - began

    began = time.perf_counter()
    parts = load_parts(context)
    scale, search = context.target.scale, context.config.search
    seconds: dict[int, float] = {}
    epochs: dict[int, int] = {}

    def objective(trial: Any) -> float:
        best = float("inf")

        def report(epoch: int, error: float, spent: float) -> bool:
            nonlocal best
            best = min(best, error)
            seconds[trial.number], epochs[trial.number] = spent, epoch
            trial.report(error, epoch)
            return bool(trial.should_prune())

        train_plainly(context.config, context.spec, values[trial.number], parts, scale, report)
        return best

    pruner: Any = library.pruners.NopPruner()
    if search.scheduler == "asha" and own_pruner:
        pruner = library.pruners.SuccessiveHalvingPruner(search.grace_epochs, int(search.reduction_factor), 0)
    elif search.scheduler == "asha":
        pruner = _tune_rule(search.grace_epochs, search.reduction_factor)
    study = library.create_study(direction="minimize", pruner=pruner)
    study.optimize(objective, n_trials=len(values), n_jobs=jobs)
    wall = time.perf_counter() - began
    started = {"startup": startup, "worker_start": 0.0}
    return _result(wall, jobs, started, len(values), sum(epochs.values()), sum(seconds.values()))


def _tune_rule(grace: int, factor: float) -> Any:
    """The decision of Tune's ASHAScheduler as a pruner: at a rung, a trial ends when it is worse than the best 1/factor
    of those that were there before it. Optuna's own rule lets only the best pass while few have been there."""
    import numpy as np
    import optuna as library

    rungs = {round(grace * factor**k) for k in range(20)}

    class TuneRule(library.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            step = trial.last_step
            if step not in rungs:
                return False
            others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            before = [t.intermediate_values[step] for t in others if step in t.intermediate_values]
            return bool(before) and trial.intermediate_values[step] > np.percentile(before, 100 / factor)

    return TuneRule()


def _result(
    wall: float, at_once: int, startup: dict[str, float], trials: int, epochs: int, training: float
) -> dict[str, Any]:
    """`wall` is what a user waits; `search` is that less one start of the workers. Seconds."""
    search = wall - startup["worker_start"]
    sums = {"trials": trials, "epochs": epochs, "training": training}
    return {"wall": wall, "search": search, "at_once": at_once, **startup, **sums}


@contextmanager
def _ray() -> Iterator[dict[str, float]]:
    """Ray on two cores; yields what starting it took, and what starting workers takes.

    Ray never makes an actor of a process that ran tasks or another actor, so the workers of a search cannot be started
    ahead of it. What their start costs is measured here with actors that only import what trials import.
    """
    began = time.perf_counter()
    from raymlops.cluster import connected
    from raymlops.config.tree import RayConfig

    with connected(RayConfig(num_cpus=WORKERS)):
        import ray
        import ray.air.integrations.mlflow  # (Tune imports it when MLflow is installed)
        from ray import tune  # noqa: F401

        import raymlops.training.search  # noqa: F401

        ready = time.perf_counter()
        # Twice, because the first time reads the libraries from disk.
        for _ in range(2):
            started = time.perf_counter()
            probes = [ray.remote(num_cpus=1)(_Probe).remote() for _ in range(WORKERS)]
            ray.get([probe.ready.remote() for probe in probes])
            workers = time.perf_counter() - started
            for probe in probes:
                ray.kill(probe)
        yield {"startup": ready - began, "worker_start": workers}


class _Probe:
    """Gets a process as ready as a first trial does."""

    def ready(self) -> None:
        import raymlops.training.search  # noqa: F401
        from benchmarks.plain import warm_up

        warm_up()


def _config(work: str, overrides: list[str]) -> Any:
    from raymlops.config.loading import load_config
    from raymlops.imports import add_user_directory

    add_user_directory(CONFIG.parent)
    return load_config(CONFIG, [f"storage={work}", *overrides])


def _context(work: str, digest: str, tiny: bool, overrides: list[str] | None = None) -> TrialContext:
    from raymlops.data.snapshot import Snapshot
    from raymlops.features.transform import Transform
    from raymlops.imports import resolve, user_functions
    from raymlops.store import Store
    from raymlops.training.loop import Target as Scale
    from raymlops.training.trial import TrialContext

    config = _config(work, [*(TINY if tiny else []), *(overrides or [])])
    snapshot = Snapshot.open(Store.at(work), digest)
    found = {name: resolve(path, name) for name, path in user_functions(config).items()}
    derived = {name: found[f"features.derived.{name}.function"] for name in config.features.derived}
    spec = Transform(config.features, snapshot.state(), config.task, derived).spec
    path = f"runs/{os.getpid()}"
    return TrialContext(config, spec, Scale(**snapshot.state().target), snapshot, Store.at(work), path)


def _fit(trainable: Any, context: TrialContext, values: list[dict[str, Any]], settings: Callable[..., Any]) -> Any:
    """Every given configuration once, pruned like raymlops prunes."""
    from ray import tune

    search = context.config.search
    scheduler = None
    if search.scheduler == "asha":
        scheduler = tune.schedulers.ASHAScheduler(
            time_attr="epoch",
            max_t=context.config.train.epochs,
            grace_period=search.grace_epochs,
            reduction_factor=search.reduction_factor,
        )
    tuner = tune.Tuner(
        trainable,
        param_space={"values": tune.grid_search(values)},
        tune_config=settings(metric="metric", mode="min", scheduler=scheduler),
        run_config=tune.RunConfig(name="tune", storage_path=str(Path(context.store.uri) / context.path)),
    )
    grid = tuner.fit()
    if grid.errors:
        raise grid.errors[0]
    return grid


def _tune_trial(drawn: dict[str, Any], context: TrialContext, parts: Any) -> None:
    from ray import tune

    from benchmarks.plain import train_plainly

    def report(epoch: int, error: float, spent: float) -> bool:
        tune.report({"metric": error, "epoch": epoch, "spent": spent})
        return False  # Tune stops the trial itself

    train_plainly(context.config, context.spec, drawn["values"], parts, context.target.scale, report)


def _trainer_trial(drawn: dict[str, Any], context: TrialContext, parts: Any) -> None:
    import uuid

    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trainer = TorchTrainer(
        _trainer_worker,
        train_loop_config={"values": drawn["values"], "context": context, "parts": parts},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=str(Path(context.store.uri) / context.path / "train"),
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def _trainer_worker(settings: dict[str, Any]) -> None:
    import ray
    import ray.train

    from benchmarks.plain import train_plainly

    def report(epoch: int, error: float, spent: float) -> bool:
        ray.train.report({"metric": error, "epoch": epoch, "spent": spent})
        return False

    context, parts = settings["context"], ray.get(settings["parts"][0])
    train_plainly(context.config, context.spec, settings["values"], parts, context.target.scale, report)
