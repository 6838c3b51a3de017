"""What trials need around them, from a configuration and a snapshot: the same for a job and for its reproduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymlops.config.tree import Config
from raymlops.store import Store

if TYPE_CHECKING:
    import torch

    from raymlops.data.snapshot import Snapshot
    from raymlops.training.trial import TrialContext


def trial_context(
    config: Config,
    snapshot: Snapshot,
    store: Store,
    path: str,
    functions: Mapping[str, Any],
    start: Mapping[str, torch.Tensor] | None = None,
) -> TrialContext:
    """`path` is where trials write, below the store; `functions` are the configuration's resolved import paths by key
    path. With `start`, training goes on from these weights, which are stored beside the trials."""
    from raymlops.features.transform import Transform
    from raymlops.training.checkpoint import save_checkpoint
    from raymlops.training.loop import Target
    from raymlops.training.trial import TrialContext

    state = snapshot.state()
    derived = {name: functions[f"features.derived.{name}.function"] for name in config.features.derived}
    started = None
    if start is not None:
        started = f"{path}/start"
        save_checkpoint(store, started, start, {})
    return TrialContext(
        config=config,
        spec=Transform(config.features, state, config.task, derived).spec,
        target=Target(**state.target) if config.task == "regression" else Target(),
        snapshot=snapshot,
        store=store,
        path=path,
        start=started,
        factory=functions.get("model.factory"),
        loss=functions.get("train.loss"),
        metric=functions.get("train.metric"),
    )
