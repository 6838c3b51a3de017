"""`raymlops labels …`: join outcomes with their predictions, look at how many there are."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from raymlops.options import AsJson, ConfigFile, Overrides, load

app = typer.Typer(help="Join outcomes with their predictions, and see how many have one.", no_args_is_help=True)


@app.command()
def join(config: ConfigFile, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Join what came since the last time. Running it again changes nothing."""
    from raymlops.monitoring.label_join import join_labels
    from raymlops.monitoring.labelled import labelled_path
    from raymlops.retraining.steps import Steps
    from raymlops.store import Store
    from raymlops.terminal import Terminal

    loaded, base = load(config, set_)
    store = Store.at(loaded.storage)
    terminal = Terminal(sys.stderr if as_json else sys.stdout)
    step = Steps(terminal).step("labels", f"join the labels of {loaded.name}")
    with terminal.scratch_log(), terminal.live(), terminal.quiet(), step:
        report = join_labels(loaded, store, now=datetime.now(UTC), base=base)
    found = {**report.to_dict(), "path": store.location(labelled_path(loaded.name))}
    if as_json:
        typer.echo(json.dumps(found))
        return
    counts = ("joined", "duplicates", "conflicts", "late", "orphans", "waiting", "unreadable")
    typer.echo(f"{report.labels} new label(s): " + ", ".join(f"{getattr(report, name)} {name}" for name in counts))
    typer.echo(f"labelled rows are below {found['path']}")


@app.command()
def status(
    config: ConfigFile,
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Of predictions made in so many days up to now.")] = 14,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """How many predictions have a label, and how long labels take: by version, day and slice."""
    from raymlops.monitoring.label_state import JoinState
    from raymlops.monitoring.label_status import label_status, logged_slices
    from raymlops.store import Store

    loaded, _ = load(config, set_)
    store, now = Store.at(loaded.storage), datetime.now(UTC)
    state = JoinState.read(store, loaded.name)
    slices, most = logged_slices(loaded), loaded.gate.max_slices
    found = label_status(store, loaded.name, now - timedelta(days=days), now, slices, most)
    until = None if state.until is None else state.until.isoformat()
    if as_json:
        typer.echo(json.dumps({"until": until, "totals": state.totals, **found.to_dict()}))
        return
    typer.echo(f"labels are joined up to {until or 'never: raymlops labels join CONFIG'}")
    if state.totals:
        typer.echo("all joins: " + ", ".join(f"{count} {name}" for name, count in state.totals.items()))
    rows: list[tuple[str, Any]] = [("", found.total)]
    rows += [("version", coverage) for coverage in found.versions] + [("day", coverage) for coverage in found.days]
    rows += [(column, coverage) for column, coverages in found.slices.items() for coverage in coverages]
    _print_coverage(rows)


def _print_coverage(rows: list[tuple[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from raymlops.tables import WIDE, age

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("of", "", "predictions", "labelled", "share", "median delay", "90 % within"):
        table.add_column(column)
    for of, coverage in rows:
        delays = (coverage.median_delay_s, coverage.p90_delay_s)
        shown = ["-" if delay is None else age(delay) for delay in delays]
        counts = (f"{coverage.predictions:,}", f"{coverage.labelled:,}", f"{coverage.share:.1%}")
        table.add_row(of, coverage.name, *counts, *shown)
    (console if console.is_terminal else Console(highlight=False, width=WIDE)).print(table)
