"""`raymlops runs`, `models`, `report`, `predict`: what was run, what is registered, and what a version predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from raymlops.errors import RaymlopsError
from raymlops.options import AsJson, Overrides, RunId, Storage, TrackingUri, load

Name = Annotated[str | None, typer.Argument(help="Model name; all when absent.")]


def runs(
    name: Name = None,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from raymlops.registry.catalog import list_runs
    from raymlops.tables import print_runs

    rows = list_runs(storage, tracking_uri, name, limit)
    _print({"runs": [row.to_dict() for row in rows]}) if as_json else print_runs(rows)


def models(
    name: Name = None, storage: Storage = ".raymlops", tracking_uri: TrackingUri = None, as_json: AsJson = False
) -> None:
    """List registered versions with aliases, metrics and age."""
    from raymlops.registry.catalog import list_models
    from raymlops.tables import print_models

    rows = list_models(storage, tracking_uri, name)
    _print({"models": [row.to_dict() for row in rows]}) if as_json else print_models(rows)


def report(
    run: RunId,
    output: Annotated[Path | None, typer.Option(help="Where to write the HTML; report-RUN.html when absent.")] = None,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's HTML report to a file."""
    from raymlops.registry.catalog import find_report

    run_id, html = find_report(storage, tracking_uri, run)
    target = output or Path(f"report-{run_id[:12]}.html")
    try:
        target.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RaymlopsError(f"--output: cannot write {target}: {error.strerror}") from error
    _print({"run_id": run_id, "report": str(target)}) if as_json else typer.echo(target)


def predict(
    model: Annotated[
        str, typer.Argument(metavar="CONFIG|MODEL", help="A configuration, NAME, NAME@ALIAS or NAME/VERSION.")
    ],
    input_: Annotated[str, typer.Option("--input", help="Parquet or CSV file, directory or URI.")],
    output: Annotated[
        str, typer.Option("--output", help="Directory or URI for the predictions (parquet); must be new.")
    ],
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score rows with a registered model on Ray Data; the champion unless said otherwise."""
    from raymlops.retraining.scoring import score_command

    target: Any = model
    if model.endswith((".yaml", ".yml")):
        target, _ = load(Path(model), set_)
    facts = score_command(target, input_, output, storage, tracking_uri, quiet=as_json)
    if as_json:
        _print(facts)


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, default=str))
