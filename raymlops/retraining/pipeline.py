"""The main job: from raw rows to a registered champion or candidate, step by step."""

from __future__ import annotations

import importlib
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.cluster import check_shared_storage, connected
from raymlops.config import Config
from raymlops.errors import ConfigError
from raymlops.imports import resolve, ship_by_value, user_functions
from raymlops.retraining.result import RunResult
from raymlops.retraining.steps import Steps
from raymlops.retraining.watch import Watch
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.training.objective import ValidationMetric
    from raymlops.training.search import TrialRecord

log = logging.getLogger(__name__)

SLOW_IMPORTS = ("mlflow", "mlflow.pyfunc", "torch", "raymlops.registry.tracking", "raymlops.registry.package")


@dataclass(frozen=True)
class Origin:
    """What a job has to know when it is a retraining."""

    tags: Mapping[str, str] = field(default_factory=dict)
    """Set on its run and on the version that it registers."""
    start: ModelPackage | None = None
    """Train on from these weights, with the features as they were fitted for them."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What an earlier search found and the configuration takes over; recorded with what this one finds."""
    fence: Callable[[], None] = lambda: None
    """Called before the model is registered; raises when somebody else has taken the work over."""


def run_job(
    config: Config, base: Path, watch: Watch, now: datetime | None = None, origin: Origin | None = None
) -> RunResult:
    """Run the whole job that `config` describes; `base` is the configuration file's directory.

    Raises RaymlopsError (ConfigError, DataError, ContractViolated, ...) when a step cannot be done; a model that the
    gate refuses is a result, not an error.
    """
    steps = Steps(watch)
    origin = origin or Origin()
    _check_start(config, origin.start)
    now = now or datetime.now(UTC)
    functions = {name: resolve(path, name) for name, path in user_functions(config).items()}
    store = Store.at(config.storage)
    with steps.step("start", "Ray and tracking"):
        # Importing MLflow and torch takes seconds, and so does starting Ray: do both at once.
        imports = threading.Thread(target=_import_slow_modules, name="imports", daemon=True)
        imports.start()
        session = connected(config.ray)
        cluster = session.__enter__()
        try:
            check_shared_storage(config, store, cluster.nodes)
            ship_by_value(base)
            imports.join()
            from raymlops.registry.tracking import Tracker
            from raymlops.training.resources import concurrent_trials
            from raymlops.training.search import cluster_nodes
            from raymlops.training.space import check_space

            check_space(config)
            concurrent_trials(cluster_nodes(), config.train, config.search)
            tracker = Tracker(config, store, base, now, origin.tags)
        except BaseException:
            session.__exit__(None, None, None)
            raise
    watch.note(str(cluster))
    try:
        with tracker:
            return Job(config, base, store, functions, tracker, steps, now, origin).run()
    finally:
        session.__exit__(None, None, None)


