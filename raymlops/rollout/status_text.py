"""The status of a rollout for people: who gets what, what the evidence says, what happens next."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

LOG10 = math.log(10.0)
_STATES = {"active": "green", "degraded": "red", "recovering": "yellow", "passive": "yellow"}


def render(status: Mapping[str, Any]) -> RenderableType:
    """All of `RolloutClient.status()` that a person wants to see."""
    return Group(*_parts(status))


def _parts(status: Mapping[str, Any]) -> Iterator[RenderableType]:
    controller = status["controller"]
    if "endpoint" not in status:
        yield Text(f"the controller is {controller['state']}: {controller['error']}", style="yellow")
        return
    champion, replicas = status["champion"], status["replicas"]
    following = sum(replica["follows"] for replica in replicas)
    yield Text.assemble(
        (status["endpoint"], "bold"),
        f"  champion: {'none' if champion is None else 'version ' + champion['version']}",
        f"  replicas: {len(replicas)}, {following} follow the routing document  controller: ",
        (controller["state"], _STATES.get(controller["state"], "")),
    )
    for note in (controller["error"], status["alias"]["note"] and f"alias: {status['alias']['note']}"):
        if note:
            yield Text(f"  {note}", style="yellow")
    for name, why in controller["failing"].items():
        yield Text(f"  {name} is tried again: {why}", style="yellow")
    rollout = status["rollout"]
    if rollout is None:
        yield from _last(status)
        return
    yield Text("")
    yield _head(rollout)
    yield from _notes(rollout)
    yield Text("")
    yield _arms(rollout["arms"], shadow=rollout["mode"] == "shadow" and rollout["phase"] != "baking")
    if rollout["evidence"]:
        yield Text("")
        yield _evidence(rollout["evidence"])
        yield Text(f"  {rollout['reason']}", style="dim")
        for metric, (control, candidate) in rollout["latency_limits_s"].items():
            limits = f"{control * 1000:.3g} ms in control and {candidate * 1000:.3g} ms in candidates"
            yield Text(f"  {metric} counts requests above {limits}", style="dim")


def _last(status: Mapping[str, Any]) -> Iterator[Text]:
    last = status["last"]
    if last is None:
        yield Text("  no rollout yet")
        return
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
    good = last["verdict"] == "PROMOTE"
    yield Text.assemble(
        f"  last rollout {last['id']} ({last['mode']}) of version {', '.join(last['versions'])}: ",
        ("promoted" if good else "taken back", "green" if good else "red"),
        f" at {when}",
    )
    blame = f", blamed on {last['blame']}" if last["blame"] else ""
    yield Text(f"  {last['cause']}: {last['reason']}{blame}", style="dim")
    if status["cooldown_left_s"]:
        yield Text(f"  cooldown: {duration(status['cooldown_left_s'])} left", style="dim")


def _head(rollout: Mapping[str, Any]) -> Text:
    phase = {"starting": "starting candidates", "staging": "loading everywhere", "ending": "taking back"}
    text = Text.assemble((f"rollout {rollout['id']}", "bold"), f"  {rollout['mode']}  ")
    text.append(phase.get(rollout["phase"], rollout["phase"]), "cyan")
    if rollout["step"] is not None and rollout["phase"] == "running":
        step, steps = rollout["step"], rollout["steps"]
        text.append("  warm-up" if step < 0 else f"  step {step + 1} of {len(steps)} ({steps[step]:.0%})")
        if rollout["step_left_s"]:
            text.append(f", at least {duration(rollout['step_left_s'])} more")
    for name, what in (("bake_left_s", "bakes for"), ("deadline_left_s", "deadline in")):
        if rollout[name] is not None:
            text.append(f"  {what} {duration(rollout[name])}")
    text.append(f"  running for {duration(rollout['seconds'])}", "dim")
    return text


def _notes(rollout: Mapping[str, Any]) -> Iterator[Text]:
    if rollout["paused"]:
        why = {"order": "somebody's order", "update": "an update of the endpoint"}
        yield Text(f"  paused by {' and '.join(why[p] for p in rollout['paused'])}", style="yellow")
    if rollout["waiting"]:
        yield Text(f"  {rollout['waiting']}: raymlops rollout resume", style="yellow")
    if rollout["held"]:
        yield Text(f"  {rollout['held']}", style="red")
    for candidate in rollout["candidates"]:
        if candidate["reason"] or candidate["state"] in ("starting", "failed", "dropped"):
            reason = f": {candidate['reason']}" if candidate["reason"] else ""
            yield Text(f"  candidate {candidate['candidate']} is {candidate['state']}{reason}", style="yellow")


def _arms(arms: Sequence[Mapping[str, Any]], *, shadow: bool) -> Table:
    table = _table("  variant", "version", "share", "requests", "errors", "timeouts", "bad", "p50", "p95", "p99")
    if shadow:
        table.add_column("differ", justify="right")
        table.add_column("mean diff.", justify="right")
    for arm in arms:
        bad = arm["fallbacks"] / arm["requests"] if arm["requests"] else None
        cells = [
            f"  {arm['arm']}",
            arm["version"],
            "" if arm["share"] is None else f"{arm['share']:.2%}",
            f"{arm['requests']:,}",
            f"{arm['errors']:,}",
            f"{arm['timeouts']:,}",
            "" if bad is None else f"{bad:.2%}",
            *("" if arm[f"p{q}_s"] is None else f"{arm[f'p{q}_s'] * 1000:.3g} ms" for q in (50, 95, 99)),
        ]
        if shadow:
            differ = arm["disagreed"] / arm["compared"] if arm["compared"] else None
            cells.append("" if differ is None else f"{differ:.2%}")
            cells.append("" if arm["mean_difference"] is None else f"{arm['mean_difference']:.4g}")
        table.add_row(*cells)
    return table


def _evidence(candidates: Sequence[Mapping[str, Any]]) -> Table:
    """E-values as powers of ten beside what is needed."""
    table = _table("  candidate", "metric", "worse", "of", "good enough", "of", "events or labels", "95 % interval")
    for candidate in candidates:
        for metric in candidate["metrics"]:
            worse = candidate["blame"] == metric["metric"]
            proven = metric["log_e_promotion"] >= metric["promotion_at"]
            table.add_row(
                f"  {candidate['candidate']}",
                metric["metric"] + (" (void)" if metric["void"] else ""),
                Text(_e(metric["log_e_rollback"]), style="red" if worse else ""),
                _e(metric["rollback_at"]),
                Text(_e(metric["log_e_promotion"]), style="green" if proven else ""),
                _e(metric["promotion_at"]),
                *_counts(metric),
            )
    return table


def _counts(metric: Mapping[str, Any]) -> tuple[str, str]:
    if "labels" in metric:
        a, b = metric["mean_intervals"]
        shown = f"{_number(a[0])}…{_number(a[1])} / {_number(b[0])}…{_number(b[1])}"
        return f"{metric['labels'][0]} / {metric['labels'][1]}", shown
    low, high = metric["ratio_interval"]
    return f"{metric['first_events'][0]} / {metric['first_events'][1]}", f"ratio {_number(low)}…{_number(high)}"


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}"


def _e(log_e: float | None) -> str:
    return "∞" if log_e is None else f"10^{log_e / LOG10:.1f}"


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def duration(seconds: float) -> str:
    """As people write it: 40 s, 3 min 20 s, 5 h 10 min, 1 d 3 h."""
    whole = round(seconds)
    for size, unit, below, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def history(entries: Sequence[Mapping[str, Any]]) -> Table:
    """One line per entry of the ledger."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("entry", "time", "term", "what", ""):
        table.add_column(column, no_wrap=column != "")
    for entry in entries:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"]))
        table.add_row(str(entry["n"]), when, str(entry["term"]), entry["kind"], _said(entry["payload"]))
    return table


def _said(payload: Mapping[str, Any]) -> str:
    found = []
    if "candidates" in payload:
        found.append(f"{payload['mode']} of version " + ", ".join(c["model"]["version"] for c in payload["candidates"]))
    for name in ("cause", "reason", "because", "version", "by", "controller", "blame"):
        if payload.get(name):
            found.append(f"{name}: {payload[name]}")
    if payload.get("shares"):
        found.append("shares " + ", ".join(f"{share:.2%}" for share in payload["shares"]))
    return "; ".join(found)
