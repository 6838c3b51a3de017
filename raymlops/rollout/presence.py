"""Which replicas live, from when they asked for the routing document. Asking is also how they acknowledge one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raymlops.rollout.views import Replica

GRACE_SECONDS = 2.0
"""A replica lives while a call of it is open, and for so long after the last one ended."""


@dataclass
class _Known:
    replica: Replica
    open: int
    seen: float


class Presence:
    """Times are the caller's clock, in seconds."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._builds: set[str] = set()
        self._builds_since = 0.0
        self._listening_since: float | None = None

    def asked(self, facts: Mapping[str, Any], known: list[int] | None, loaded: list[str], now: float) -> str:
        """A call began; returns the replica's id for `answered`. The latest call's facts count."""
        if self._listening_since is None:
            self._listening_since = now
        replica = Replica(
            id=str(facts["id"]),
            build=str(facts.get("build", "")),
            known=None if known is None else (int(known[0]), int(known[1])),
            loaded=frozenset(loaded),
            failed=dict(facts.get("failed") or {}),
            memory=facts.get("memory"),
            node=str(facts.get("node", "")),
        )
        before = self._known.get(replica.id)
        self._known[replica.id] = _Known(replica, 1 if before is None else before.open + 1, now)
        return replica.id

    def answered(self, replica: str, now: float) -> None:
        """A call of the replica ended."""
        if (known := self._known.get(replica)) is not None:
            known.open, known.seen = known.open - 1, now

    def live(self, now: float) -> list[Replica]:
        gone = [i for i, k in self._known.items() if not k.open and now > k.seen + GRACE_SECONDS]
        for replica in gone:
            del self._known[replica]
        builds = {known.replica.build for known in self._known.values()}
        if builds != self._builds:
            self._builds, self._builds_since = builds, now
        return [known.replica for known in self._known.values()]

    def complete(self, now: float) -> bool:
        """Whether every replica that lives has had time to be heard of: not at once after the controller's start."""
        return self._listening_since is not None and now >= self._listening_since + GRACE_SECONDS

    def settled_s(self, now: float) -> float:
        """Seconds since the set of builds last changed, as of the last call of `live`."""
        return now - self._builds_since
