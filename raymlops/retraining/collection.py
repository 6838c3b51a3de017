"""Removing what no kept run and no version needs: looks at storage and MLflow, plans, removes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raymlops.errors import IntegrityError
from raymlops.lock import held
from raymlops.registry.backend import Tracking, reported
from raymlops.registry.catalog import find_jobs
from raymlops.registry.names import CHECKPOINT_TAG, NAME_TAG
from raymlops.retraining.records import Records
from raymlops.retraining.retention import Held, Item, Keep, KnownRun, Need, Plan, plan
from raymlops.store import Store

RUN_ID = re.compile(r"[0-9a-f]{32}")
SCRATCH = "reproduce-"
"""Begins the names of directories below `runs/NAME` that reproductions write to."""


@dataclass(frozen=True)
class Collected:
    """`removed` are gone, or would be in a dry run. `spared` came into use while others were removed; `failed` are
    still there, whatever the store said."""

    plan: Plan
    removed: list[Item]
    spared: list[Item]
    failed: list[Item]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.removed)

    def to_dict(self) -> dict[str, Any]:
        def plain(items: list[Item]) -> list[dict[str, Any]]:
            return [{"path": i.path, "kind": i.kind, "bytes": i.bytes, "run": i.run} for i in items]

        return {
            "bytes": self.bytes,
            "removed": plain(self.removed),
            "spared": plain(self.spared),
            "failed": plain(self.failed),
            "kept": self.plan.kept,
        }


def collect(
    store: Store,
    tracking: Tracking,
    keep: Keep,
    *,
    name: str | None = None,
    unknown: bool = False,
    dry_run: bool = False,
    now: float | None = None,
    progress: Callable[[Item], None] = lambda item: None,
) -> Collected:
    """Remove what `plan` says. A job that begins meanwhile is seen before each removal: what it may need stays.

    Raises StoreError when the storage and RaymlopsError when MLflow cannot be read; then nothing was removed.
    """
    now = time.time() if now is None else now
    items = tuple(_items(store))
    seen = _look(store, tracking)
    made = plan(_held(items, seen, store, tracking), keep, now, name=name, unknown=unknown)
    if dry_run:
        return Collected(made, list(made.remove), [], [])
    removed: list[Item] = []
    spared: list[Item] = []
    failed: list[Item] = []
    allowed = {item.path for item in made.remove}
    for item in made.remove:
        fresh = _look(store, tracking)
        if fresh != seen:
            again = plan(_held(items, fresh, store, tracking), keep, now, name=name, unknown=unknown)
            allowed = {kept.path for kept in again.remove}
        seen = fresh
        if item.path not in allowed:
            spared.append(item)
            continue
        (removed if _remove(store, item) else failed).append(item)
        progress(item)
    return Collected(made, removed, spared, failed)


@dataclass(frozen=True)
class _Seen:
    """What is known of jobs at one moment."""

    runs: tuple[KnownRun, ...]
    busy: frozenset[str]


def _look(store: Store, tracking: Tracking) -> _Seen:
    """Every job in MLflow, and who works. A run that waits to be gone on with counts as one that has not ended."""
    busy, waiting = set(), set()
    for model in store.list("runs"):
        records = Records(store, model)
        waiting |= {job.run_id for job in records.jobs() if job.unfinished}
        keys = [key for key in store.list(f"runs/{model}/jobs") if not key.endswith(".json")]
        if any(held(store, records.lock_root(key)) for key in keys):
            busy.add(model)
    with reported("listing runs"):
        runs = tuple(
            KnownRun(
                run_id=run.info.run_id,
                name=run.data.tags.get(NAME_TAG, ""),
                started=run.info.start_time / 1000,
                running=run.info.status == "RUNNING" or run.info.run_id in waiting,
                snapshot=run.data.tags.get("raymlops.snapshot"),
                checkpoint=run.data.tags.get(CHECKPOINT_TAG),
            )
            for run in find_jobs(tracking, None)
        )
    return _Seen(runs, frozenset(busy))


def _held(items: tuple[Item, ...], seen: _Seen, store: Store, tracking: Tracking) -> Held:
    return Held(items, seen.runs, tuple(_needs(store, tracking)), seen.busy)


def _needs(store: Store, tracking: Tracking) -> Iterator[Need]:
    """Every version, whatever its alias, and every package that was staged for an endpoint."""
    if tracking.exists:
        with reported("listing versions"):
            token: str | None = None
            while True:
                page = tracking.client.search_model_versions(max_results=200, page_token=token)
                for version in page:
                    tags = dict(version.tags)
                    yield Need(
                        f"models:/{version.name}/{version.version}", version.run_id or None, tags.get("snapshot")
                    )
                token = page.token
                if not token:
                    break
    for package in store.list("packages"):
        path = f"packages/{package}/manifest.json"
        if store.exists(path):
            facts = _said(store, path, "facts")
            yield Need(f"the staged package {package[:12]}", facts.get("run_id"), facts.get("snapshot"))


def _items(store: Store) -> Iterator[Item]:
    for digest in store.list("snapshots"):
        yield from _snapshot_items(store, digest)
    for model in store.list("runs"):
        for run in store.list(f"runs/{model}"):
            if run.startswith(SCRATCH):
                yield _item(store, f"runs/{model}/{run}", "scratch")
            elif RUN_ID.fullmatch(run):  # beside them lies what belongs to no single run
                for child in store.list(f"runs/{model}/{run}"):
                    yield _item(store, f"runs/{model}/{run}/{child}", "run", run)
    for kind in ("staging", "quarantine"):
        for run in store.list(kind):
            yield _item(store, f"{kind}/{run}", kind, _run_id(run))


def _snapshot_items(store: Store, digest: str) -> Iterator[Item]:
    path = f"snapshots/{digest}"
    children = store.list(path)
    writer = None
    if "manifest.json" in children:
        writer = str(_said(store, f"{path}/manifest.json", "directory"))
        size, modified = store.usage(f"{path}/{writer}")
        size += store.usage(f"{path}/manifest.json")[0]
        yield Item(path, "snapshot", size, modified, _run_id(writer), digest, f"{path}/{writer}")
    for child in children:  # of a run that was killed, or that another one was faster than
        if child not in ("manifest.json", writer):
            yield _item(store, f"{path}/{child}", "leftover", _run_id(child))


def _said(store: Store, path: str, key: str) -> Any:
    """What a manifest says. Raises IntegrityError when it does not: nobody can tell then what is needed."""
    try:
        return json.loads(store.read(path))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{store.location(path)}: is no manifest ({type(error).__name__}: {error})") from error


def _run_id(name: str) -> str | None:
    """Directories that were made before there was a run have names of another form."""
    return name if RUN_ID.fullmatch(name) else None


def _item(store: Store, path: str, kind: Any, run: str | None = None, snapshot: str | None = None) -> Item:
    size, modified = store.usage(path)
    return Item(path, kind, size, modified, run, snapshot)


def _remove(store: Store, item: Item) -> bool:
    """Whether it is gone."""
    path = item.path
    if item.kind == "snapshot":
        store.delete_file(f"{path}/manifest.json")  # first: without it there is no snapshot, not half of one
        path = item.files or path
    for remove in (store.delete_tree, store.delete_file):  # what lies there may be a plain file, such as a log
        if store.exists(path):
            with suppress(OSError):
                remove(path)
    parent = path.rpartition("/")[0]
    if item.kind in ("run", "leftover", "snapshot") and not store.list(parent):
        store.delete_tree(parent)
    return not store.exists(path)
