"""A model's retrainings in words, for the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def status_text(found: dict[str, Any]) -> str:
    """Some lines of `account.status`."""
    lines = []
    if not found["entries"]:
        lines.append(f"{found['name']}: no loop has watched it yet; start one with `raymlops loop`")
    decision, looks = found["decision"], found["looks"]
    if decision is not None:
        lines.append(f"{found['name']}: {decision['action']}: {decision['reason']}")
    if looks is not None:
        lines.append(f"  the same for {looks['looks']} more looks, until {_time(looks['until'])}")
    for title, one in (("under way", found["open"]), ("last", found["last"])):
        if one is not None:
            lines.append(f"{title}: {one['id']} ({one['cause']}, {one['incident']}): {one['phase']}")
            lines.append(f"  {window(one['recipe'])}")
            if one["ended"] is not None:
                lines.append(f"  {one['ended']['reason']}")
    for order in found["orders"]:
        lines.append(f"order {order['id']} by {order['by']}, waits for a round: {order['reason']}")
    if found["entries"]:
        lines.append(f"{found['retrainings']} retrainings, {found['entries']} entries")
    return "\n".join(lines)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def line(entry: dict[str, Any]) -> str:
    """One entry in words."""
    before = entry["payload"].get("before")
    count = f"\n  after {before['looks']} looks that said the same as the entry before" if before else ""
    return (
        f"{_time(entry['at'])}  {entry['n']:>4}  {entry['kind']:<10}  {_words(entry['kind'], entry['payload'])}{count}"
    )


def _words(kind: str, payload: dict[str, Any]) -> str:
    if kind == "opened":
        return "the first look"
    if kind == "decision":
        return f"{payload['action']}: {payload['reason']}"
    if kind == "began":
        plan = "; a follow-up is planned" if payload["decision"].get("follow_up") else ""
        return f"{payload['decision']['reason']}; {window(payload['recipe'])}{plan}"
    if kind == "resumed":
        return f"process {payload['by']['pid']} on {payload['by']['host']} goes on"
    if kind == "trained":
        verdict = "refused" if payload["version"] is None else f"version {payload['version']}"
        return f"run {payload['run_id'][:12]}: {verdict}" + "".join(f"\n  - {reason}" for reason in payload["reasons"])
    if kind == "delivering":
        return f"by {payload['how']}"
    return str(payload["error"]) if kind == "failed" else f"{payload['outcome']}: {payload['reason']}"


def window(recipe: dict[str, Any]) -> str:
    """The rows of a retraining, in words."""
    if recipe["column"] is None:
        return f"{recipe['train']} on all rows of the {recipe['data']} data"
    marks = {name: (recipe[name] or "the first")[:10] for name in ("start", "validation_from", "holdout_from", "end")}
    return (
        f"{recipe['train']} on {recipe['data']} rows from {marks['start']}, validated from {marks['validation_from']}, "
        f"judged from {marks['holdout_from']} to {marks['end']}"
    )
