"""`raymlops loop …`: watch a model and retrain it. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from raymlops.options import AsJson, ConfigFile, Overrides, load

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.store import Store


class _Loop(TyperGroup):
    """`raymlops loop CONFIG` is `raymlops loop run CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Loop, help="Watch a model in production and retrain it when there is a cause.", no_args_is_help=True
)


@app.callback()
def main() -> None:
    """Watch a model in production and retrain it when there is a cause."""


@app.command()
def run(
    config: ConfigFile,
    once: Annotated[bool, typer.Option("--once", help="One round: for cron and other schedulers.")] = False,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look for trouble, retrain for a cause, deliver the model, until Ctrl-C. `raymlops loop CONFIG` does the same."""
    from raymlops.retraining.runner import loop_command

    loaded, base, _ = _load(config, set_)
    raise typer.Exit(loop_command(loaded, base, once, as_json))


@app.command()
def status(config: ConfigFile, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Where the loop stands: the last decision, the retraining that is under way, orders that wait."""
    from raymlops.retraining import account

    loaded, _, store = _load(config, set_)
    found = account.status(loaded, store)
    if as_json:
        typer.echo(json.dumps(found))
        return
    from raymlops.retraining.account_text import status_text

    typer.echo(status_text(found))


@app.command()
def history(config: ConfigFile, set_: Overrides = None, as_json: AsJson = False) -> None:
    """The ledger: every decision with its cause and numbers, checked entry by entry."""
    from raymlops.retraining import account

    loaded, _, store = _load(config, set_)
    found = account.history(store, loaded.name)
    _print(found, found, as_json)


@app.command()
def explain(
    config: ConfigFile,
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="Name of an incident, or id of a retraining.")],
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """One incident from the first sign to its end."""
    from raymlops.retraining import account

    loaded, _, store = _load(config, set_)
    found = account.explain(store, loaded.name, incident)
    _print(found, found["entries"], as_json)


@app.command()
def trigger(
    config: ConfigFile,
    reason: Annotated[str, typer.Option(help="Why; it is written to the ledger.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also in cooldown and quiet hours, and over the weekly budget.")
    ] = False,
    by: Annotated[str | None, typer.Option(help="Who orders; user and machine when absent.")] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Order a retraining; the next round of the loop takes it up."""
    from dataclasses import asdict

    from raymlops.retraining import orders
    from raymlops.rollout.client import whoami

    loaded, _, store = _load(config, set_)
    placed = orders.place(store, loaded.name, reason, by or whoami(), force)
    typer.echo(json.dumps(asdict(placed)) if as_json else f"order {placed.id} waits for the next round of the loop")


def _print(found: Any, entries: list[dict[str, Any]], as_json: bool) -> None:
    from raymlops.retraining.account_text import line

    typer.echo(json.dumps(found) if as_json else "\n".join(map(line, entries)))


def _load(path: Path, overrides: list[str] | None) -> tuple[Config, Path, Store]:
    from raymlops.store import Store

    config, base = load(path, overrides)
    return config, base, Store.at(config.storage)
