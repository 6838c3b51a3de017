"""Labelled outcomes that wait for their horizon."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raymlops.rollout.evidence.reports import Outcome


class OutcomeQueue:
    """Hands outcomes out in the order of their predictions, each at its own horizon.

    When more than `limit` wait, only those of every second key are kept from then on (then every fourth, …): which
    keys, a hash says. Keeping the first to arrive instead would keep outcomes that are known early, which is not fair
    if bad ones are known sooner than good ones.
    """

    def __init__(self, horizons: Mapping[str, float], limit: int) -> None:
        self._horizons, self._limit = horizons, limit
        self._waiting: list[Outcome] = []
        self._watermark: dict[str, float] = {}
        self._kept = 1.0
        self.skipped = 0
        """Outcomes that were reported after their turn, or not kept."""

    def add(self, outcome: Outcome) -> None:
        if _position(outcome) >= self._kept:
            self.skipped += 1
            return
        self._waiting.append(outcome)
        while len(self._waiting) > self._limit:
            self._kept /= 2.0
            kept = [o for o in self._waiting if _position(o) < self._kept]
            self.skipped += len(self._waiting) - len(kept)
            self._waiting = kept

    def take_due(self, now: float) -> list[Outcome]:
        """Outcomes whose horizon has passed, in the order of their predictions."""
        due, waiting = [], []
        for outcome in sorted(self._waiting, key=lambda o: o.routed_at):
            if outcome.routed_at > now - self._horizons[outcome.metric]:
                waiting.append(outcome)
            elif outcome.routed_at <= self._watermark.get(outcome.metric, -math.inf):
                self.skipped += 1
            else:
                due.append(outcome)
        self._waiting = waiting
        self._watermark = {metric: now - horizon for metric, horizon in self._horizons.items()}
        return due

    def to_dict(self) -> dict[str, Any]:
        rows = [asdict(outcome) for outcome in self._waiting]
        return {"waiting": rows, "watermark": self._watermark, "kept": self._kept, "skipped": self.skipped}

    def load(self, data: dict[str, Any]) -> None:
        self._waiting = [Outcome(**row) for row in data["waiting"]]
        self._watermark, self._kept, self.skipped = data["watermark"], data["kept"], data["skipped"]


def _position(outcome: Outcome) -> float:
    """A number in [0, 1) that depends on the key, or on the time of a request without one, and on nothing else."""
    if outcome.key is not None:
        return (outcome.key & 0xFFFFFFFF) / 2.0**32
    digest = hashlib.blake2b(struct.pack("<qd", outcome.epoch, outcome.routed_at), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2.0**32
