"""The command line: parse, call, print. Everything heavy is imported by the command that uses it."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer

from raymlops import __version__
from raymlops.config_cli import app as config_app
from raymlops.errors import RaymlopsError
from raymlops.labels_cli import app as labels_app
from raymlops.last_words import last_words
from raymlops.lineage_cli import diff, gc, lineage, reproduce
from raymlops.loop_cli import app as loop_app
from raymlops.monitor_cli import monitor
from raymlops.options import AsJson, Overrides, Storage, load
from raymlops.registry_cli import models, predict, report, runs
from raymlops.rollout_cli import app as rollout_app
from raymlops.trace_cli import replay, trace

app = typer.Typer(
    name="raymlops",
    help="From raw rows to a model that stays good in production, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: our errors become one message and an exit code, never a traceback."""
    try:
        app(prog_name="raymlops")
    except RaymlopsError as error:
        _fail(error)
    except Exception as error:  # a defect: one line for the user, the rest for whoever looks into it
        with tempfile.NamedTemporaryFile("w", prefix="raymlops-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        _fail(RaymlopsError(f"unexpected {type(error).__name__}: {error}; the details are in {log.name}"))


def _fail(error: RaymlopsError) -> None:
    last_words(error)
    sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Configuration file (YAML); not needed with --resume.")
    ] = None,
    set_: Overrides = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="Do this step and those that follow again, changed or not."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run, or fail; the id or its beginning.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print which steps would run, and why.")] = False,
    storage: Storage = ".raymlops",
    as_json: AsJson = False,
) -> None:
    """Do what of the whole job has to be done: data, search, gate, registry. Exit code 3 when the gate refuses."""
    from raymlops.retraining.command import job_of_run, plan_command, run_command, step_named

    job = None
    if resume is not None:
        job = job_of_run(load(config, set_)[0].storage if config is not None else storage, resume)
    if config is not None:
        loaded, base = load(config, set_)
    elif job is not None:
        from raymlops.config.loading import parse_config
        from raymlops.imports import add_user_directory

        loaded, base = parse_config({**job.config, "storage": storage}), Path(job.base)
        add_user_directory(base)
    else:
        raise typer.BadParameter("missing: give a configuration file, or --resume RUN", param_hint="CONFIG")
    forced = step_named(from_)
    if dry_run:
        raise typer.Exit(plan_command(loaded, base, as_json, forced))
    raise typer.Exit(run_command(loaded, base, as_json, forced, None if job is None else job.run_id))


@app.command()
def serve(
    target: Annotated[str, typer.Argument(metavar="CONFIG|NAME", help="Configuration file; with --stop also a name.")],
    set_: Overrides = None,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background once it answers.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the endpoint that runs on this machine.")] = False,
    emit: Annotated[
        Path | None, typer.Option(help="Write the YAML for `serve deploy` and RayService there instead of serving.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer requests with the champion over HTTP, until Ctrl-C."""
    from raymlops.serving.command import serve_command, stop_command

    is_file = target.endswith((".yaml", ".yml"))
    if stop and not is_file:
        stop_command(target, as_json)
        return
    loaded, _ = load(Path(target), set_)
    if stop:
        stop_command(loaded.name, as_json)
        return
    arguments = [target, *(part for override in set_ or [] for part in ("--set", override))]
    serve_command(loaded, arguments, detach, emit, as_json)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory.")], as_json: AsJson = False
) -> None:
    """Create a project that runs: configuration, data function, model, test and CI workflow."""
    from raymlops.scaffold import create_project

    written = create_project(directory)
    if as_json:
        print(json.dumps({"files": [str(path) for path in written]}))
        return
    for path in written:
        print(path)
    print(f"\nnext: cd {directory} && raymlops run model.yaml")


@app.command()
def doctor(storage: Storage = ".raymlops", as_json: AsJson = False) -> None:
    """Check versions, resources, ports, disk and store; exit code 1 when something will not work."""
    from raymlops.doctor import examine
    from raymlops.tables import print_findings

    findings = examine(storage)
    ok = all(finding.status != "error" for finding in findings)
    if as_json:
        print(json.dumps({"ok": ok, "findings": [f.to_dict() for f in findings]}))
    else:
        print_findings(findings)
    raise typer.Exit(0 if ok else 1)


for command in (runs, models, report, predict, monitor, trace, replay, lineage, diff, reproduce, gc):
    app.command()(command)
app.add_typer(config_app, name="config")
app.add_typer(rollout_app, name="rollout")
app.add_typer(labels_app, name="labels")
app.add_typer(loop_app, name="loop")
