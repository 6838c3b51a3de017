"""`raymlops lineage`, `diff`, `reproduce`, `gc`: where a model came from, whether it comes out again, what may go."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymlops.errors import ConfigError
from raymlops.options import AsJson, RunId, Storage, TrackingUri

if TYPE_CHECKING:
    from raymlops.registry.backend import Tracking
    from raymlops.store import Store

Base = Annotated[
    Path | None, typer.Option(help="Directory of data files and code; the one that the run was started with if absent.")
]


def _place(storage: str, tracking_uri: str | None) -> tuple[Store, Tracking]:
    from raymlops.registry.backend import tracking
    from raymlops.store import Store

    store = Store.at(storage)
    return store, tracking(tracking_uri, store)


def lineage(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="NAME (its champion), NAME@ALIAS or NAME/VERSION.")],
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    base: Base = None,
    ancestors: Annotated[bool, typer.Option("--ancestors", help="Go on with the champion before, and so on.")] = False,
    as_json: AsJson = False,
) -> None:
    """From a version to run, data and code, every hash computed again (exit code 1 if one differs)."""
    from raymlops.lineage_text import lineage_lines
    from raymlops.registry.ancestry import ancestors_of, lineage_of

    store, tracking = _place(storage, tracking_uri)
    found = lineage_of(tracking, store, model, base)
    parents = ancestors_of(tracking, store, found) if ancestors else []
    if as_json:
        more = {"ancestors": [parent.to_dict() for parent in parents]} if ancestors else {}
        typer.echo(json.dumps({**found.to_dict(), **more}, default=str))
    else:
        for number, one in enumerate([found, *parents]):
            typer.echo("\n".join([*([""] if number else []), *lineage_lines(one)]))
    raise typer.Exit(0 if all(one.intact for one in [found, *parents]) else 1)


def diff(
    left: RunId,
    right: RunId,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is the same.")] = False,
    as_json: AsJson = False,
) -> None:
    """Two runs side by side: configuration, data by column, environment, results."""
    from raymlops.lineage_text import diff_lines
    from raymlops.registry.diffing import diff_runs
    from raymlops.registry.record import RunRecord

    _, tracking = _place(storage, tracking_uri)
    found = diff_runs(RunRecord.find(tracking, left), RunRecord.find(tracking, right), everything=everything)
    typer.echo(json.dumps(found.to_dict(), default=str) if as_json else "\n".join(diff_lines(found)))


def reproduce(
    run: RunId,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    base: Base = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recorded configuration, a.b.c=value."),
    ] = None,
    only_weights: Annotated[
        bool, typer.Option("--only-weights", help="Exit with 0 for equal weights, whatever else differs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a run's winner again from what was recorded (exit code 1 unless all is equal, to the last bit)."""
    from raymlops.lineage_text import reproduction_lines
    from raymlops.retraining.reproduction import reproduce as again
    from raymlops.terminal import Terminal

    store, tracking = _place(storage, tracking_uri)
    terminal = Terminal(sys.stderr if as_json else sys.stdout)
    with terminal.scratch_log(), terminal.live(), terminal.quiet():
        done = again(tracking, store, run, terminal, base=base, overrides=set_ or [])
    typer.echo(json.dumps(done.to_dict(), default=str) if as_json else "\n".join(reproduction_lines(done)))
    raise typer.Exit(0 if done.exact or (only_weights and done.equal) else 1)


def gc(
    name: Annotated[str | None, typer.Argument(help="Model name; all models when absent.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="N|AGE", help="Keep the newest N runs of each model, or those younger than 30d, 12h, 8w."),
    ] = None,
    storage: Storage = ".raymlops",
    tracking_uri: TrackingUri = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also what belongs to runs that this tracking store does not know.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove snapshots, checkpoints and leftovers that no version and no kept run needs."""
    from raymlops.lineage_text import collected_lines
    from raymlops.retraining.collection import collect
    from raymlops.retraining.retention import Keep

    if not keep:
        raise ConfigError("--keep: not given; expected a number of runs to keep, an age such as 30d, or both")
    store, tracking = _place(storage, tracking_uri)
    found = collect(store, tracking, Keep.parse(keep), name=name, unknown=unknown, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **found.to_dict()}))
    else:
        typer.echo("\n".join(collected_lines(found, dry_run)))
    raise typer.Exit(1 if found.failed else 0)
