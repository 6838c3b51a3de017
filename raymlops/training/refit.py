"""One configuration trained outside of a search: the winner again, or a recorded training to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.training.ddp import run_data_parallel
from raymlops.training.space import with_values
from raymlops.training.state import remove_states
from raymlops.training.trial import Handles, TrialContext, describe_failure, run_single

if TYPE_CHECKING:  # importing the search engine would cost the worker a second for nothing
    from raymlops.training.records import TrialRecord


def refit(context: TrialContext, handles: Handles, best: TrialRecord) -> str:
    """Train the winner on training and validation rows together and return the path of the checkpoint.

    There is no validation part any more to stop at, so the epoch that was best in the search is the last one. The
    learning-rate schedule is shortened with it: cut off half-way, it would end at a rate that is far too high. Called
    again over the same `context.path` after a kill, it goes on from its last stored state. Raises RaymlopsError saying
    why it could not be done.
    """
    config = with_values(context.config, {**best.values, "train.epochs": best.best_epoch})
    path = f"{context.path}/refit"
    try:
        train_on_cluster(config, context, handles, path, refit=True)
    except Exception as error:
        raise RaymlopsError(f"refit of {best.name}: {describe_failure(error)}") from error
    return path


def train_on_cluster(
    config: Config, context: TrialContext, handles: Handles, path: str, *, refit: bool, until: int | None = None
) -> None:
    """Train one configuration, with the bits that a trial (`refit` False) or a refit of it has; the checkpoint of its
    best epoch is at `path` then.

    `until` is the epoch to end after, with the learning rates of the whole training: the best epoch of a trial that was
    pruned or stopped early brings its weights again. Raises what the workers raised.
    """
    train = config.train
    if train.most_workers > 1:
        run_data_parallel(config, context, handles, path, name=path.rpartition("/")[2], refit=refit, until=until)
    else:
        task: Any = ray.remote(
            num_cpus=train.cpus_per_worker, num_gpus=train.gpus_per_worker, max_retries=train.max_failures
        )(_single)
        ray.get(task.remote(config, context, handles, path, refit, until))
    remove_states(context.store, path)


def _single(config: Config, context: TrialContext, handles: Handles, path: str, refit: bool, until: int | None) -> None:
    run_single(config, context, handles, path, lambda metrics: None, refit=refit, until=until)
