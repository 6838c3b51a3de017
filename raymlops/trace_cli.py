"""`raymlops trace` and `raymlops replay`: where a prediction came from, and the same prediction once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymlops.errors import ConfigError
from raymlops.options import AsJson, Overrides, load

if TYPE_CHECKING:
    from raymlops.registry.backend import Tracking
    from raymlops.store import Store

PredictionId = Annotated[str, typer.Argument(metavar="PREDICTION_ID", help="As the endpoint answered it.")]
ConfigFile = Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Configuration file (YAML).")]
Name = Annotated[str | None, typer.Option(help="Name of the endpoint, instead of a configuration.")]
Storage = Annotated[str, typer.Option(help="With --name: a path or URI.")]
TrackingUri = Annotated[str | None, typer.Option(help="With --name: MLflow tracking URI; the storage's own if absent.")]


def trace(
    prediction_id: PredictionId,
    config: ConfigFile = None,
    name: Name = None,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """From a prediction to replica, variant, version, run, snapshot and code; and to its label."""
    from raymlops.monitoring.trace import trace as follow

    endpoint, store, tracking, _ = _place(config, name, storage, tracking_uri, set_)
    found = follow(store, tracking, endpoint, prediction_id)
    if as_json:
        from raymlops.registry.values import finite

        typer.echo(json.dumps(finite(found), default=str))
        return
    for section, content in found.items():
        if section == "notes":
            continue
        typer.echo(section)
        for line in content if isinstance(content, list) else [content]:
            if line is None:
                none = section == "label" and found["version"] is not None
                typer.echo("  none joined" if none else "  unknown")
                continue
            for key, value in line.items():
                shown = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
                typer.echo(f"  {key:<14} {shown}")
    for note in found["notes"]:
        typer.echo(f"note: {note}")


def replay(
    prediction_id: PredictionId,
    config: ConfigFile = None,
    name: Name = None,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compute a prediction again from the registry and compare it bit for bit (exit code 1 if it differs)."""
    from raymlops.config.serving import ServingConfig
    from raymlops.monitoring.replay import replay as again

    endpoint, store, tracking, found = _place(config, name, storage, tracking_uri, set_)
    serving = found or ServingConfig()
    done = again(store, tracking, endpoint, prediction_id, batch_rows=serving.batch_rows, threads=serving.threads)
    if as_json:
        typer.echo(json.dumps(done.to_dict()))
    else:
        what = f"{prediction_id}: version {done.version}, {done.rows} row(s)"
        if done.equal:
            how = (
                "" if done.batch == done.rows else f", scored in a batch of {done.batch} rows as the endpoint may have"
            )
            typer.echo(f"{what}: equal bit for bit{how}")
        else:
            how = "within the rounding of another machine" if done.close else "which no rounding explains"
            typer.echo(f"{what}: differs by up to {done.largest:g}, {how}")
    raise typer.Exit(0 if done.equal else 1)


def _place(
    config: Path | None, name: str | None, storage: str, tracking_uri: str | None, overrides: list[str] | None
) -> tuple[str, Store, Tracking, Any]:
    """Endpoint, store, registry, and the configuration's `serving:` if there is one."""
    from raymlops.registry.backend import tracking
    from raymlops.store import Store

    if (config is None) == (name is None):
        found = "neither" if config is None else "both"
        raise ConfigError(f"expected a configuration file or --name, found {found}")
    if config is None:
        store = Store.at(storage)
        return str(name), store, tracking(tracking_uri, store), None
    loaded, _ = load(config, overrides)
    store = Store.at(loaded.storage)
    return loaded.name, store, tracking(loaded.tracking.uri, store), loaded.serving