@dataclass
class Job:
    """The steps in order, over one tracked run."""

    config: Config
    base: Path
    store: Store
    functions: dict[str, Any]
    tracker: Tracker
    steps: Steps
    now: datetime
    origin: Origin

    def run(self) -> RunResult:
        from raymlops.retraining.judging import judge, package_model, register
        from raymlops.retraining.reporting import data_notes, job_report
        from raymlops.training.space import with_values

        config, tracker, metric = self.config, self.tracker, self.metric
        self.steps.watch.run_started(self.tracker.run_id)
        with self.steps.step("snapshot", "read, check, profile and encode the data"):
            built = self._snapshot()
        trials, best, weights_path = self._train(built)
        with tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
            directory = Path(folder) / "package"
            with self.steps.step("gate", "judge the model on the holdout"):
                facts = {
                    "run_id": tracker.run_id,
                    "snapshot": built.snapshot.hash,
                    "trial": best.name,
                    "values": {**self.origin.values, **best.values},
                }
                final = with_values(config, best.values)
                package = package_model(directory, final, self.store, self.base, built, weights_path, facts, self.now)
                judged = judge(config, package, built, tracker.champion(), metric.name)
            with self.steps.step("register", "record, report and register"):
                model, version, alias = register(tracker, directory, package, built, judged, self.origin.fence)
            with self.steps.step("report", "draw the report"):
                seconds = self.steps.seconds
                html = job_report(
                    config, package, built, trials, judged, metric, tracker, version, alias, seconds, self.now
                )
                tracker.log_report(html)
        return RunResult(
            run_id=self.tracker.run_id,
            name=self.config.name,
            model=model,
            version=version,
            alias=alias,
            verdict="blessed" if judged.verdict.blessed else "refused",
            reasons=judged.verdict.reasons,
            metrics=judged.evaluation.metrics,
            snapshot=built.snapshot.hash,
            weights_sha256=package.manifest["weights_sha256"],
            seconds=self.steps.total(),
            notes=data_notes(built),
        )

    def _snapshot(self) -> BuiltSnapshot:
        from raymlops.data.build import build_snapshot

        watch, tracker = self.steps.watch, self.tracker
        start = self.origin.start
        built = build_snapshot(
            self.config,
            self.base,
            self.store,
            tracker.run_id,
            self.now,
            self.functions,
            watch.note,
            state=None if start is None else start.transform.state,
        )
        snapshot = built.snapshot
        tracker.log_data(
            snapshot=snapshot.hash,
            source=built.source,
            rows=snapshot.rows,
            columns=snapshot.manifest["columns"],
            contract=built.contract.to_yaml(),
            profile=built.profile.to_dict(),
        )
        rows = ", ".join(f"{snapshot.rows[part]:,} {part}" for part in ("train", "validation", "holdout"))
        watch.note(f"snapshot {snapshot.hash[:12]} {'reused' if built.reused else 'written'}: {rows} rows")
        return built

    def _train(self, built: BuiltSnapshot) -> tuple[list[TrialRecord], TrialRecord, str]:
        """Search, then refit if asked for; returns the trials, the best one and where the final weights are."""
        from raymlops.training.search import SearchFailed, run_search, share_parts
        from raymlops.training.space import trial_count

        context = self._context(built)
        metric = self.metric
        expected = trial_count(self.config)
        logged: set[int] = set()

        def on_update(records: Sequence[TrialRecord], changed: TrialRecord) -> None:
            self.steps.watch.trials(records, expected, metric.name, metric.mode)
            if changed.finished and changed.number not in logged:
                logged.add(changed.number)
                background.submit(self._log_trial, changed)

        with ThreadPoolExecutor(1, thread_name_prefix="tracking") as background:
            with self.steps.step("search", f"{expected} trials, comparing {metric.name}"):
                handles = share_parts(built.snapshot, self.config)
                try:
                    trials, best = run_search(context, handles, on_update)
                except SearchFailed as failure:
                    for trial in failure.trials:
                        if trial.number not in logged:
                            self._log_trial(trial)
                    raise
            for trial in trials:
                if trial.number not in logged:
                    background.submit(self._log_trial, trial)
            if not self.config.search.refit:
                return trials, best, best.path
            with self.steps.step("refit", f"{best.name} again, on training and validation rows"):
                from raymlops.training.refit import refit

                return trials, best, refit(context, handles, best)

    @property
    def metric(self) -> ValidationMetric:
        from raymlops.training.objective import ValidationMetric

        return ValidationMetric.resolve(self.config.train.metric, self.config.task, self.functions.get("train.metric"))

    def _context(self, built: BuiltSnapshot) -> Any:
        from raymlops.training.checkpoint import save_checkpoint
        from raymlops.training.loop import Target
        from raymlops.training.trial import TrialContext

        state = built.snapshot.state()
        target = Target(**state.target) if self.config.task == "regression" else Target()
        path = f"runs/{self.config.name}/{self.tracker.run_id}"
        start = None
        if self.origin.start is not None:
            start = f"{path}/start"
            save_checkpoint(self.store, start, self.origin.start.module.state_dict(), {})
        return TrialContext(
            config=self.config,
            spec=self._transform(built).spec,
            target=target,
            snapshot=built.snapshot,
            store=self.store,
            path=path,
            start=start,
            factory=self.functions.get("model.factory"),
            loss=self.functions.get("train.loss"),
            metric=self.functions.get("train.metric"),
        )

    def _transform(self, built: BuiltSnapshot) -> Any:
        from raymlops.features.transform import Transform

        derived = {name: self.functions[f"features.derived.{name}.function"] for name in self.config.features.derived}
        return Transform(self.config.features, built.snapshot.state(), self.config.task, derived)

    def _log_trial(self, trial: TrialRecord) -> None:
        try:
            self.tracker.log_trial(trial.name, trial.values, trial.curves, trial.status, trial.reason, trial.seconds)
        except Exception as error:  # a lost trial record must not cost the search
            log.warning("tracking: %s could not be recorded: %s", trial.name, error)


def _check_start(config: Config, start: ModelPackage | None) -> None:
    """Raises ConfigError when training cannot go on from these weights."""
    if start is None:
        return
    changed = [name for name in ("task", "model", "features") if getattr(config, name) != getattr(start.config, name)]
    if changed:
        raise ConfigError(
            f"retraining.train: a warm start needs the champion's {' and '.join(changed)}, but the configuration has "
            "others by now; use search"
        )


def _import_slow_modules() -> None:
    from raymlops.registry.backend import prepare_environment

    prepare_environment()  # before MLflow reads it
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
