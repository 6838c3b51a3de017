"""The main job: from raw rows to a registered champion or candidate, step by step."""

from __future__ import annotations

import importlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.cluster import check_shared_storage, connected
from raymlops.config import Config
from raymlops.errors import DataError
from raymlops.imports import resolve, ship_by_value, user_functions
from raymlops.retraining.result import RunResult
from raymlops.retraining.watch import Watch
from raymlops.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from raymlops.data.profile import Profile
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.registry.versions import VersionRef
    from raymlops.training.evaluation import Evaluation
    from raymlops.training.gate import Verdict
    from raymlops.training.objective import ValidationMetric
    from raymlops.training.search import TrialRecord

log = logging.getLogger(__name__)

SLOW_IMPORTS = ("mlflow", "mlflow.pyfunc", "torch", "raymlops.registry.tracking", "raymlops.registry.package")
EXAMPLE_ROWS = 5


def run_job(config: Config, base: Path, watch: Watch, now: datetime | None = None) -> RunResult:
    """Run the whole job that `config` describes; `base` is the configuration file's directory.

    Raises RaymlopsError (ConfigError, DataError, ContractViolated, ...) when a step cannot be done; a model that the
    gate refuses is a result, not an error.
    """
    steps = Steps(watch)
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
            tracker = Tracker(config, store, base, now)
        except BaseException:
            session.__exit__(None, None, None)
            raise
    watch.note(str(cluster))
    try:
        with tracker:
            return Job(config, base, store, functions, tracker, steps, now).run()
    finally:
        session.__exit__(None, None, None)


