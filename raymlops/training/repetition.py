"""The winner of a finished search once more: through the code that trained it, without the search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymlops.errors import RaymlopsError
from raymlops.training.records import TrialRecord
from raymlops.training.refit import refit as refit_winner
from raymlops.training.refit import train_on_cluster
from raymlops.training.space import with_values
from raymlops.training.trial import Handles, TrialContext, describe_failure


def repeat_trial(
    context: TrialContext, handles: Handles, name: str, values: Mapping[str, Any], epoch: int, *, refit: bool
) -> str:
    """Train on the cluster and return the path of the checkpoint: of the refit, or of the trial at its best `epoch`.

    `values` are what the search chose for the trial called `name`. Raises RaymlopsError saying why it could not.
    """
    path = f"{context.path}/{name}"
    if refit:
        number = int(name.rpartition("-")[2])
        return refit_winner(context, handles, TrialRecord(number, dict(values), path, best_epoch=epoch))
    try:
        train_on_cluster(with_values(context.config, values), context, handles, path, refit=False, until=epoch)
    except Exception as error:
        raise RaymlopsError(f"{name} again: {describe_failure(error)}") from error
    return path
