"""The job on a terminal: steps with times, a trials table that updates in place, an ETA; other chatter in a file."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raymlops.last_words import redirected
from raymlops.store import Store, StoreError

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.training.records import TrialRecord

TABLE_ROWS = 20
"""Trials shown at once: those that run, then the best ones."""
OTHER_LINES = 16
"""Lines of the picture that are not trials; the table gets what is left of the window."""
MARKS = {"running": ("…", "yellow"), "done": ("✓", "green"), "failed": ("✗", "red"), "reused": ("=", "blue")}


@dataclass
class _Step:
    what: str
    status: Literal["running", "done", "failed", "reused"] = "running"
    started: float = field(default_factory=time.perf_counter)
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def shown_seconds(self) -> float:
        return time.perf_counter() - self.started if self.seconds is None else self.seconds


class Terminal:
    """A `Watch` that draws. On a pipe or in a file it prints one line per step and per finished trial instead."""

    def __init__(self, stream: TextIO) -> None:
        # The stream's own descriptor is about to be pointed at the log file; this copy keeps reaching the terminal.
        self._stream = os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8", buffering=1)
        self.console = Console(file=self._stream, highlight=False, soft_wrap=not stream.isatty())
        self.log_path: Path | None = None
        self.run_id: str | None = None
        self._steps: dict[str, _Step] = {}
        self._records: list[TrialRecord] = []
        self._expected = 0
        self._metric = ""
        self._sign = 1.0
        self._search_started = 0.0
        self._printed: set[int] = set()
        self._quiet_depth = 0

    def run_started(self, run_id: str) -> None:
        self.run_id = run_id
        self.note(f"run {run_id}")

    def keep_log(self, config: Config) -> str | None:
        """Move the log into the run's directory; returns where it is, None when nothing was logged or it was moved.

        Without a run, or when the store cannot be written, it stays where it was written; an empty one is removed.
        """
        if self.log_path is None or not self.log_path.exists():
            return None
        if not self.log_path.stat().st_size:
            self.log_path.unlink()
            return None
        if self.run_id is not None:
            store, path = Store.at(config.storage), f"runs/{config.name}/{self.run_id}/job.log"
            try:
                before = store.read(path) if store.exists(path) else b""  # of the process that the run outlived
                store.write(path, before + self.log_path.read_bytes())
            except StoreError:
                return str(self.log_path)
            self.log_path.unlink()
            return store.location(path)
        return str(self.log_path)

    @contextmanager
    def scratch_log(self) -> Iterator[None]:
        """For work without a run to keep the log in: it is removed at the end, whatever that is."""
        try:
            yield
        finally:
            if self.log_path is not None:
                self.log_path.unlink(missing_ok=True)

    def log_error(self, text: str) -> None:
        """Add to the log, which is opened if nothing was logged yet."""
        with self._log().open("a", encoding="utf-8") as log:
            log.write(text)

    def _log(self) -> Path:
        if self.log_path is None:
            handle, name = tempfile.mkstemp(prefix="raymlops-", suffix=".log")
            os.close(handle)
            self.log_path = Path(name)
        return self.log_path

    def reached(self, name: str) -> bool:
        """Whether the step was completed."""
        return name in self._steps and self._steps[name].status in ("done", "reused")

    def step_started(self, name: str, what: str) -> None:
        self._steps[name] = _Step(what)
        self._line(f"{name}: {what}")

    def step_done(self, name: str, seconds: float) -> None:
        step = self._steps[name]
        step.status, step.seconds = "done", seconds
        self._line(f"{name}: done in {seconds:.1f} s")

    def step_failed(self, name: str) -> None:
        step = self._steps[name]
        step.status, step.seconds = "failed", step.shown_seconds
        self._line(f"{name}: failed after {step.seconds:.1f} s")

    def step_reused(self, name: str, why: str) -> None:
        self._steps[name] = _Step(why, "reused", seconds=0.0)
        self._line(f"{name}: reused: {why}")

    def note(self, text: str) -> None:
        if self._steps:
            next(reversed(self._steps.values())).notes.append(text)
        self._line(f"  {text}")

    def trials(self, records: Sequence[TrialRecord], expected: int, metric: str, mode: str) -> None:
        if not self._records:
            self._search_started = time.perf_counter()
        self._records, self._expected, self._metric = list(records), expected, metric
        self._sign = 1.0 if mode == "min" else -1.0
        for record in records:
            if record.finished and record.number not in self._printed:
                self._printed.add(record.number)
                best = "" if record.best_metric is None else f" {metric} {record.best_metric:.4g}"
                why = f" ({record.reason})" if record.reason else ""
                self._line(f"  {record.name} {record.status}{best} after {len(record.curves)} epoch(s){why}")

    def _line(self, text: str) -> None:
        """For pipes and files, where nothing can be drawn in place."""
        if not self.console.is_terminal:
            self.console.print(text, markup=False)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Point the process's stdout and stderr at a log file, also for C++ code and for child processes."""
        self._quiet_depth += 1
        if self._quiet_depth > 1:
            try:
                yield
            finally:
                self._quiet_depth -= 1
            return
        path = self._log()
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        redirected.append(saved)
        with path.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            redirected.remove(saved)
            for descriptor in saved:
                os.close(descriptor)
            self._quiet_depth -= 1

    @contextmanager
    def live(self) -> Iterator[None]:
        """Draw in place while active; on a pipe this does nothing."""
        if not self.console.is_terminal:
            yield
            return
        # Our own redirection takes stdout and stderr; rich's would bring back what libraries print.
        with Live(
            get_renderable=self._picture,
            console=self.console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield

    def _picture(self) -> RenderableType:
        """Called by the refreshing thread while the job goes on, hence the copies."""
        parts: list[RenderableType] = []
        width = max(20, min(60, self.console.width - 22))
        for name, step in list(self._steps.items()):
            mark, style = MARKS[step.status]
            what = step.what if len(step.what) <= width else f"{step.what[: width - 1]}…"
            seconds = (f"{step.shown_seconds:6.1f} s", "dim")
            parts.append(Text.assemble((f"{mark} ", style), (f"{name:<9}", "bold"), f" {what:<{width}}", seconds))
            parts += [Text(f"    {note}", style="dim", no_wrap=True, overflow="ellipsis") for note in list(step.notes)]
            if name == "search" and self._records:
                parts.append(self._search(self._records))
        return Group(*parts)

    def _search(self, records: list[TrialRecord]) -> RenderableType:
        rows = max(4, min(TABLE_ROWS, self.console.height - OTHER_LINES))
        parts: list[RenderableType] = [trials_table(records, self._metric, self._sign, rows)]
        done = [r for r in records if r.finished]
        left = ""
        if done and len(done) < self._expected:
            elapsed = time.perf_counter() - self._search_started
            left = f", about {elapsed / len(done) * (self._expected - len(done)):.0f} s left"
        measured = [self._sign * r.best_metric for r in records if r.best_metric is not None]
        best = f", best {self._metric} {self._sign * min(measured):.4g}" if measured else ""
        parts.append(Text(f"    {len(done)} of {self._expected} trials finished{best}{left}", style="dim"))
        for reason, count in Counter(r.reason for r in records if r.status == "failed").most_common(3):
            parts.append(Text(f"    {count} failed: {reason}", style="red"))
        return Group(*parts)


def trials_table(records: Sequence[TrialRecord], metric: str, sign: float, rows: int) -> Table:
    """Running trials first, then by metric (`sign` −1 when greater is better), those without one last."""
    keys = list(dict.fromkeys(key for record in records for key in record.values))
    short = [key.rpartition(".")[2] for key in keys]
    names = [name if short.count(name) == 1 else key for name, key in zip(short, keys, strict=True)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("    trial", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for column in ("epochs", metric, "seconds", *names):
        table.add_column(column, justify="right", no_wrap=True)

    def rank(record: TrialRecord) -> tuple[bool, bool, float, int]:
        value = record.best_metric
        return record.finished, value is None, sign * value if value is not None else 0.0, record.number

    ordered = sorted(records, key=rank)
    for record in ordered[:rows]:
        style = {"failed": "red", "running": "yellow", "pruned": "dim"}.get(record.status, "")
        value = "" if record.best_metric is None else f"{record.best_metric:#.4g}".rstrip(".")
        cells = (f"    {record.name}", record.status, str(len(record.curves)), value, f"{record.seconds:.1f}")
        table.add_row(*cells, *(_short(record.values.get(key, "")) for key in keys), style=style)
    if len(ordered) > rows:
        table.add_row(f"    … {len(ordered) - rows} more", style="dim")
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
