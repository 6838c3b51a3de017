"""Predictions and their labels become outcomes, each at its own fixed horizon, with or without a label."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.rollout.evidence.reports import Outcome

DELIVERY_SECONDS = 5.0
"""How long a label that came in time may take from the endpoint to here. The evidence waits so much longer."""
MAX_PREDICTIONS, MAX_EARLY_LABELS = 20_000, 20_000


class LabelJoin:
    """Bounded memory of predictions that wait for their horizon.

    When too many wait, only those of every second id are kept from then on (then every fourth, …), chosen by hash: a
    rule that knows neither the arm nor when a label comes.
    """

    def __init__(self, rules: Mapping[str, tuple[float, float]], *, classes: bool) -> None:
        self._rules, self._classes = dict(rules), classes
        """Metric → horizon in seconds, and the absolute error that counts as quality 0."""
        self._waiting: dict[str, list[Any]] = {}
        """Prediction id → epoch, arm, key, routed_at, prediction, label, label_at, metrics that are still open."""
        self._due: list[tuple[float, str, str]] = []
        self._by_key: dict[int, str] = {}
        self._early: dict[str, tuple[Any, float]] = {}
        self._kept = 1.0
        self.thinned = self.unreadable = 0

    def predicted(self, row: Sequence[Any]) -> None:
        """One row of a report: prediction id, epoch, arm, key hash or None, routed_at, prediction."""
        identity, epoch, arm, key, at, prediction = row
        if identity in self._waiting or not self._rules:
            return
        if _position(identity) >= self._kept:
            self.thinned += 1
            return
        label, label_at = self._early.pop(identity, (None, None))
        self._waiting[identity] = [epoch, arm, key, at, prediction, label, label_at, len(self._rules)]
        if key is not None:
            self._by_key.setdefault(key, identity)
        for metric, (horizon, _) in self._rules.items():
            heapq.heappush(self._due, (at + horizon + DELIVERY_SECONDS, identity, metric))
        while len(self._waiting) > MAX_PREDICTIONS:
            self._thin()

    def labelled(self, row: Sequence[Any]) -> None:
        """One row of a report: prediction id or None, label, when it came, and the key hash for a label by key. The
        first label of a prediction counts."""
        identity, label, at = row[:3]
        if identity is None:
            identity = self._by_key.get(row[3]) if len(row) > 3 else None
        if identity is None:
            return
        waiting = self._waiting.get(identity)
        if waiting is not None:
            if waiting[6] is None:
                waiting[5:7] = label, at
        elif len(self._early) < MAX_EARLY_LABELS:
            self._early.setdefault(identity, (label, at))

    def due(self, now: float) -> tuple[Outcome, ...]:
        """Outcomes whose horizon has passed; each is handed out once."""
        found = []
        while self._due and self._due[0][0] <= now:
            _, identity, metric = heapq.heappop(self._due)
            row = self._waiting.get(identity)
            if row is None:
                continue
            epoch, arm, key, at, prediction, label, label_at, _ = row
            horizon, scale = self._rules[metric]
            value = None if label_at is None or label_at > at + horizon else self._quality(prediction, label, scale)
            found.append(Outcome(epoch, arm, key, metric, at, None if value is None else label_at, value))
            row[7] -= 1
            if not row[7]:
                self._drop(identity)
        oldest = now - max((horizon for horizon, _ in self._rules.values()), default=0.0) - DELIVERY_SECONDS
        self._early = {identity: row for identity, row in self._early.items() if row[1] > oldest}
        return tuple(found)

    def _quality(self, prediction: Any, label: Any, scale: float) -> float | None:
        if self._classes:
            return float(str(prediction) == str(label))
        try:
            error = abs(float(prediction) - float(label))
        except (TypeError, ValueError):
            error = math.nan
        if not math.isfinite(error):
            self.unreadable += 1
            return None
        return max(0.0, 1.0 - error / scale)

    def _thin(self) -> None:
        self._kept /= 2.0
        for identity in [i for i in self._waiting if _position(i) >= self._kept]:
            self._drop(identity)
            self.thinned += 1

    def _drop(self, identity: str) -> None:
        key = self._waiting.pop(identity)[2]
        if self._by_key.get(key) == identity:
            del self._by_key[key]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rules": {name: list(rule) for name, rule in self._rules.items()},
            "classes": self._classes,
            "waiting": [[identity, *row] for identity, row in self._waiting.items()],
            "due": self._due,
            "early": [[identity, *row] for identity, row in self._early.items()],
            "kept": self._kept,
            "counters": [self.thinned, self.unreadable],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelJoin:
        rules = {name: (rule[0], rule[1]) for name, rule in data["rules"].items()}
        made = cls(rules, classes=data["classes"])
        made._waiting = {row[0]: list(row[1:]) for row in data["waiting"]}
        made._by_key = {row[2]: identity for identity, row in reversed(made._waiting.items()) if row[2] is not None}
        made._due = [(at, identity, metric) for at, identity, metric in data["due"]]
        made._early = {identity: (label, at) for identity, label, at in data["early"]}
        made._kept = data["kept"]
        made.thinned, made.unreadable = data["counters"]
        return made


def _position(identity: str) -> float:
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=4).digest(), "big") / 2.0**32
