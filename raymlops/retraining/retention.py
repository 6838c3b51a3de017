"""What of a storage may be removed. Pure: from what is there and who needs it to a plan.

The rule errs on the side of keeping. Something goes only when its run is known, has ended, is not among those to keep,
and nothing that is kept (a registered version, a staged package, a run) has its path, or its snapshot, to its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from raymlops.errors import ConfigError

Kind = Literal["snapshot", "leftover", "run", "scratch", "staging", "quarantine"]
"""`leftover`: files of a snapshot that was never finished; `scratch`: of a reproduction that was killed."""
YOUNG_SECONDS = 3600.0
"""Nothing changed more recently is touched: whoever writes it may not have said so yet."""
SCRATCH_SECONDS = 86_400.0
"""The same for what no run vouches for: a reproduction writes once per epoch, a job before it has a run as it reads."""
CHOOSING_SECONDS = 86_400.0
"""So long a job that has named no snapshot yet is taken to be about to choose one of those there are."""
UNITS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True)
class Keep:
    """Runs to keep: the newest so many of each model, those younger than so many seconds, or both."""

    newest: int = 0
    younger: float = 0.0

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Keep:
        """From `10` (runs), `30d`, `12h` or `8w`. Raises ConfigError."""
        newest, younger = 0, 0.0
        for text in texts:
            match = re.fullmatch(r"(\d{1,9})([hdw]?)", text.strip())
            if match is None:
                raise ConfigError(f"--keep: found {text!r}, expected a number of runs or an age such as 30d, 12h or 8w")
            if match[2]:
                younger = max(younger, int(match[1]) * UNITS[match[2]])
            else:
                newest = max(newest, int(match[1]))
        return cls(newest, younger)


@dataclass(frozen=True)
class Item:
    """Something in the storage that can be removed as a whole."""

    path: str
    kind: Kind
    bytes: int
    modified: float
    """When the newest file of it was written; seconds since 1970."""
    run: str | None = None
    """Id of the run that wrote it; None when it does not say."""
    snapshot: str | None = None
    """Its hash, if it is one."""
    files: str | None = None
    """Where its files are, if not at `path`."""


@dataclass(frozen=True)
class KnownRun:
    """A job that MLflow knows."""

    run_id: str
    name: str
    """Of the model."""
    started: float
    running: bool
    snapshot: str | None = None
    checkpoint: str | None = None
    """Where the weights of its model are; with steps reused from another run, below that run."""


@dataclass(frozen=True)
class Need:
    """Something outside of runs that must go on working: a registered version, a staged package."""

    who: str
    run: str | None = None
    snapshot: str | None = None
    paths: tuple[str, ...] = ()
    """What it needs of its run, if that is known from elsewhere than the run."""


@dataclass(frozen=True)
class Held:
    """All there is, and all that is known about it."""

    items: tuple[Item, ...]
    runs: tuple[KnownRun, ...]
    needs: tuple[Need, ...]
    busy: frozenset[str] = frozenset()
    """Models with a job under way. It may take over what any earlier run left, and any snapshot."""


@dataclass(frozen=True)
class Plan:
    """`kept` says why, by path, of everything that is not removed."""

    remove: tuple[Item, ...]
    kept: dict[str, str]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.remove)


def plan(held: Held, keep: Keep, now: float, *, name: str | None = None, unknown: bool = False) -> Plan:
    """What may be removed. `name` limits it to what one model's runs left; `unknown` also removes what belongs to runs
    that MLflow does not know, which would otherwise keep every snapshot too: they may need any of them."""
    judge = _Judge(held, keep, now, name, unknown)
    kept: dict[str, str] = {}
    remove = []
    for item in held.items:
        reason = judge.reason_to_keep(item)
        if reason is None:
            remove.append(item)
        else:
            kept[item.path] = reason
    return Plan(tuple(remove), kept)


class _Judge:
    """Looks things up once for all items."""

    def __init__(self, held: Held, keep: Keep, now: float, name: str | None, unknown: bool) -> None:
        self.now, self.name, self.unknown, self.busy = now, name, unknown, held.busy
        self.runs = {run.run_id: run for run in held.runs}
        self.kept_runs = kept_runs(held.runs, keep, now)
        alive = [run for run in held.runs if run.run_id in self.kept_runs]
        self.snapshots = {r.snapshot: f"run {r.run_id[:12]} is kept" for r in alive if r.snapshot}
        self.paths = {r.checkpoint: f"run {r.run_id[:12]} is kept" for r in alive if r.checkpoint}
        self.whole_runs: dict[str, str] = {}
        for need in held.needs:
            run = self.runs.get(need.run or "")
            for snapshot in (need.snapshot, run.snapshot if run else None):
                if snapshot:
                    self.snapshots[snapshot] = f"{need.who} needs it"
            paths = need.paths or (weights_and_package(run) if run else ())
            self.paths |= dict.fromkeys(paths, f"{need.who} needs it")
            if not paths and need.run:
                self.whole_runs[need.run] = f"{need.who} needs it"
        self.users: dict[str, set[str]] = {}
        for known in held.runs:
            if known.snapshot:
                self.users.setdefault(known.snapshot, set()).add(known.name)
        # Reproductions have no run. Everything else that names one MLflow does not know is somebody else's.
        strangers = {item.run for item in held.items if item.run and item.run not in self.runs}
        self.strangers = len(strangers)
        self.choosing = [
            run for run in held.runs if run.running and not run.snapshot and now - run.started < CHOOSING_SECONDS
        ]

    def reason_to_keep(self, item: Item) -> str | None:
        nobodys = item.kind == "scratch" or (item.kind in ("staging", "leftover") and item.run is None)
        young = SCRATCH_SECONDS if nobodys else YOUNG_SECONDS
        if self.now - item.modified < young:
            return "it is too new"
        if (reason := self._needed_path(item.path)) is not None:
            return reason
        if nobodys and self.name is None:
            return f"a job of {min(self.busy)} is under way" if self.busy else None
        return self._snapshot(item) if item.kind == "snapshot" else self._of_run(item)

    def _needed_path(self, path: str) -> str | None:
        for needed, reason in self.paths.items():
            if needed == path or needed.startswith(f"{path}/") or path.startswith(f"{needed}/"):
                return reason
        return None

    def _of_run(self, item: Item) -> str | None:
        if item.run is None:
            return "it does not say which run wrote it"
        if item.run in self.whole_runs and item.kind == "run":  # also of one that MLflow has forgotten
            return self.whole_runs[item.run]
        run = self.runs.get(item.run)
        if run is None:
            if self.name is not None:
                return "it is not known to belong to this model"
            return None if self.unknown else "its run is not known to this tracking store (--unknown removes it)"
        if self.name is not None and run.name != self.name:
            return "it belongs to another model"
        if run.name in self.busy:
            return f"a job of {run.name} is under way"
        return self.kept_runs.get(item.run)

    def _snapshot(self, item: Item) -> str | None:
        assert item.snapshot is not None
        if item.snapshot in self.snapshots:
            return self.snapshots[item.snapshot]
        if self.busy:
            return f"a job of {min(self.busy)} is under way"
        if self.choosing:
            return f"run {self.choosing[0].run_id[:12]} has not chosen its snapshot yet"
        if self.strangers and not self.unknown:
            return f"one of {self.strangers} run(s) that this tracking store does not know may need it"
        users = self.users.get(item.snapshot, set())
        if self.name is not None and users != {self.name}:
            return "it is not only this model's"
        return None


def weights_and_package(run: KnownRun) -> tuple[str, ...]:
    """Of the model that the run has made; empty when it does not say where the weights are."""
    return (run.checkpoint, f"runs/{run.name}/{run.run_id}/package") if run.checkpoint else ()


def kept_runs(runs: Iterable[KnownRun], keep: Keep, now: float) -> dict[str, str]:
    """Ids of the runs whose files all stay, and why: those that have not ended, and those that `keep` names."""
    kept: dict[str, str] = {}
    by_name: dict[str, list[KnownRun]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    for name, of_model in by_name.items():
        for place, run in enumerate(sorted(of_model, key=lambda r: (-r.started, r.run_id))):
            if run.running:
                kept[run.run_id] = "its run has not ended"
            elif place < keep.newest:
                kept[run.run_id] = f"its run is among the newest {keep.newest} of {name}"
            elif now - run.started < keep.younger:
                kept[run.run_id] = "its run is young enough"
    return kept
