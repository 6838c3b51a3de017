"""How long decisions take to reach the traffic, from the ledger's times and what was seen outside. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def rollback_delays(entries: Sequence[Mapping[str, Any]], candidates: Iterable[float]) -> list[float]:
    """Seconds from each `rollback` of the ledger to the last answer of a candidate before the next rollout runs; 0
    when there was none after the verdict. `candidates` are times of answers."""
    answered = sorted(candidates)
    found = []
    for number, entry in enumerate(entries):
        if entry["kind"] == "rollback":
            begins = (later["at"] for later in entries[number + 1 :] if later["kind"] == "running")
            end = next(begins, float("inf"))
            late = [at for at in answered if entry["at"] < at < end]
            found.append(late[-1] - entry["at"] if late else 0.0)
    return found


def step_delays(
    entries: Sequence[Mapping[str, Any]], rows: Iterable[tuple[float, str, float]], replicas: int
) -> list[list[float]]:
    """For each `step` of the ledger, seconds until each of `replicas` replicas routed its first request by the new
    share. `rows` are (time of routing, replica, candidate's share then). A step that some replica got no request
    under is left out: it says nothing."""
    by_share: dict[float, dict[str, float]] = {}
    for at, replica, share in rows:
        first = by_share.setdefault(round(share, 4), {})
        first[replica] = min(at, first.get(replica, float("inf")))
    found = []
    for entry in entries:
        if entry["kind"] == "step":
            first = by_share.get(round(sum(entry["payload"]["shares"]), 4), {})
            if len(first) == replicas:
                found.append([max(0.0, at - entry["at"]) for at in sorted(first.values())])
    return found
