"""`raymlops monitor`: how the champion does in production, in the terminal or as a page."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymlops.errors import ConfigError, RaymlopsError
from raymlops.options import AsJson, ConfigFile, Overrides, load

if TYPE_CHECKING:
    from raymlops.monitoring.report import ReportData

SHOWN_DAYS, SHOWN_REASON = 14, 300
Since = Annotated[str, typer.Option(metavar="DAY|DAYS", help="Predictions from this day on (2031-03-01, or 28d).")]
ReportFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page with plots there.")]


def monitor(
    config: ConfigFile, since: Since = "56d", report: ReportFile = None, set_: Overrides = None, as_json: AsJson = False
) -> None:
    """Judge what is new about the champion, and report its losses, drift, labels and data quality."""
    from raymlops.monitoring.report import render_report
    from raymlops.monitoring.report_of import report_of
    from raymlops.retraining.steps import Steps
    from raymlops.store import Store
    from raymlops.terminal import Terminal

    now = datetime.now(UTC)
    begin = parse_since(since, now)
    loaded, base = load(config, set_)
    terminal = Terminal(sys.stderr if as_json else sys.stdout)
    step = Steps(terminal).step("monitor", f"look at {loaded.name}")
    with terminal.scratch_log(), terminal.live(), terminal.quiet(), step:
        found = report_of(loaded, base, Store.at(loaded.storage), since=begin, now=now)
        html = None if report is None else render_report(found)
    if report is not None and html is not None:
        try:
            report.write_text(html, encoding="utf-8")
        except OSError as error:
            raise RaymlopsError(f"--report: cannot write {report}: {error.strerror}") from error
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "report": None if report is None else str(report)}))
        return
    print_summary(found)
    if report is not None:
        typer.echo(f"the report is in {report}")


def parse_since(text: str, now: datetime) -> datetime:
    """The beginning (UTC) of a day, or of the day so many days before now. Raises ConfigError."""
    if days := re.fullmatch(r"(\d{1,4})d", text):
        return now - timedelta(days=int(days[1]))
    try:
        found = date.fromisoformat(text)
    except ValueError as error:
        expected = "a day such as 2031-03-01 or a number of days such as 28d"
        raise ConfigError(f"--since: expected {expected}, found {text!r}") from error
    return datetime(found.year, found.month, found.day, tzinfo=UTC)


def print_summary(data: ReportData) -> None:
    """The verdicts, the newest days, slices and coverage of labels."""
    from rich.console import Console
    from rich.table import Table

    from raymlops.monitoring.report import coverage_rows
    from raymlops.registry.report import number
    from raymlops.tables import WIDE, age

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=WIDE)

    def table(*columns: str) -> Table:
        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            made.add_column(column)
        return made

    joined = (
        "never: raymlops labels join CONFIG" if data.joined_until is None else f"{data.joined_until:%Y-%m-%d %H:%M}"
    )
    typer.echo(f"{data.name}: version {data.version} is the champion; predictions of {data.since} to {data.until}")
    verdicts = table("monitor", "", "judged until", "since", "found")
    for signal in data.signals:
        word = "ALARM" if signal.alarm else "ok" if signal.window else "-"
        reason = signal.reason[:SHOWN_REASON] + ("…" if len(signal.reason) > SHOWN_REASON else "")
        verdicts.add_row(signal.kind, word, signal.window or "-", signal.since or "-", reason)
    console.print(verdicts)
    for note in data.notes:
        typer.echo(f"note: {note}")
    if data.days:
        typer.echo(f"\nloss: {data.unit}; at registration {number(data.registered)}, limit {number(data.limit)}")
        if data.estimated_by:
            typer.echo(f"estimate without labels: {data.estimated_by}")
        days = table("day", "version", "predictions", "labelled", "loss", "estimate")
        for day in data.days[-SHOWN_DAYS:]:
            counts = number(day.predictions), number(day.labelled)
            days.add_row(day.day, day.version, *counts, number(day.loss), number(day.estimate))
        console.print(days)
    if data.slices:
        typer.echo("")
        slices = table("slice", "labelled", "loss", "at registration", "limit")
        for row in data.slices:
            slices.add_row(row.name, *map(number, (row.rows, row.loss, row.registered, row.limit)))
        console.print(slices)
    typer.echo(f"\nlabels are joined up to {joined}")
    labels = table("of", "", "predictions", "labelled", "share", "median delay")
    for of, one in coverage_rows(data.labels):
        delay = "-" if one.median_delay_s is None else age(one.median_delay_s)
        name = "" if of == "all" else one.name
        labels.add_row(of, name, number(one.predictions), number(one.labelled), f"{one.share:.1%}", delay)
    console.print(labels)
