"""The winner again, on training and validation rows together, for as many epochs as were best."""

from __future__ import annotations

from typing import Any

import ray

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.training.ddp import run_data_parallel
from raymlops.training.search import TrialRecord
from raymlops.training.space import with_values
from raymlops.training.trial import Handles, TrialContext, describe_failure, fit, open_rows


def refit(context: TrialContext, handles: Handles, best: TrialRecord) -> str:
    """Train on the cluster and return the path of the checkpoint. Raises RaymlopsError saying why it could not.

    There is no validation part any more to stop at, so the epoch that was best in the search is the last one; the
    learning-rate schedule stays as long as it was.
    """
    config = with_values(context.config, best.values)
    path = f"{context.path}/refit"
    train = config.train
    try:
        if train.workers > 1:
            run_data_parallel(config, context, handles, path, name="refit", refit=True, stop_after=best.best_epoch)
        else:
            task: Any = ray.remote(num_cpus=train.cpus_per_worker, num_gpus=train.gpus_per_worker, max_retries=1)(
                _single
            )
            ray.get(task.remote(config, context, handles, path, best.best_epoch))
    except Exception as error:
        raise RaymlopsError(f"refit of {best.name}: {describe_failure(error)}") from error
    return path


def _single(config: Config, context: TrialContext, handles: Handles, path: str, stop_after: int) -> None:
    import torch

    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    rows, _ = open_rows(context, handles, refit=True)
    fit(config, context, rows, None, path, lambda metrics: None, stop_after=stop_after)
