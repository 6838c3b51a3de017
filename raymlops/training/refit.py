"""The winner again, on training and validation rows together, for as many epochs as were best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.training.ddp import run_data_parallel
from raymlops.training.space import with_values
from raymlops.training.trial import Handles, TrialContext, describe_failure, fit, open_rows

if TYPE_CHECKING:  # importing the search engine would cost the worker a second for nothing
    from raymlops.training.search import TrialRecord


def refit(context: TrialContext, handles: Handles, best: TrialRecord) -> str:
    """Train on the cluster and return the path of the checkpoint. Raises RaymlopsError saying why it could not.

    There is no validation part any more to stop at, so the epoch that was best in the search is the last one. The
    learning-rate schedule is shortened with it: cut off half-way, it would end at a rate that is far too high.
    """
    config = with_values(context.config, {**best.values, "train.epochs": best.best_epoch})
    path = f"{context.path}/refit"
    train = config.train
    try:
        if train.workers > 1:
            run_data_parallel(config, context, handles, path, name="refit", refit=True)
        else:
            task: Any = ray.remote(num_cpus=train.cpus_per_worker, num_gpus=train.gpus_per_worker, max_retries=1)(
                _single
            )
            ray.get(task.remote(config, context, handles, path))
    except Exception as error:
        raise RaymlopsError(f"refit of {best.name}: {describe_failure(error)}") from error
    return path


def _single(config: Config, context: TrialContext, handles: Handles, path: str) -> None:
    import torch

    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    rows, _ = open_rows(context, handles, refit=True)
    fit(config, context, rows, None, path, lambda metrics: None)
