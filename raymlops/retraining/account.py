"""What is told of a model's retrainings: plain data from the ledger, from which `--json` and the terminal take."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raymlops.chain import Chain, Entry
from raymlops.config.tree import Config
from raymlops.errors import ConfigError
from raymlops.retraining import orders
from raymlops.retraining.journal import Journal, Retraining, State
from raymlops.retraining.policy_types import FollowUp
from raymlops.store import Store


def status(config: Config, store: Store) -> dict[str, Any]:
    """Where the loop stands, by what the ledger says. Raises StoreError and IntegrityError."""
    journal = Journal(store, config.name)
    state = journal.read()
    repeated = journal.repeated()
    last = state.retrainings[-1] if state.retrainings else None
    return {
        "name": config.name,
        "entries": state.n,
        "decision": state.decision,
        "looks": repeated,
        "open": None if state.open is None else state.open.to_dict(),
        "last": None if last is None or last.ended is None else last.to_dict(),
        "retrainings": len(state.retrainings),
        "orders": [asdict(order) for order in orders.pending(store, config.name)],
    }


def history(store: Store, name: str) -> list[dict[str, Any]]:
    """Every entry, checked. Raises ConfigError when there is none, IntegrityError when one was changed."""
    return [asdict(entry) for entry in _entries(store, name)]


def explain(store: Store, name: str, incident: str) -> dict[str, Any]:
    """Everything the ledger knows of an incident, or of a retraining by its id: when it was first seen, what was
    decided about it and why, what was trained, what came of it; with the follow-up, where there was one.

    Raises ConfigError naming the known ones when there is none of this name.
    """
    entries = _entries(store, name)
    journal = Journal(store, name)
    state = journal.read()
    found = next((r for r in state.retrainings if incident == r.id or incident in r.began["decision"]["covers"]), None)
    second = None if found is None else _follow_up(state, found)
    names = [incident] if found is None else [*found.began["decision"]["covers"]]
    if found is not None and (plan := found.began["decision"].get("follow_up")) is not None:
        names.append(FollowUp(**plan).incident)
    about = [entry for entry in entries if _is_about(entry, names)]
    for one in (found, second):
        if one is not None:
            end = one.ended_at if one.ended_at is not None else float("inf")
            kinds = ("resumed", "failed", "trained", "delivering", "ended")
            about += [entry for entry in entries if entry.kind in kinds and one.at <= entry.at <= end]
    if not about:
        known = {name for entry in entries for name in _decision(entry).get("open", [])}
        shown = ", ".join(sorted(known | {r.id for r in state.retrainings})) or "none"
        raise ConfigError(f"no incident {incident!r} in the ledger of {name}; known: {shown}")
    return {
        "incident": incident,
        "retraining": None if found is None else found.to_dict(),
        "follow_up": None if second is None else second.to_dict(),
        "entries": [asdict(entry) for entry in sorted(about, key=lambda entry: entry.n)],
    }


def _follow_up(state: State, first: Retraining) -> Retraining | None:
    """The second retraining that was planned with this one, if it began."""
    plan = first.began["decision"].get("follow_up")
    name = None if plan is None else FollowUp(**plan).incident
    return next((r for r in state.retrainings if name in r.began["decision"]["covers"]), None)


def _entries(store: Store, name: str) -> list[Entry]:
    found = Chain(store, f"retraining/{name}").entries()
    if not found:
        raise ConfigError(f"{store.uri}: no loop has watched a model {name!r} yet; start one with `raymlops loop`")
    return found


def _decision(entry: Entry) -> dict[str, Any]:
    if entry.kind == "decision":
        return entry.payload
    found: dict[str, Any] = entry.payload["decision"] if entry.kind == "began" else {}
    return found


def _is_about(entry: Entry, names: list[str]) -> bool:
    decision = _decision(entry)
    return bool(set(names) & {*decision.get("open", []), *decision.get("covers", [])})
