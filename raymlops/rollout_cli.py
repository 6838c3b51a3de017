"""`raymlops rollout …`: what can be asked about a rollout without a cluster."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raymlops.errors import ConfigError

app = typer.Typer(help="Plan rollouts and look at them.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Plan rollouts and look at them."""


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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
