"""`raymlops run`: the job with a terminal around it."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from raymlops.errors import RaymlopsError
from raymlops.terminal import Terminal

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.retraining.result import RunResult


def run_command(config: Config, base: Path, as_json: bool) -> int:
    """Run the job, draw it, print the result; returns the exit code."""
    # With --json the progress goes to stderr, so that stdout carries nothing but the result.
    terminal = Terminal(sys.stderr if as_json else sys.stdout)
    try:
        with terminal.live(), terminal.quiet():
            from raymlops.retraining.pipeline import run_job

            result = run_job(config, base, terminal)
    except RaymlopsError as error:
        if where := terminal.keep_log(config):
            error.add_note(f"log: {where}")
        raise
    except KeyboardInterrupt:
        registered = "the model may be registered" if terminal.reached("gate") else "nothing was registered"
        raise RaymlopsError(f"interrupted; {registered}") from None
    except Exception as error:
        terminal.log_error(traceback.format_exc())
        where = terminal.keep_log(config)
        raise RaymlopsError(f"unexpected {type(error).__name__}: {error}; the details are in {where}") from error
    finally:
        terminal.keep_log(config)
    _print_result(result, terminal, as_json)
    return result.exit_code


def _print_result(result: RunResult, terminal: Terminal, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    out = terminal.console
    blessed = result.verdict == "blessed"
    if blessed:
        out.print(f"\n[bold green]blessed[/]: {result.model} is now {result.name}@{result.alias}")
    else:
        out.print(f"\n[bold red]refused[/]: nothing was registered for {result.name}")
    for reason in result.reasons:
        out.print(f"  - {reason}", markup=False)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in result.metrics.items() if value is not None)
    out.print(f"  holdout: {shown}", markup=False)
    for note in result.notes:
        out.print(f"  {note}", markup=False)
    out.print(f"  snapshot {result.snapshot[:12]}  weights {result.weights_sha256[:12]}  run {result.run_id}")
    out.print(f"  {result.seconds['total']:.1f} s in all; report: raymlops report {result.run_id[:12]}")
