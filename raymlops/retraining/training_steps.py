"""Search and refit: from a snapshot to the weights that are going to be judged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raymlops.retraining.desk import Desk
from raymlops.retraining.steps import Steps

if TYPE_CHECKING:
    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.tracking import Tracker
    from raymlops.training.objective import ValidationMetric
    from raymlops.training.records import TrialRecord
    from raymlops.training.trial import Handles, TrialContext

log = logging.getLogger(__name__)


@dataclass
class TrainingSteps:
    """The two steps of a run that train."""

    desk: Desk
    built: BuiltSnapshot
    functions: dict[str, Any]
    tracker: Tracker
    steps: Steps

    @property
    def metric(self) -> ValidationMetric:
        from raymlops.training.objective import ValidationMetric

        config = self.desk.config
        return ValidationMetric.resolve(config.train.metric, config.task, self.functions.get("train.metric"))

    def search(self) -> dict[str, Any]:
        """Every trial, and the winner with the hash of its weights. Trials that the run finished before it was stopped
        are found again below its path."""
        from raymlops.training.search import SearchFailed, run_search
        from raymlops.training.space import trial_count

        metric, expected = self.metric, trial_count(self.desk.config)
        logged: set[int] = set()

        def on_update(records: Sequence[TrialRecord], changed: TrialRecord) -> None:
            self.steps.watch.trials(records, expected, metric.name, metric.mode)
            if changed.finished and changed.number not in logged:
                logged.add(changed.number)
                background.submit(self._log_trial, changed)

        with ThreadPoolExecutor(1, thread_name_prefix="tracking") as background:
            try:
                trials, best = run_search(self._context, self._handles, on_update)
            except SearchFailed as failure:
                for trial in failure.trials:
                    if trial.number not in logged:
                        self._log_trial(trial)
                raise
            for trial in trials:
                if trial.number not in logged:
                    background.submit(self._log_trial, trial)
        winner = {"name": best.name, "values": best.values, "epoch": best.best_epoch, **self._checkpoint(best.path)}
        return {"trials": [asdict(trial) for trial in trials], "winner": winner}

    def refit(self, search: Mapping[str, Any]) -> dict[str, Any]:
        from raymlops.training.refit import refit

        best = next(trial for trial in trials_of(search) if trial.name == search["winner"]["name"])
        return self._checkpoint(refit(self._context, self._handles, best))

    def _checkpoint(self, path: str) -> dict[str, str]:
        from raymlops.training.checkpoint import load_checkpoint

        return {"path": path, "weights_sha256": load_checkpoint(self.desk.store, path)[1]["weights_sha256"]}

    @cached_property
    def _handles(self) -> Handles:
        from raymlops.training.search import share_parts

        return share_parts(self.built.snapshot, self.desk.config)

    @cached_property
    def _context(self) -> TrialContext:
        from raymlops.retraining.context import trial_context

        config, start = self.desk.config, self.desk.origin.start
        path = f"runs/{config.name}/{self.tracker.run_id}"
        weights = None if start is None else start.module.state_dict()
        return trial_context(config, self.built.snapshot, self.desk.store, path, self.functions, weights)

    def _log_trial(self, trial: TrialRecord) -> None:
        try:
            self.tracker.log_trial(trial.name, trial.values, trial.curves, trial.status, trial.reason, trial.seconds)
        except Exception as error:  # a lost trial record must not cost the search
            log.warning("tracking: %s could not be recorded: %s", trial.name, error)


def trials_of(search: Mapping[str, Any]) -> list[TrialRecord]:
    """The trials of a search that was recorded."""
    from raymlops.training.records import TrialRecord

    return [TrialRecord(**trial) for trial in search["trials"]]
