"""Optuna's tree-structured Parzen estimator with draws that depend on what is known, not on how it became known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from raymlops.training.batches import generator


class NumberedTpe(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """Draws trial n from a generator keyed by (seed, n).

    One generator for all trials would be at its beginning again when a search goes on after a kill, and would suggest
    its first trials a second time.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        drawn = generator("", self.seed, "tpe", trial.number).integers(2**31)
        self.now = optuna.samplers.TPESampler(seed=int(drawn))
        self.now.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space: dict[str, BaseDistribution] = self.now.infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn: dict[str, Any] = self.now.sample_relative(study, trial, dict(search_space))
        return drawn

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.now.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.now.after_trial(study, trial, state, values)
