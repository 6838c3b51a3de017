"""What the job looks like to whoever watches it, on a terminal and on a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from raymlops.terminal import Terminal, trials_table


def record(number: int, status: str, metric: float | None, epochs: int = 3, **extra: Any) -> Any:
    values = extra.pop("values", {"train.learning_rate": 0.0012345, "model.hidden": 64})
    return SimpleNamespace(
        number=number,
        name=f"trial-{number:03d}",
        values=values,
        status=status,
        reason=extra.pop("reason", None),
        curves=[{}] * epochs,
        best_metric=metric,
        seconds=1.5,
        finished=status not in ("pending", "running"),
    )


RECORDS = [
    record(1, "completed", 9.5),
    record(2, "running", 12.0),
    record(3, "failed", None, reason="FloatingPointError: the loss is NaN"),
    record(4, "pruned", 8.25),
]


def shown(table: Any, width: int = 100) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().rstrip("\n").split("\n")


def test_running_trials_come_first_then_the_best() -> None:
    lines = shown(trials_table(RECORDS, "mae", 1.0, 20))
    assert [line.split()[0] for line in lines[1:]] == ["trial-002", "trial-004", "trial-001", "trial-003"]
    lines = shown(trials_table(RECORDS, "auc", -1.0, 20))
    assert [line.split()[0] for line in lines[1:]] == ["trial-002", "trial-001", "trial-004", "trial-003"]


def test_numbers_stand_below_their_headings() -> None:
    header, first, *_ = shown(trials_table(RECORDS, "mae", 1.0, 20))
    assert header.split() == ["trial", "status", "epochs", "mae", "seconds", "learning_rate", "hidden"]
    assert first.split() == ["trial-002", "running", "3", "12.00", "1.5", "0.00123", "64"]
    for name, value in zip(header.split()[2:], first.split()[2:], strict=True):
        assert header.index(name) + len(name) == re.search(rf"(?<= ){re.escape(value)}(?= |$)", first).end()  # type: ignore[union-attr]


def test_rows_never_wrap() -> None:
    wide = {f"model.params.some_long_name_{i}": "a rather long value" for i in range(8)}
    lines = shown(trials_table([record(1, "running", 1.0, values=wide)], "mae", 1.0, 20), width=60)
    assert len(lines) == 2


def test_equal_last_names_are_told_apart() -> None:
    values = {"model.params.rate": 1, "train.rate": 2}
    assert "model.params.rate" in shown(trials_table([record(1, "running", 1.0, values=values)], "mae", 1.0, 9))[0]


def test_long_tables_are_cut() -> None:
    many = [record(i, "completed", float(i)) for i in range(1, 31)]
    lines = shown(trials_table(many, "mae", 1.0, 5))
    assert len(lines) == 1 + 5 + 1
    assert lines[-1].strip() == "… 25 more"


@pytest.fixture
def piped(tmp_path: Path) -> Iterator[tuple[Terminal, Path]]:
    path = tmp_path / "out.txt"
    with path.open("w") as stream:
        yield Terminal(stream), path


def test_on_a_pipe_every_event_is_one_plain_line(piped: tuple[Terminal, Path]) -> None:
    terminal, path = piped
    with terminal.live():
        terminal.step_started("search", "2 trials, comparing mae")
        terminal.trials(RECORDS, 4, "mae", "min")
        terminal.trials(RECORDS, 4, "mae", "min")
        terminal.note("a note with [brackets]")
        terminal.step_done("search", 2.04)
        terminal.step_started("gate", "judge")
        terminal.step_failed("gate")
    assert path.read_text().splitlines() == [
        "search: 2 trials, comparing mae",
        "  trial-001 completed mae 9.5 after 3 epoch(s)",
        "  trial-003 failed after 3 epoch(s) (FloatingPointError: the loss is NaN)",
        "  trial-004 pruned mae 8.25 after 3 epoch(s)",
        "  a note with [brackets]",
        "search: done in 2.0 s",
        "gate: judge",
        "gate: failed after 0.0 s",
    ]
    assert terminal.reached("search")
    assert not terminal.reached("gate")


# Descriptors are redirected, which only a process of its own shows as it really is.
SCRIPT = """
import logging, os, subprocess, sys
from types import SimpleNamespace
from raymlops.terminal import Terminal
from test_terminal import RECORDS

terminal = Terminal(sys.stdout)
with terminal.live(), terminal.quiet():
    terminal.step_started("start", "Ray")
    print("from print")
    print("from stderr", file=sys.stderr)
    os.write(1, b"from C\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    logging.getLogger("library").warning("from logging")
    terminal.step_done("start", 1.0)
    terminal.run_started("abc")
    terminal.note("local Ray: 1 node(s), 2 CPU")
    terminal.step_started("search", "4 trials")
    terminal.trials(RECORDS, 4, "mae", "min")
    terminal.step_failed("search")
print("after")
kept = terminal.log_path
print(terminal.keep_log(SimpleNamespace(name="m", storage="storage")))
assert not kept.exists()
"""
CHATTER = ["from print", "from stderr", "from C", "from a child", "from logging"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}


def test_chatter_goes_to_the_log_and_the_log_to_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    log = tmp_path / "storage" / "runs" / "m" / "abc" / "job.log"
    assert done.stdout.splitlines()[-2:] == ["after", str(log)]
    assert all(word in log.read_text() for word in CHATTER)
    assert not any(word in done.stdout + done.stderr for word in CHATTER)


def test_on_a_terminal_nothing_but_the_picture_is_seen(tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run(command, cwd=tmp_path, env=environment(), stdout=secondary, stderr=secondary, check=True)
    os.close(secondary)
    seen = ""
    while chunk := _read(primary):
        seen += chunk
    os.close(primary)
    for words in (
        "✓ ",
        "2 CPU",
        "✗ ",
        "3 of 4 trials finished, best mae 8.25",
        "1 failed: FloatingPointError",
        "after",
    ):
        assert words in seen
    assert not any(word in seen for word in CHATTER)


def _read(primary: int) -> str:
    try:
        return os.read(primary, 100_000).decode()
    except OSError:  # how Linux says that the other side is closed
        return ""


def test_the_log_stays_when_the_store_is_full(piped: tuple[Terminal, Path], tmp_path: Path) -> None:
    terminal, _ = piped
    (tmp_path / "storage").write_text("a file, so nothing can be written below it")
    terminal.run_started("abc")
    terminal.log_error("why\n")
    where = terminal.keep_log(SimpleNamespace(name="m", storage=str(tmp_path / "storage")))  # type: ignore[arg-type]
    assert where is not None
    assert Path(where).read_text() == "why\n"
    Path(where).unlink()


def test_a_scratch_log_is_removed(piped: tuple[Terminal, Path]) -> None:
    terminal, _ = piped
    with pytest.raises(ValueError, match="x"), terminal.scratch_log(), terminal.quiet():
        raise ValueError("x")
    assert terminal.log_path is not None
    assert not terminal.log_path.exists()
