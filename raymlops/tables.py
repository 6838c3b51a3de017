"""Tables that commands print."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from raymlops.doctor import Finding
    from raymlops.registry.catalog import ModelRow, RunRow


WIDE = 200
"""Columns where there is no terminal: nothing that reads a pipe wants wrapped rows."""


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def age(seconds: float) -> str:
    """A duration in its largest sensible unit: 42 s, 17 min, 5 h, 3 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def print_runs(rows: Sequence[RunRow]) -> None:
    console = _console()
    if not rows:
        console.print("no runs here yet; start one with: raymlops run CONFIG")
        return
    table = _table("run", "model", "started", "status", "verdict", "metrics", "snapshot")
    for row in rows:
        started = f"{age(time.time() - row.started)} ago"
        cells = (row.run_id[:12], row.name, started, row.status, row.verdict or "-", _metrics(row.metrics))
        table.add_row(*cells, (row.snapshot or "-")[:12])
    console.print(table)


def print_models(rows: Sequence[ModelRow]) -> None:
    console = _console()
    if not rows:
        console.print("no registered models here yet; the first blessed run becomes the champion")
        return
    table = _table("model", "version", "aliases", "age", "metrics", "run")
    for row in rows:
        aliases = ", ".join(row.aliases) or "-"
        table.add_row(row.name, row.version, aliases, age(row.age_s), _metrics(row.metrics), (row.run_id or "-")[:12])
    console.print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    console = _console()
    styles = {"ok": "green", "warning": "yellow", "error": "red"}
    for finding in findings:
        console.print(f"[{styles[finding.status]}]{finding.status:<8}[/]{finding.name:<14}", end="")
        console.print(finding.detail, markup=False)


def print_plan(rows: Sequence[tuple[str, str, str]]) -> None:
    """Step, what is to become of it, and why."""
    console = _console()
    table = _table("step", "", "why")
    for step, action, why in rows:
        table.add_row(step, action, why, style="yellow" if action == "run" else None)
    console.print(table)
