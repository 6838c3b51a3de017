"""What `raymlops serve` prints: what is exposed at the start, then traffic and rollout as they go on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raymlops.serving.exposure import Listener
from raymlops.serving.launch import Running

PROXIES = {
    "haproxy": "HAProxy, Serve's throughput mode",
    "default": "Serve's default proxy (HAProxy answers about ten times as many requests: serving.proxy)",
    "cluster": "whatever the cluster was started with",
}


def facts(running: Running) -> dict[str, Any]:
    """For `--json`."""
    return {
        "endpoint": running.args.name,
        "url": running.url,
        "version": running.version,
        "proxy": running.proxy,
        "pid": None if running.local is None else running.local.pid,
        "ray_address": None if running.local is None else running.local.address,
        "listeners": [
            {"port": one.port, "host": one.host, "process": one.what, "reachable": one.everywhere}
            for one in running.listeners
        ],
    }


def introduction(running: Running) -> list[str]:
    """Lines for a person: where it answers, how, and who can reach which port."""
    name = running.args.name
    lines = [
        f"{name}: version {running.version} answers at {running.url}",
        f"  predict   POST {running.url}/v2/models/{name}/infer  (or /rows, /invocations)",
        f"  describe  {running.url}/docs",
        f"  proxy     {PROXIES[running.proxy]}",
    ]
    if running.local is not None:
        lines += _exposed(running.listeners)
    return lines


def _exposed(listeners: Sequence[Listener]) -> list[str]:
    reachable = [one for one in listeners if one.everywhere]
    lines = [f"  loopback  {len(listeners) - len(reachable)} ports listen on this machine only"]
    if not reachable:
        return lines
    lines.append("  exposed   reachable from other hosts, unless a firewall is in the way; Ray's ask for a token:")
    by_process: dict[str, list[str]] = {}
    for one in reachable:
        by_process.setdefault(one.what, []).append(one.shown)
    width = max(map(len, by_process))
    return lines + [f"              {what:<{width}}  {', '.join(ports)}" for what, ports in by_process.items()]


class Traffic:
    """Requests per second, from cumulative counts seen twice."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int]] = {}

    def rate(self, variant: str, requests: int, now: float) -> float:
        at, before = self._before.get(variant, (now, requests))
        if now - at > 5.0 or variant not in self._before or requests < before:
            self._before[variant] = (now, requests)
        return max(0.0, (requests - before) / (now - at)) if now > at else 0.0


def picture(status: Mapping[str, Any] | None, traffic: Traffic) -> RenderableType:
    """The live view, from the controller's status; None while it does not answer."""
    if status is None or "document" not in status:
        return Text("the rollout controller does not answer; the endpoint goes on", style="yellow")
    rollout = status.get("rollout")
    rows = rollout["arms"] if rollout else status.get("traffic") or []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("variant", "version", "share", "requests", "per s", "p50 ms", "p95 ms", "errors", "late"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    now = time.monotonic()
    for row in rows:
        variant = str(row.get("arm") or row.get("variant"))
        table.add_row(
            variant,
            str(row["version"]),
            _percent(row.get("share")),
            f"{row['requests']:,}",
            f"{traffic.rate(variant, row['requests'], now):,.1f}",
            _milliseconds(row.get("p50_s")),
            _milliseconds(row.get("p95_s")),
            f"{row['errors']:,}",
            f"{row['timeouts']:,}",
        )
    lines: list[RenderableType] = [table]
    if not rows:
        lines = [Text("no requests yet", style="dim")]
    if rollout:
        left = rollout.get("deadline_left_s")
        until = f", {left / 3600:.1f} h left" if left is not None else ""
        lines.append(Text(f"rollout {rollout['id']}: {rollout['mode']}, {rollout['phase']}{until}", style="bold"))
        if rollout.get("reason"):
            lines.append(Text(str(rollout["reason"])))
    trouble = status["controller"].get("error")
    if trouble:
        lines.append(Text(str(trouble), style="yellow"))
    return Group(*lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:g} %"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f}"
