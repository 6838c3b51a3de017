"""The world outside of a loop: labels and monitors, the data, the job, the registry, the endpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.config.tree import Config
from raymlops.data.contract_file import current_contract
from raymlops.errors import ConfigError, RaymlopsError
from raymlops.monitoring.signals import Observation
from raymlops.registry.backend import tracking
from raymlops.registry.versions import find_version
from raymlops.retraining import delivery, extents, orders
from raymlops.retraining.journal import Retraining
from raymlops.retraining.loop import Delivery, Extent, Trained
from raymlops.retraining.policy_types import Order
from raymlops.retraining.recipe import Recipe, job_config, make_recipe, retraining_contract
from raymlops.retraining.watch import Silent
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.retraining.watch import Watch

log = logging.getLogger(__name__)

PREDICTED = "time"
"""Column of labelled rows: when the prediction was made."""
TAG = "raymlops.retraining"
"""On runs and versions: the retraining that made them."""


class Production:
    """The real effects; see `Effects`."""

    def __init__(self, config: Config, base: Path, store: Store, watch: Watch | None = None) -> None:
        """Raises ConfigError for a `retraining:` that could not be carried out when the time has come."""
        self.config, self.base, self.store = config, base, store
        self.watch = watch or Silent()
        self.labelled = config.retraining.data == "labelled"
        _check(config)

    def look(self, now: datetime) -> Observation:
        from raymlops.monitoring.label_join import join_labels
        from raymlops.monitoring.watch import observe

        join_labels(self.config, self.store, now=now, base=self.base)
        return observe(self.config, self.base, self.store, now=now)

    def orders(self) -> tuple[Order, ...]:
        return orders.pending(self.store, self.config.name)

    def answered(self, order: str) -> None:
        orders.remove(self.store, self.config.name, order)

    def extent(self) -> Extent:
        if self.labelled:
            return extents.of_labelled(self._labelled_rows())
        return extents.of_source(self.config, self.base)

    def short(self, extent: Extent) -> str | None:
        window = self.config.retraining.window
        least = window.validation_days + window.holdout_days + 1
        if not self.labelled or self._clock() != PREDICTED or (extent.partitions or 0) >= least:
            return None
        return f"it takes {least} labelled days to train, validate and judge, found {extent.partitions}"

    def recipe(self, since: str | None, seen: Observation, now: datetime) -> Recipe:
        judged = [s.window for s in seen.signals if s.kind == "degradation" and s.window]
        if judged:
            last = date.fromisoformat(max(judged))
        else:
            last = (now.astimezone(UTC) - self.config.monitoring.label_delay - timedelta(days=1)).date()
        return make_recipe(self.config, self._clock(), last, since)

    def _clock(self) -> str | None:
        """The column that says when a row was predicted, in the data that is retrained on."""
        if not self.labelled:
            return self.config.time_column
        return PREDICTED if self.config.monitoring.time == "prediction" else self.config.monitoring.time

    def train(self, retraining: Retraining, now: datetime, fence: Callable[[], None]) -> Trained:
        from raymlops.retraining.pipeline import Origin, run_job

        recipe = Recipe(**retraining.began["recipe"])
        start, values = None, {}
        if recipe.train != "search":
            champion = find_version(self._registry, f"{self.config.name}/{retraining.began['champion']}").load()
            values = champion.manifest["facts"].get("values", {})
            start = champion if recipe.train == "warm_start" else None
        config = job_config(self.config, recipe, self._labelled_rows(), self._contract(), values)
        result = run_job(config, self.base, self.watch, now, Origin({TAG: retraining.id}, start, values, fence))
        return Trained(result.run_id, result.version, result.reasons, result.metrics, result.snapshot)

    def intent(self, retraining: Retraining) -> dict[str, Any]:
        return delivery.intended(self.config, self.store)

    def deliver(self, retraining: Retraining, now: datetime) -> Delivery:
        return delivery.deliver(self.config, self.store, retraining)

    def tell(self, event: dict[str, Any]) -> None:
        from raymlops.rollout.notify import send

        for failure in send(self.config.rollout.notify, event):
            log.warning("notify: %s", failure)

    @property
    def _registry(self) -> Any:
        return tracking(self.config.tracking.uri, self.store)

    def _labelled_rows(self) -> str:
        from raymlops.monitoring.labelled import labelled_path

        return self.store.location(labelled_path(self.config.name))

    def _contract(self) -> str:
        """File of the contract that binds retrainings: written anew each time from the model's own, which people edit;
        inferred from the first retraining's data where there is none."""
        path = f"retraining/{self.config.name}/contract.yaml"
        found = current_contract(self.config, self.base, self.store)
        if found is not None:
            bound = retraining_contract(found, self.config, self.labelled)
            self.store.write(path, bound.to_yaml().encode())
        return self.store.location(path)


def _check(config: Config) -> None:
    triggers, problems = config.retraining.triggers, []
    source = config.data.source.kind
    if config.retraining.data == "source":
        if triggers.partitions is not None and source in ("sql", "function"):
            problems.append(f"retraining.triggers.partitions: a source of kind {source} has none; use schedule")
        if triggers.rows is not None and source in ("csv", "sql", "function"):
            problems.append(
                f"retraining.triggers.rows: rows of a source of kind {source} cannot be counted without reading them; "
                "use schedule"
            )
    else:
        logged = {*config.features.raw_columns(), config.data.target}
        used = {*config.gate.slices}
        for behaviour in config.gate.behaviours:
            used.update(behaviour.where if behaviour.kind == "minimum" else [behaviour.column])
        if lacking := sorted(used - logged):
            problems.append(
                f"retraining.data: found 'labelled', but logged rows have no {', '.join(lacking)}, which gate needs; "
                "use source"
            )
    if problems:
        raise ConfigError(problems)


def require_champion(config: Config, store: Store) -> str:
    """The version that a loop watches. Raises RaymlopsError when there is none."""
    from raymlops.registry.versions import champion

    found = champion(tracking(config.tracking.uri, store), config.name)
    if found is None:
        raise RaymlopsError(
            f"model {config.name!r} has no champion to watch; register the first version with `raymlops run`"
        )
    return found.version
