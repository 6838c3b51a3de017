"""What every benchmark shares: the machine's description, tables, targets, result files, and child processes."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("raymlops", "ray", "torch", "numpy", "optuna", "scikit-learn")


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """A Markdown table, padded so that it also reads well in a terminal; numbers to the right."""
        cells = [[_cell(value) for value in row] for row in self.rows]
        widths = [max(len(row[i]) for row in [list(self.columns), *cells]) for i in range(len(self.columns))]
        right = [any(isinstance(row[i], int | float) for row in self.rows) for i in range(len(self.columns))]

        def line(row: Sequence[str]) -> str:
            padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
            return f"| {' | '.join(padded)} |"

        rule = "|".join("-" * (w + 1) + ":" if r else "-" * (w + 2) for w, r in zip(widths, right, strict=True))
        lines = [f"### {self.title}", "", line(self.columns), f"|{rule}|", *map(line, cells)]
        return "\n".join([*lines, "", *[f"- {note}" for note in self.notes]]).rstrip()


@dataclass(frozen=True)
class Target:
    """A claim that the measurement supports or does not."""

    claim: str
    value: float
    limit: float
    at_most: bool
    met: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", self.value <= self.limit if self.at_most else self.value >= self.limit)

    def row(self) -> list[Any]:
        return [self.claim, self.value, f"{'≤' if self.at_most else '≥'} {self.limit:g}", "yes" if self.met else "NO"]


@dataclass(frozen=True)
class Report:
    name: str
    title: str
    what: str
    """What is measured and how, in a paragraph."""
    tables: Sequence[Table]
    targets: Sequence[Target]
    raw: dict[str, Any]
    """The measurements that the tables were computed from."""
    quick: bool = False

    def markdown(self) -> str:
        host = machine()
        warning = "Quick run: sizes are too small to conclude anything from these numbers." if self.quick else ""
        claims = Table("Targets", ("claim", "measured", "target", "met"), [target.row() for target in self.targets])
        parts = [f"# {self.title}", warning, self.what, *(table.markdown() for table in self.tables), claims.markdown()]
        parts.append(f"Machine: {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB, {host['system']}.")
        parts.append(f"Software: {', '.join(f'{name} {number}' for name, number in host['software'].items())}.")
        parts.append(
            f"Measured {datetime.now(UTC):%Y-%m-%d}; regenerate with `python -m benchmarks.{self.name} --record`."
        )
        return "\n\n".join(part for part in parts if part) + "\n"

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "machine": machine(), "measured": datetime.now(UTC).isoformat()}, indent=1)


def machine() -> dict[str, Any]:
    """The hardware and software that a number belongs to."""
    import psutil

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "software": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def run(
    name: str,
    measure: Callable[[bool], Report],
    argv: Sequence[str] | None = None,
    more_options: Sequence[argparse.ArgumentParser] = (),
    brief: bool = False,
) -> int:
    """Parse options, measure, print, write what was asked for. Exit code 1 when a full run misses a target.

    `more_options` are parsers of options that the caller has read already. `brief` prints the tables alone and is no
    check: unless the result is recorded the exit code is 0.
    """
    prog = f"python -m benchmarks.{name}"
    parser = argparse.ArgumentParser(prog, description=measure.__doc__, parents=list(more_options))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, proves nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    parser.add_argument("--record", action="store_true", help=f"write benchmarks/results/{name}.md and .json")
    options = parser.parse_args(argv)
    if options.quick and options.record:
        parser.error("--record keeps full measurements only; leave out --quick")
    report = measure(options.quick)
    print("\n\n".join(table.markdown() for table in report.tables) if brief else report.markdown())
    if options.json:
        options.json.write_text(report.to_json() + "\n")
    if options.record:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(report.markdown())
        (RESULTS / f"{name}.json").write_text(report.to_json() + "\n")
    shown_only = options.quick or (brief and not options.record)
    return 0 if shown_only or all(target.met for target in report.targets) else 1


def in_child(function: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Call a module-level function in a fresh process, so that nothing is warm and peaks of memory are its own.

    Arguments and result are JSON. Raises RuntimeError with the end of the child's output when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="raymlops-benchmark-") as folder:
        answer, output = Path(folder) / "answer.json", Path(folder) / "output"
        target = [function.__globals__["__spec__"].name, function.__name__, json.dumps(arguments), str(answer)]
        shown = " ".join(f"{name}={value}" for name, value in arguments.items() if isinstance(value, str | int | float))
        print(f"... {function.__name__} {shown}"[:150], file=sys.stderr, flush=True)
        with output.open("w") as log:
            code = subprocess.run(
                [sys.executable, "-m", "benchmarks.common", *target], cwd=ROOT, stdout=log, stderr=log, check=False
            ).returncode
        if code or not answer.exists():
            tail = "\n".join(output.read_text(errors="replace").splitlines()[-30:])
            raise RuntimeError(f"{function.__name__} failed with exit code {code}:\n{tail}")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    module_, function_, arguments_, answer_ = sys.argv[1:]
    called = getattr(importlib.import_module(module_), function_)
    Path(answer_).write_text(json.dumps(called(**json.loads(arguments_))))
