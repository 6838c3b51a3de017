"""`raymlops rollout …`: plan a rollout, order one, look at it. Heavy modules are imported by the command that needs
them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymlops.errors import ConfigError
from raymlops.options import AsJson

if TYPE_CHECKING:
    from raymlops.rollout.client import RolloutClient

app = typer.Typer(help="Give candidates traffic, watch them, promote or take them back.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint, which is the model's.")]
Address = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster; RAY_ADDRESS when absent, else the one on this machine."),
]
Storage = Annotated[
    str | None, typer.Option(help="Read the ledger below this path or URI instead of asking a cluster.")
]


@app.callback()
def main() -> None:
    """Give candidates traffic, watch them, promote or take them back."""


@app.command()
def start(
    name: Name,
    version: Annotated[list[str], typer.Option(help="Registered version; several are compared with each other.")],
    mode: Annotated[
        str,
        typer.Option(
            help="canary: ramp up, then promote. ab: compare at the last step's share until somebody promotes. "
            "shadow: copies only."
        ),
    ] = "canary",
    force: Annotated[
        bool, typer.Option("--force", help="Also during the cooldown, if it was rolled back, or wants other requests.")
    ] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Give versions traffic beside the champion (exit code 3 if that is refused)."""
    done = _client(name, address).start(version, mode=mode, force=force)
    _say(done, f"rollout {done['rollout']} has begun; watch it with: raymlops rollout status {name} --watch", as_json)


@app.command()
def status(
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", help="Until the rollout is over; exit code 3 if taken back.")
    ] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Weights, requests, evidence against thresholds, and what is waited for."""
    client = _client(name, address)
    if watch:
        _watch(client, as_json)
        return
    found = client.status()
    if as_json:
        typer.echo(json.dumps(found))
        return
    from raymlops.rollout.status_text import render

    _console().print(render(found))


@app.command()
def pause(name: Name, address: Address = None, as_json: AsJson = False) -> None:
    """Compare nothing and take no step until resumed; traffic stays as it is."""
    _say(_client(name, address).pause(), "paused", as_json)


@app.command()
def resume(name: Name, address: Address = None, as_json: AsJson = False) -> None:
    """End a pause, or approve the step or promotion that waits."""
    done = _client(name, address).resume()
    _say(done, "approved" if done["kind"] == "approved" else "resumed", as_json)


@app.command()
def promote(
    name: Name,
    candidate: Annotated[int | None, typer.Option(help="Which of several, from 1.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Promote now, whatever the evidence says. A regression while it bakes still brings the old champion back."""
    _say(_client(name, address).promote(candidate), "promotion has begun", as_json)


@app.command()
def abort(
    name: Name,
    reason: Annotated[str, typer.Option(help="Written to the ledger.")] = "by order",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Take the candidates back; while a promoted one bakes, bring the old champion back."""
    _say(_client(name, address).abort(reason), "the champion answers everything", as_json)


@app.command()
def history(name: Name, storage: Storage = None, address: Address = None, as_json: AsJson = False) -> None:
    """The ledger: every decision with its numbers."""
    entries = _entries(name, storage) if storage is not None else _client(name, address).history()
    if as_json:
        typer.echo(json.dumps(entries))
        return
    from raymlops.rollout.status_text import history as table

    _console().print(table(entries))


@app.command()
def verify(
    name: Name,
    storage: Annotated[str, typer.Option(help="Path or URI below which the ledger is.")] = ".raymlops",
    as_json: AsJson = False,
) -> None:
    """Check that no entry of the ledger was changed, removed or added later (exit code 1 if one was)."""
    entries = _entries(name, storage)
    head = {"entries": len(entries), "term": entries[-1]["term"] if entries else 0}
    _say(head, f"{len(entries)} entries follow each other, the last of term {head['term']}", as_json)


def _client(name: str, address: str | None) -> RolloutClient:
    from raymlops.rollout.client import RolloutClient

    return RolloutClient(name, address)


def _entries(name: str, storage: str) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from raymlops.rollout import ledger
    from raymlops.store import Store

    found = ledger.verify(Store.at(storage), name)
    if not found:
        raise ConfigError(f"{storage}: there is no ledger of an endpoint {name!r}")
    return [asdict(entry) for entry in found]


def _say(done: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(done) if as_json else text)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def _watch(client: RolloutClient, as_json: bool) -> None:
    """Shows the status every second until the rollout that runs is over. Waits for none to begin."""
    from contextlib import ExitStack

    from rich.live import Live

    from raymlops.rollout.status_text import render

    console = _console()
    first = found = client.status()
    with ExitStack() as stack:
        live = None
        if console.is_terminal and not as_json:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
        while True:
            if as_json:
                typer.echo(json.dumps(found))
            elif live is not None:
                live.update(render(found), refresh=True)
            if "rollout" in found and found["rollout"] is None:
                break
            time.sleep(1.0)
            found = client.status()
    if not as_json:
        console.print(render(found))
    ran = first.get("rollout") is not None
    if ran and found["last"] is not None and found["last"]["verdict"] != "PROMOTE":
        raise typer.Exit(3)


@app.command()
def plan(
    rps: Annotated[float, typer.Option(help="Requests per second, all arms together.")],
    baseline_errors: Annotated[float, typer.Option(help="Bad requests per request of the champion, e.g. 0.01.")],
    weight: Annotated[float, typer.Option(help="Share of the traffic for the candidate.")] = 0.5,
    effect: Annotated[str, typer.Option(help="Ratio of error rates that must be found, e.g. 3x.")] = "3x",
    margin: Annotated[str, typer.Option(help="Ratio that a promoted candidate must be proven below, e.g. 2x.")] = "2x",
    alpha: Annotated[float, typer.Option(help="Chance of a wrong rollback, and of a wrong promotion.")] = 0.01,
    deadline: Annotated[str, typer.Option(help="Longest duration: seconds, or 30m, 12h, 2d.")] = "24h",
    keys: Annotated[int | None, typer.Option(help="Distinct keys, if requests of one key stay together.")] = None,
    metrics: Annotated[int, typer.Option(help="Metrics that share the error.")] = 1,
    candidates: Annotated[int, typer.Option(help="Candidates that are compared at once.")] = 1,
    power: Annotated[float, typer.Option(help="Chance of a decision within the deadline that is wanted.")] = 0.8,
    as_json: AsJson = False,
) -> None:
    """Expected time to a decision, and whether one can be expected at all (exit code 3 if not)."""
    from raymlops.rollout.plan import PlanInput, make_plan
    from raymlops.rollout.plan_text import render

    given = PlanInput(
        rps=rps,
        baseline_errors=baseline_errors,
        weight=weight,
        effect=_ratio("effect", effect),
        margin=_ratio("margin", margin),
        alpha=alpha,
        deadline_seconds=_seconds(deadline),
        keys=keys,
        metrics=metrics,
        candidates=candidates,
        power=power,
    )
    made = make_plan(given)
    typer.echo(json.dumps(made.to_dict()) if as_json else render(made))
    if not made.can_decide:
        raise typer.Exit(3)


def _ratio(name: str, text: str) -> float:
    try:
        return float(text.strip().lower().removesuffix("x"))
    except ValueError:
        raise ConfigError(f"{name}: expected a ratio such as 3x, found {text!r}") from None


def _seconds(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    number, unit = (text[:-1], text[-1]) if text and text[-1] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError:
        raise ConfigError(f"deadline: expected seconds or a duration such as 12h, found {text!r}") from None