@dataclass
class Steps:
    """Times the steps and tells the watcher where the job is."""

    watch: Watch
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        self.watch.step_started(name, what)
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self.watch.step_failed(name)
            raise
        self.seconds[name] = round(time.perf_counter() - began, 3)
        self.watch.step_done(name, self.seconds[name])

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self.started, 3)}


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

    def run(self) -> RunResult:
        self.steps.watch.run_started(self.tracker.run_id)
        with self.steps.step("snapshot", "read, check, profile and encode the data"):
            built = self._snapshot()
        trials, best, weights_path = self._train(built)
        with tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
            directory = Path(folder) / "package"
            with self.steps.step("gate", "judge the model on the holdout"):
                package = self._package(directory, built, best, weights_path)
                judged = self._judge(package, built)
            with self.steps.step("register", "record, report and register"):
                model, version, alias = self._register(directory, package, built, judged)
            with self.steps.step("report", "draw the report"):
                self._report(package, built, trials, judged, version, alias)
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
        built = build_snapshot(self.config, self.base, self.store, tracker.run_id, self.now, self.functions, watch.note)
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
        from raymlops.training.loop import Target
        from raymlops.training.trial import TrialContext

        state = built.snapshot.state()
        target = Target(**state.target) if self.config.task == "regression" else Target()
        return TrialContext(
            config=self.config,
            spec=self._transform(built).spec,
            target=target,
            snapshot=built.snapshot,
            store=self.store,
            path=f"runs/{self.config.name}/{self.tracker.run_id}",
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

    def _package(self, directory: Path, built: BuiltSnapshot, best: TrialRecord, weights_path: str) -> ModelPackage:
        """Write the package and load it again: what is judged is what would be registered."""
        from raymlops.registry.package import load_package, write_package
        from raymlops.training.checkpoint import load_checkpoint
        from raymlops.training.space import with_values

        weights, _ = load_checkpoint(self.store, weights_path)
        facts = {
            "run_id": self.tracker.run_id,
            "snapshot": built.snapshot.hash,
            "trial": best.name,
            "values": best.values,
        }
        write_package(
            directory,
            config=with_values(self.config, best.values),
            state=built.snapshot.state(),
            weights=weights,
            base=self.base,
            facts=facts,
            created=self.now,
        )
        return load_package(directory)

    def _judge(self, package: ModelPackage, built: BuiltSnapshot) -> Judged:
        from raymlops.training.evaluation import evaluate
        from raymlops.training.gate import decide

        frame = built.snapshot.table("holdout").to_pandas()
        labels = package.transform.raw_targets(frame[self.config.data.target])
        training = built.snapshot.table("train").column(self.config.data.target)
        champion = self.tracker.champion()
        evaluation = evaluate(
            self.config,
            frame,
            labels,
            package.scores,
            champion=champion_scores(champion, package.classes) if champion is not None else None,
            champion_version=champion.version if champion is not None else None,
            metric=self.metric,
            seed=self.config.seed,
            train_target=package.transform.raw_targets(training),
        )
        return Judged(evaluation, decide(self.config, evaluation), labels, package.scores(frame), champion)

    def _register(
        self, directory: Path, package: ModelPackage, built: BuiltSnapshot, judged: Judged
    ) -> tuple[str, str | None, str | None]:
        example = built.snapshot.table("holdout").slice(0, EXAMPLE_ROWS).to_pandas()
        logged = self.tracker.log_package(directory, package, example)
        self.tracker.log_evaluation(judged.evaluation, judged.verdict, logged)
        if not judged.verdict.blessed:
            self.tracker.refuse(logged, judged.verdict)
            return logged.uri, None, None
        registered = self.tracker.register(
            logged, judged.verdict, judged.evaluation.metrics, built.snapshot.hash, judged.champion
        )
        return registered.uri, registered.version, registered.alias

    def _report(
        self,
        package: ModelPackage,
        built: BuiltSnapshot,
        trials: list[TrialRecord],
        judged: Judged,
        version: str | None,
        alias: str | None,
    ) -> None:
        from raymlops.registry.report import ReportData, render_report

        evaluation = judged.evaluation.to_dict()
        sign = 1.0 if self.metric.mode == "min" else -1.0
        ranked = sorted(trials, key=lambda t: (t.best_metric is None, sign * (t.best_metric or 0.0)))
        snapshot = built.snapshot
        data = ReportData(
            name=self.config.name,
            task=self.config.task,
            target=self.config.data.target,
            run_id=self.tracker.run_id,
            created=self.now,
            blessed=judged.verdict.blessed,
            reasons=judged.verdict.reasons,
            metrics=judged.evaluation.metrics,
            metric=self.metric.name,
            greater_is_better=self.metric.mode == "max",
            y=judged.labels,
            scores=judged.scores,
            trials=[
                {
                    "name": trial.name,
                    "status": trial.status,
                    "reason": trial.reason,
                    "params": trial.values,
                    "metric": trial.best_metric,
                    "curves": trial.curves,
                    "seconds": trial.seconds,
                }
                for trial in ranked
            ],
            snapshot=snapshot.hash,
            rows=snapshot.rows,
            lineage=self.tracker.lineage,
            classes=package.classes,
            checks=[asdict(check) for check in judged.verdict.checks],
            baseline=evaluation["baseline"],
            comparison=evaluation["comparison"],
            slices=evaluation["slices"],
            behaviours=evaluation["behaviours"],
            source=built.source,
            contract=built.contract.to_yaml(),
            profile=report_profile(built.profile),
            version=version,
            alias=alias,
            weights_sha256=package.manifest["weights_sha256"],
            seconds=self.steps.seconds,
        )
        self.tracker.log_report(render_report(data))


def data_notes(built: BuiltSnapshot) -> list[str]:
    """What somebody should know about the data although nothing was refused."""
    notes = []
    if built.contract_inferred:
        notes.append("the contract was inferred from this data; later data is checked against it")
    if built.quarantined:
        notes.append(f"{built.quarantined:,} rows break the contract and were moved to {built.quarantine_path}")
    for column, values in built.new_categories.items():
        shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
        notes.append(f"{column}: {len(values)} value(s) that the contract does not list: {shown}")
    return notes


def champion_scores(champion: VersionRef, classes: list[str]) -> Callable[[pd.DataFrame], np.ndarray]:
    """Scores of the champion, loaded when asked for: one that cannot be loaded is the gate's business."""

    def scores(frame: pd.DataFrame) -> np.ndarray:
        package = champion.load()
        if package.classes != classes:
            raise DataError(f"it knows the classes {package.classes}, this model {classes}")
        return package.scores(frame)

    return scores


def report_profile(profile: Profile) -> dict[str, dict[str, Any]]:
    """The profile's columns with the names that the report's table uses."""
    rows = {}
    for name, column in profile.to_dict()["columns"].items():
        quantiles = column.pop("quantiles")
        variance = column.pop("variance")
        top = ", ".join(f"{value} ({count:,})" for value, count in column.pop("top")[:3])
        extra = {"q05": quantiles.get("0.05"), "median": quantiles.get("0.5"), "q95": quantiles.get("0.95")}
        rows[name] = {**column, **extra, "std": None if variance is None else variance**0.5, "top": top or None}
    return rows


@dataclass(frozen=True)
class Judged:
    """What the gate saw and said."""

    evaluation: Evaluation
    verdict: Verdict
    labels: np.ndarray
    scores: np.ndarray
    champion: Any


def _import_slow_modules() -> None:
    from raymlops.registry.backend import prepare_environment

    prepare_environment()  # before MLflow reads it
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
