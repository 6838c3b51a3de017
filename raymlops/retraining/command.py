"""`raymlops run`: the job with a terminal around it."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raymlops.errors import ConfigError, RaymlopsError
from raymlops.retraining.inputs import PARTS, STEPS, StepName
from raymlops.terminal import Terminal

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.retraining.plan import JobRecord, Planned
    from raymlops.retraining.result import RunResult


def run_command(
    config: Config, base: Path, as_json: bool, forced: StepName | None = None, resume: str | None = None
) -> int:
    """Run the job, draw it, print the result; returns the exit code."""
    # With --json the progress goes to stderr, so that stdout carries nothing but the result.
    terminal = Terminal(sys.stderr if as_json else sys.stdout)
    try:
        with terminal.live(), terminal.quiet():
            from raymlops.retraining.pipeline import run_job

            result = run_job(config, base, terminal, forced=forced, resume=resume)
    except RaymlopsError as error:
        if where := terminal.keep_log(config):
            error.add_note(f"log: {where}")
        raise
    except KeyboardInterrupt:
        registered = "the model may be registered" if terminal.reached("gate") else "nothing was registered"
        raise RaymlopsError(f"interrupted; {registered}; the same command goes on from here") from None
    except Exception as error:
        terminal.log_error(traceback.format_exc())
        where = terminal.keep_log(config)
        raise RaymlopsError(f"unexpected {type(error).__name__}: {error}; the details are in {where}") from error
    finally:
        terminal.keep_log(config)
    if result.unchanged and terminal.log_path is not None:
        terminal.log_path.unlink(missing_ok=True)  # no run was opened that could keep it
    _print_result(result, terminal, as_json)
    return result.exit_code


def plan_command(config: Config, base: Path, as_json: bool, forced: StepName | None = None) -> int:
    """Print which steps would run and why; returns the exit code."""
    from raymlops.retraining.pipeline import plan_job

    plan, run = plan_job(config, base, forced)
    if as_json:
        print(json.dumps({"steps": [planned.to_dict() for planned in plan], "run": run}))
        return 0
    from raymlops.tables import print_plan

    print_plan(_rows(plan))
    if run is not None:
        print(f"goes on with run {run[:12]}")
    elif not any(planned.runs for planned in plan):
        print("nothing would run")
    return 0


def _rows(plan: Sequence[Planned]) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for planned in plan:
        run = "" if planned.record is None else f" since run {planned.record.run[:12]}"
        rows.append((planned.step, "run" if planned.runs else "reuse", f"{planned.why}{run}"))
        rows += [(f"  {part}", "", why) for part, why in planned.parts.items()]
    return rows


def step_named(name: str | None) -> StepName | None:
    """The step that `--from` means; parts of the snapshot stand for it. Raises ConfigError for anything else."""
    if name is None:
        return None
    if name in PARTS:
        return "snapshot"
    for step in STEPS:
        if step == name:
            return step
    raise ConfigError(f"--from: found {name!r}, expected one of {', '.join([*STEPS, *PARTS])}")


def job_of_run(storage: str, run: str) -> JobRecord:
    """The job whose latest run has an id that is or begins with `run`. Raises RaymlopsError when none or several do,
    or when it is a retraining's, which only the loop can go on with."""
    from raymlops.retraining.records import Records
    from raymlops.store import Store

    store = Store.at(storage)
    found = [job for name in store.list("runs") for job in Records(store, name).jobs() if job.run_id.startswith(run)]
    if len(found) != 1 or not run:
        what = "no job's latest run begins with this" if not found else f"{len(found)} runs begin with this"
        raise RaymlopsError(f"--resume {run}: {what} in {storage}; `raymlops runs` lists runs")
    [job] = found
    if job.tags:
        raise RaymlopsError(f"--resume {run}: this run belongs to a retraining; `raymlops loop run` goes on with it")
    return job


def _print_result(result: RunResult, terminal: Terminal, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    out = terminal.console
    blessed = result.verdict == "blessed"
    if result.unchanged:
        out.print(f"\nnothing has changed since run {result.run_id[:12]}, so nothing was done; its result:")
    if blessed:
        became = "was registered as" if result.unchanged else "is now"
        out.print(f"\n[bold green]blessed[/]: {result.model} {became} {result.name}@{result.alias}")
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
