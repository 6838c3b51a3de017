"""What becomes of a registered version: a rollout where the model has an endpoint, else the alias moves at once.

Whether a rollout began and how it ended is read in the endpoint's own ledger, which lies in the same store. So nothing
is started twice, and an endpoint that is away for a while is waited for.
"""

from __future__ import annotations

from typing import Any, Literal

from raymlops.chain import Entry
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.registry.backend import tracking
from raymlops.retraining.journal import Retraining
from raymlops.retraining.loop import Delivery
from raymlops.rollout import promotion
from raymlops.rollout.ledger import Ledger
from raymlops.store import Store

How = Literal["rollout", "alias", "none"]


def intended(config: Config, store: Store) -> dict[str, Any]:
    """How a version is to be delivered: `how`, and with a rollout the number of the last entry before it."""
    numbers = Ledger(store, config.name).numbers() if config.retraining.rollout == "auto" else []
    how: How = "none" if config.retraining.rollout == "none" else "rollout" if numbers else "alias"
    return {"how": how, "after": numbers[-1] if numbers else 0}


def deliver(config: Config, store: Store, retraining: Retraining) -> Delivery:
    """Carry the intent out as far as it goes now; may be called again and again."""
    assert retraining.delivering is not None and retraining.trained is not None
    version, how = str(retraining.trained["version"]), retraining.delivering["how"]
    if how == "none":
        return Delivery("registered", f"version {version} is a candidate; retraining.rollout leaves it to people")
    if how == "alias":
        return _move_alias(config, store, version, str(retraining.began["champion"]))
    entries = Ledger(store, config.name).entries(after=retraining.delivering["after"])
    found = course(entries, version)
    if found is not None:
        return found
    from raymlops.rollout.client import RolloutClient

    try:
        RolloutClient(config.name, config.ray.address, by=f"retraining {retraining.id}").start([version])
    except RaymlopsError as error:  # refused for now, or away: it is asked again
        return Delivery(None, f"the rollout of version {version} cannot begin: {error}")
    return Delivery(None, f"the rollout of version {version} has begun")


def course(entries: list[Entry], version: str) -> Delivery | None:
    """How far the rollout of a version is, by the endpoint's ledger; None when it has not begun."""
    found: Delivery | None = None
    for entry in entries:
        if entry.kind == "started":
            versions = [candidate["model"]["version"] for candidate in entry.payload["candidates"]]
            if version in versions:
                found = Delivery(None, f"rollout {entry.payload['id']} is under way")
        elif found is not None and entry.kind == "finished":
            return Delivery("promoted", entry.payload["reason"])
        elif found is not None and entry.kind == "rollback":
            return Delivery("rolled_back", f"{entry.payload['cause']}: {entry.payload['reason']}")
        elif found is not None and entry.kind in ("running", "step", "promoting"):
            found = Delivery(None, f"the rollout is {'promoting' if entry.kind == 'promoting' else 'running'}")
    return found


def _move_alias(config: Config, store: Store, version: str, before: str) -> Delivery:
    registry = tracking(config.tracking.uri, store)
    found = promotion.seen_alias(registry, config.name)
    if found not in (version, before):
        return Delivery("superseded", f"somebody made version {found} the champion, it was {before}")
    promotion.move_alias(registry, config.name, version)
    return Delivery("promoted", f"the alias moved from version {before} to version {version}; there is no endpoint")
