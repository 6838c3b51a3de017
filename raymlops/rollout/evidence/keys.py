"""Which keys had which events: exact, bounded, 10 bytes a key."""

from __future__ import annotations

import base64
from array import array
from bisect import bisect_left
from typing import Any

import numpy as np

MAX_METRICS = 16
"""One bit per metric, in 16 bits."""

_FRESH_MIN = 256


class SeenKeys:
    """Remembers, per key that had an event or a label, the metrics that it was counted for.

    Keys are 64-bit hashes. Settled keys lie in sorted arrays (8 + 2 bytes each); new ones in a small dict that is
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
        self._fresh: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._hashes) + len(self._fresh)

    def count_once(self, key: int, metric: int) -> bool:
        """True the first time that this key is counted for this metric (0 … 15)."""
        bit = 1 << metric
        mask = self._fresh.get(key)
        if mask is not None:
            self._fresh[key] = mask | bit
            return not mask & bit
        at = bisect_left(self._hashes, key)
        if at < len(self._hashes) and self._hashes[at] == key:
            mask = self._masks[at]
            self._masks[at] = mask | bit
            return not mask & bit
        if len(self) >= self.limit:
            self.refused += 1
            return False
        self._fresh[key] = bit
        if len(self._fresh) > _FRESH_MIN and len(self._fresh) * 64 > len(self._hashes):
            self._merge()
        return True

    def _merge(self) -> None:
        fresh = sorted(self._fresh.items())
        new = np.array([key for key, _ in fresh], np.uint64)
        old = _view(self._hashes, np.uint64)
        at = np.searchsorted(old, new)
        masks = np.insert(_view(self._masks, np.uint16), at, np.array([mask for _, mask in fresh], np.uint16))
        hashes = np.insert(old, at, new)
        self._hashes, self._masks = array("Q"), array("H")
        self._hashes.frombytes(hashes.tobytes())
        self._masks.frombytes(masks.tobytes())
        self._fresh = {}

    def to_dict(self) -> dict[str, Any]:
        if self._fresh:
            self._merge()
        packed = base64.b64encode(self._hashes.tobytes() + self._masks.tobytes()).decode("ascii")
        return {"limit": self.limit, "refused": self.refused, "keys": len(self), "packed": packed}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SeenKeys:
        made = cls(data["limit"])
        made.refused = data["refused"]
        packed, n = base64.b64decode(data["packed"]), data["keys"]
        made._hashes.frombytes(packed[: 8 * n])
        made._masks.frombytes(packed[8 * n :])
        return made


def _view(values: array[int], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    return np.frombuffer(values, dtype) if values else np.empty(0, dtype)
