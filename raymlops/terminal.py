"""The job on a terminal: steps with times, a trials table that updates in place, an ETA; other chatter in a file."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.config.tree import Config
    from raymlops.training.search import TrialRecord

TABLE_ROWS = 20
"""Trials shown at once: the best ones and those that run."""


class Terminal:
    """A `Watch` that draws. On a pipe or in a file it prints one line per step and per finished trial instead."""

    def __init__(self, stream: TextIO) -> None:
        # The stream's own descriptor is about to be pointed at the log file; this copy keeps reaching the terminal.
        self._stream = os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8", buffering=1)
        self.console = Console(file=self._stream, highlight=False, soft_wrap=not stream.isatty())
        self.log_path: Path | None = None
        self.run_id: str | None = None
        self._live: Live | None = None
        self._steps: dict[str, tuple[str, str, float]] = {}
        self._notes: list[str] = []
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

    def keep_log(self, config: Config) -> None:
        """Move the log into the run's directory, or say where it is when there is no run."""
        if self.log_path is None or not self.log_path.exists():
            return
        if self.run_id is None:
            return
        store = Store.at(config.storage)
        store.write(f"runs/{config.name}/{self.run_id}/job.log", self.log_path.read_bytes())
        self.log_path.unlink()

    def step_started(self, name: str, what: str) -> None:
        self._steps[name] = ("running", what, time.perf_counter())
        if self.console.is_terminal:
            self._draw()
        else:
            self.console.print(f"{name}: {what}")

    def step_done(self, name: str, seconds: float) -> None:
        self._steps[name] = ("done", self._steps[name][1], seconds)
        if self.console.is_terminal:
            self._draw()
        else:
            self.console.print(f"{name}: done in {seconds:.1f} s")

    def step_failed(self, name: str) -> None:
        _, what, started = self._steps[name]
        self._steps[name] = ("failed", what, time.perf_counter() - started)
        self._draw()

    def note(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(f"  {text}", style="dim")
        else:
            self.console.print(f"  {text}", style="dim")

    def trials(self, records: Sequence[TrialRecord], expected: int, metric: str, mode: str) -> None:
        if not self._records:
            self._search_started = time.perf_counter()
        self._records, self._expected, self._metric = list(records), expected, metric
        self._sign = 1.0 if mode == "min" else -1.0
        if self.console.is_terminal:
            self._draw()
            return
        for record in records:
            if record.finished and record.number not in self._printed:
                self._printed.add(record.number)
                best = "" if record.best_metric is None else f" {metric} {record.best_metric:.4g}"
                why = f" ({record.reason})" if record.reason else ""
                self.console.print(f"  {record.name} {record.status}{best} after {len(record.curves)} epoch(s){why}")

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
        if self.log_path is None:
            handle, name = tempfile.mkstemp(prefix="raymlops-", suffix=".log")
            os.close(handle)
            self.log_path = Path(name)
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        with self.log_path.open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        handler = logging.FileHandler(self.log_path)
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
            for descriptor in saved:
                os.close(descriptor)
            self._quiet_depth -= 1

    @contextmanager
    def live(self) -> Iterator[None]:
        """Draw in place while active; on a pipe this does nothing."""
        if not self.console.is_terminal:
            yield
            return
        with Live(self._picture(), console=self.console, refresh_per_second=8, transient=False) as self._live:
            try:
                yield
            finally:
                self._draw()
        self._live = None

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._picture())

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = []
        marks = {"running": ("…", "yellow"), "done": ("✓", "green"), "failed": ("✗", "red")}
        for name, (status, what, seconds) in self._steps.items():
            mark, style = marks[status]
            shown = time.perf_counter() - seconds if status == "running" else seconds
            line = Text.assemble(
                (f"{mark} ", style), (f"{name:<9}", "bold"), f" {what:<52}", (f"{shown:6.1f} s", "dim")
            )
            parts.append(line)
            if name == "search" and self._records:
                parts.append(self._table())
        return Group(*parts)

    def _table(self) -> RenderableType:
        done = [r for r in self._records if r.finished]
        measured = [r.best_metric for r in done if r.best_metric is not None]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 4), header_style="dim")
        for column in ("trial", "status", "epochs", self._metric, "seconds", "values"):
            table.add_column(column, justify="right" if column in ("epochs", self._metric, "seconds") else "left")
        ordered = sorted(self._records, key=lambda r: (r.best_metric is None, self._sign * (r.best_metric or 0.0)))
        for record in ordered[:TABLE_ROWS]:
            values = " ".join(f"{k.rpartition('.')[2]}={_short(v)}" for k, v in record.values.items())
            style = {"failed": "red", "running": "yellow", "pruned": "dim"}.get(record.status, "")
            metric = "" if record.best_metric is None else f"{record.best_metric:.4g}"
            row = (record.name, record.status, str(len(record.curves)), metric, f"{record.seconds:.1f}")
            table.add_row(*row, record.reason or values, style=style)
        elapsed = time.perf_counter() - self._search_started
        left = f", about {elapsed / len(done) * (self._expected - len(done)):.0f} s left" if done else ""
        best = f", best {self._metric} {self._sign * min(self._sign * m for m in measured):.4g}" if measured else ""
        summary = Text(f"    {len(done)} of {self._expected} trials finished{best}{left}", style="dim")
        return Group(table, summary)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
