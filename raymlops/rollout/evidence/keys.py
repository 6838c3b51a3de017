"""Which keys were counted: exact, bounded, about 11 bytes a key."""

from __future__ import annotations

import base64
from array import array
from bisect import bisect_left
from typing import Any

import numpy as np

MAX_METRICS = 15
"""One bit per metric and one for the first request, in 16 bits."""

_FRESH_MIN = 256


class SeenKeys:
    """Remembers, per key, the metrics already counted and the replica whose first request is the key's first.

    Keys are 64-bit hashes. Settled keys lie in sorted arrays (8 + 2 + 1 bytes each); new ones in a small dict that is
    merged when it holds more than 256 keys and a 64th of the settled ones, so that memory stays below 16 bytes a key
    and an update costs a binary search.

    At `limit` keys a *new* key is refused: nothing of it is ever counted. The rule looks at the pooled number of keys
    and at no arm, so it costs power and not validity; `refused` says how often it happened.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self.limit = limit
        self.refused = 0
        self._hashes = array("Q")
        self._masks = array("H")
        self._slots = array("B")
        self._fresh: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._hashes) + len(self._fresh)

    def count_once(self, key: int, metric: int) -> bool:
        """True the first time that this key is counted for this metric (0 … 14)."""
        return self._mark(key, 1 << metric, None)

    def first_request(self, key: int, slot: int) -> bool:
        """True if the key's first request was not known; remembers the replica slot (0 … 255) that reported it."""
        return self._mark(key, 1 << MAX_METRICS, slot)

    def count_event(self, key: int, rollback: int, promotion: int, slot: int) -> tuple[bool, bool]:
        """Whether an event of the key is its first for the metric `rollback`, and whether it belongs to the key's first
        request and is the first for `promotion`. A metric of -1 is not counted; a `slot` of -1 is no first request."""
        fresh = self._fresh.get(key)
        at = self._find(key) if fresh is None else None
        if fresh is None and at is None:
            return rollback >= 0 and self.count_once(key, rollback), False
        mask, owner = (self._masks[at], self._slots[at]) if at is not None else fresh or (0, 0)
        first = rollback >= 0 and not mask >> rollback & 1
        first_of_request = promotion >= 0 and owner == slot and mask >> MAX_METRICS == 1 and not mask >> promotion & 1
        mask |= (first << max(rollback, 0)) | (first_of_request << max(promotion, 0))
        if at is not None:
            self._masks[at] = mask
        elif fresh is not None:
            fresh[0] = mask
        return first, first_of_request

    def _find(self, key: int) -> int | None:
        at = bisect_left(self._hashes, key)
        return at if at < len(self._hashes) and self._hashes[at] == key else None

    def _mark(self, key: int, bit: int, slot: int | None) -> bool:
        entry = self._fresh.get(key)
        if entry is not None:
            if entry[0] & bit:
                return False
            entry[0] |= bit
            if slot is not None:
                entry[1] = slot
            return True
        at = self._find(key)
        if at is not None:
            if self._masks[at] & bit:
                return False
            self._masks[at] |= bit
            if slot is not None:
                self._slots[at] = slot
            return True
        if len(self) >= self.limit:
            self.refused += 1
            return False
        self._fresh[key] = [bit, slot or 0]
        if len(self._fresh) > _FRESH_MIN and len(self._fresh) * 64 > len(self._hashes):
            self._merge()
        return True

    def _merge(self) -> None:
        fresh = sorted(self._fresh.items())
        new = np.array([key for key, _ in fresh], np.uint64)
        old = np.frombuffer(self._hashes, np.uint64) if self._hashes else np.empty(0, np.uint64)
        at = np.searchsorted(old, new)
        masks = np.insert(_view(self._masks, np.uint16), at, np.array([entry[0] for _, entry in fresh], np.uint16))
        slots = np.insert(_view(self._slots, np.uint8), at, np.array([entry[1] for _, entry in fresh], np.uint8))
        hashes = np.insert(old, at, new)
        self._hashes, self._masks, self._slots = array("Q"), array("H"), array("B")
        self._hashes.frombytes(hashes.tobytes())
        self._masks.frombytes(masks.tobytes())
        self._slots.frombytes(slots.tobytes())
        self._fresh = {}

    def to_dict(self) -> dict[str, Any]:
        if self._fresh:
            self._merge()
        packed = self._hashes.tobytes() + self._masks.tobytes() + self._slots.tobytes()
        return {"limit": self.limit, "refused": self.refused, "keys": len(self), "packed": _encode(packed)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SeenKeys:
        made = cls(data["limit"])
        made.refused = data["refused"]
        packed, n = base64.b64decode(data["packed"]), data["keys"]
        made._hashes.frombytes(packed[: 8 * n])
        made._masks.frombytes(packed[8 * n : 10 * n])
        made._slots.frombytes(packed[10 * n :])
        return made


def _view(values: array[int], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    return np.frombuffer(values, dtype) if values else np.empty(0, dtype)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
