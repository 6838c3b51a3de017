"""Orders to retrain: a file each below `retraining/NAME/inbox`, by people (`raymlops loop trigger`) or other systems.

Whoever may write to the store may order; there is no server to protect. An order is read until a retraining answers it.
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


def place(store: Store, name: str, reason: str, by: str, force: bool = False) -> Order:
    """Put an order into the inbox. Raises ConfigError without a reason, StoreError."""
    if not reason.strip():
        raise ConfigError("--reason: found none; say why, it is written to the ledger")
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    order = Order(f"{stamp}-{secrets.token_hex(3)}", now, by, reason.strip(), force)
    store.write(f"{_inbox(name)}/{order.id}.json", json.dumps(asdict(order)).encode())
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
            order = Order(match[1], float(raw["at"]), str(raw["by"]), str(raw["reason"]), raw.get("force") is True)
            found.append(order)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s/%s: not an order (%s: %s)", _inbox(name), file, type(error).__name__, error)
    return tuple(sorted(found, key=lambda order: (order.at, order.id)))


def remove(store: Store, name: str, order: str) -> None:
    store.delete_file(f"{_inbox(name)}/{order}.json")


def _inbox(name: str) -> str:
    return f"retraining/{name}/inbox"
