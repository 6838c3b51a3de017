"""Orders to retrain: a file each below `retraining/NAME/inbox`, by people (`raymlops loop trigger`) or other systems.

Whoever may write to the store may order, and an endpoint with a token for administration takes orders by HTTP. An order
is read until a retraining answers it.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from dataclasses import asdict

from raymlops.errors import ConfigError
from raymlops.retraining.policy_types import Order
from raymlops.store import Store

log = logging.getLogger(__name__)


def place(store: Store, model: str, reason: str, by: str, force: bool = False, name: str | None = None) -> Order:
    """Put an order into the inbox of a model. One of the same `name` is the same order, also when it was answered long
    ago. Raises ConfigError without a reason, StoreError."""
    if not reason.strip():
        raise ConfigError("--reason: found none; say why, it is written to the ledger")
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    order = Order(name or f"{stamp}-{secrets.token_hex(3)}", now, _text(by), _text(reason.strip()), force)
    store.write(f"{_inbox(model)}/{order.id}.json", json.dumps(asdict(order)).encode())
    return order


def pending(store: Store, name: str) -> tuple[Order, ...]:
    """Orders, oldest first. What is not one is left where it is and logged."""
    found = []
    for file in store.list(_inbox(name)):
        match = re.fullmatch(r"([A-Za-z0-9_.-]{1,100})\.json", file)
        if match is None or file.startswith("."):
            continue
        try:
            raw = json.loads(store.read(f"{_inbox(name)}/{file}"))
            by, reason = _text(str(raw["by"])), _text(str(raw["reason"]))
            found.append(Order(match[1], float(raw["at"]), by, reason, raw.get("force") is True))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s/%s: not an order (%s: %s)", _inbox(name), file, type(error).__name__, error)
    return tuple(sorted(found, key=lambda order: (order.at, order.id)))


def remove(store: Store, name: str, order: str) -> None:
    store.delete_file(f"{_inbox(name)}/{order}.json")


def _text(given: str) -> str:
    """JSON can spell half a surrogate pair, which no terminal prints."""
    return given.encode("utf-8", "replace").decode()


def _inbox(name: str) -> str:
    return f"retraining/{name}/inbox"
