"""The command line: parse, call, print. Everything heavy is imported by the command that uses it."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymlops import __version__
from raymlops.errors import RaymlopsError
from raymlops.labels_cli import app as labels_app
from raymlops.lineage_cli import diff, gc, lineage, reproduce
from raymlops.loop_cli import app as loop_app
from raymlops.monitor_cli import monitor
from raymlops.rollout_cli import app as rollout_app
from raymlops.trace_cli import replay, trace

if TYPE_CHECKING:
    from raymlops.config.tree import Config

app = typer.Typer(
    name="raymlops",
    help="From raw rows to a model that stays good in production, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at and check configuration files.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(rollout_app, name="rollout")
app.add_typer(labels_app, name="labels")
app.command()(monitor)
app.command()(trace)
app.command()(replay)
app.command()(lineage)
app.command()(diff)
app.command()(reproduce)
app.command()(gc)
app.add_typer(loop_app, name="loop")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML).")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, a.b.c=value.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; the last line is one object.")]
StorageOption = Annotated[str, typer.Option(help="Storage of the runs: a path or URI.")]


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
    if "--json" in sys.argv:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
    lines = [*(str(error).splitlines() or [type(error).__name__]), *getattr(error, "__notes__", [])]
    for number, line in enumerate(lines):
        print(f"{'       ' if number else 'error: '}{line}", file=sys.stderr)
    sys.exit(error.exit_code)


def _load(path: Path, overrides: list[str] | None) -> tuple[Config, Path]:
    """The configuration, and its directory, whose modules become importable."""
    from raymlops.config import load_config
    from raymlops.imports import add_user_directory

    config = load_config(path, overrides or [])
    base = path.resolve().parent
    add_user_directory(base)
    return config, base


def _print_json(value: Any) -> None:
    print(json.dumps(value, default=str))


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
    storage: StorageOption = ".raymlops",
    as_json: AsJson = False,
) -> None:
    """Do what of the whole job has to be done: data, search, gate, registry. Exit code 3 when the gate refuses."""
    from raymlops.retraining.command import job_of_run, plan_command, run_command, step_named

    job = None
    if resume is not None:
        job = job_of_run(_load(config, set_)[0].storage if config is not None else storage, resume)
    if config is not None:
        loaded, base = _load(config, set_)
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


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration, for editors and other tools."""
    from raymlops.config import Config

    print(json.dumps(Config.model_json_schema(by_alias=True), indent=2))


@config_app.command("check")
def config_check(config: ConfigFile, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Validate without running: keys and values, import paths, search space, and the cluster's resources."""
    from raymlops.checks import check_config

    loaded, base = _load(config, set_)
    facts = check_config(loaded, base)
    if as_json:
        _print_json({"ok": True, **facts})
    else:
        print(f"{config}: valid")
        for name, value in facts.items():
            print(f"  {name}: {value}")


@app.command()
def runs(
    name: Annotated[str | None, typer.Argument(help="Model name; all when absent.")] = None,
    storage: StorageOption = ".raymlops",
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; the storage's own when absent.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from raymlops.registry.catalog import list_runs
    from raymlops.tables import print_runs

    rows = list_runs(storage, tracking_uri, name, limit)
    _print_json({"runs": [row.to_dict() for row in rows]}) if as_json else print_runs(rows)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Model name; all when absent.")] = None,
    storage: StorageOption = ".raymlops",
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; the storage's own when absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List registered versions with aliases, metrics and age."""
    from raymlops.registry.catalog import list_models
    from raymlops.tables import print_models

    rows = list_models(storage, tracking_uri, name)
    _print_json({"models": [row.to_dict() for row in rows]}) if as_json else print_models(rows)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id or the beginning of one.")],
    output: Annotated[Path | None, typer.Option(help="Where to write the HTML; report-RUN.html when absent.")] = None,
    storage: StorageOption = ".raymlops",
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; the storage's own when absent.")
    ] = None,
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
    _print_json({"run_id": run_id, "report": str(target)}) if as_json else print(target)


@app.command()
def predict(
    model: Annotated[
        str, typer.Argument(metavar="CONFIG|MODEL", help="A configuration, NAME, NAME@ALIAS or NAME/VERSION.")
    ],
    input_: Annotated[str, typer.Option("--input", help="Parquet or CSV file, directory or URI.")],
    output: Annotated[
        str, typer.Option("--output", help="Directory or URI for the predictions (parquet); must be new.")
    ],
    storage: StorageOption = ".raymlops",
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; the storage's own when absent.")
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score rows with a registered model on Ray Data; the champion unless said otherwise."""
    from raymlops.retraining.scoring import score_command

    target: Any = model
    if model.endswith((".yaml", ".yml")):
        target, _ = _load(Path(model), set_)
    facts = score_command(target, input_, output, storage, tracking_uri, quiet=as_json)
    if as_json:
        _print_json(facts)


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
    loaded, _ = _load(Path(target), set_)
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
        _print_json({"files": [str(path) for path in written]})
        return
    for path in written:
        print(path)
    print(f"\nnext: cd {directory} && raymlops run model.yaml")


@app.command()
def doctor(storage: StorageOption = ".raymlops", as_json: AsJson = False) -> None:
    """Check versions, resources, ports, disk and store; exit code 1 when something will not work."""
    from raymlops.doctor import examine
    from raymlops.tables import print_findings

    findings = examine(storage)
    ok = all(finding.status != "error" for finding in findings)
    _print_json({"ok": ok, "findings": [f.to_dict() for f in findings]}) if as_json else print_findings(findings)
    raise typer.Exit(0 if ok else 1)
