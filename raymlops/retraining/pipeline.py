"""The main job: from raw rows to a registered champion or candidate, step by step."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.cluster import check_shared_storage, connected
from raymlops.config import Config
from raymlops.errors import RaymlopsError
from raymlops.imports import resolve, ship_by_value, user_functions
from raymlops.retraining.result import RunResult
from raymlops.retraining.watch import Watch
from raymlops.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.training.evaluation import Evaluation
    from raymlops.training.gate import Verdict
    from raymlops.training.search import TrialRecord

log = logging.getLogger(__name__)


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


def run_job(config: Config, base: Path, watch: Watch, now: datetime | None = None) -> RunResult:
    """Run the whole job that `config` describes; `base` is the configuration file's directory.

    Raises RaymlopsError (ConfigError, DataError, ContractViolated, …) when a step cannot be done; a model that the gate
    refuses is a result, not an error.
    """
    steps = Steps(watch)
    now = now or datetime.now(UTC)
    functions = {field: resolve(path, field) for field, path in user_functions(config).items()}
    store = Store(config.storage if "://" in config.storage else str(Path(config.storage).expanduser().resolve()))
    warm = _import_in_background()
    with steps.step("start", "Ray and tracking"), watch.quiet():
        from raymlops.training.space import check_space

        check_space(config)
        session = connected(config)
        cluster = session.__enter__()
    try:
        with watch.quiet():
            watch.note(str(cluster))
            check_shared_storage(config, store, cluster.nodes)
            ship_by_value(base)
            warm.join()
            from raymlops.registry.tracking import Tracker

            with Tracker(config, store, base, now) as tracker:
                return _Job(config, base, store, functions, tracker, steps, now).run()
    finally:
        with watch.quiet():
            session.__exit__(None, None, None)


@dataclass
class _Job:
    config: Config
    base: Path
    store: Store
    functions: dict[str, Any]
    tracker: Tracker
    steps: Steps
    now: datetime

    def run(self) -> RunResult:
        watch, tracker = self.steps.watch, self.tracker
        watch.run_started(tracker.run_id)
        with self.steps.step("snapshot", "read, check, profile and encode the data"):
            built = self._snapshot()
        with self.steps.step("search", "train and compare trials"):
            trials, best, context, handles = self._search(built)
        weights = f"{best.path}"
        if self.config.search.refit:
            with self.steps.step("refit", "train the winner on training and validation rows"):
                weights = self._refit(best, context, handles)
        with tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
            directory = Path(folder) / "package"
            with self.steps.step("gate", "judge on the holdout"):
                package, manifest = self._package(directory, weights, built, best)
                evaluation, verdict, holdout = self._judge(package, built)
            with self.steps.step("register", "record, register and report"):
                version, alias, model = self._register(
                    directory, package, manifest, built, trials, best, evaluation, verdict, holdout
                )
        return RunResult(
            run_id=tracker.run_id,
            name=self.config.name,
            model=model,
            version=version,
            alias=alias,
            verdict="blessed" if verdict.blessed else "refused",
            reasons=verdict.reasons,
            metrics=evaluation.metrics,
            snapshot=built.snapshot.hash,
            weights_sha256=manifest["weights_sha256"],
            seconds=self.steps.total(),
        )
