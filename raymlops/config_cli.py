"""`raymlops config …`: validate a configuration, describe what one may hold."""

from __future__ import annotations

import json

import typer

from raymlops.options import AsJson, ConfigFile, Overrides, load

app = typer.Typer(help="Look at and check configuration files.", no_args_is_help=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and other tools."""
    from raymlops.config import Config

    typer.echo(json.dumps(Config.model_json_schema(by_alias=True), indent=2))


@app.command()
def check(config: ConfigFile, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Validate without running: keys and values, import paths, search space, and the cluster's resources."""
    from raymlops.checks import check_config

    loaded, base = load(config, set_)
    facts = check_config(loaded, base)
    if as_json:
        typer.echo(json.dumps({"ok": True, **facts}, default=str))
        return
    typer.echo(f"{config}: valid")
    for name, value in facts.items():
        typer.echo(f"  {name}: {value}")
