"""What an endpoint costs: raymlops with and without rollouts, and other servers, with the same model and load."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Report, run
from benchmarks.serving_lib import models
from benchmarks.serving_lib.contenders import measure_peer
from benchmarks.serving_lib.environments import Environment, Unavailable, default_directory, ensure
from benchmarks.serving_lib.load import GENERATORS, available
from benchmarks.serving_lib.ours import SETTINGS, measure_log, measure_ours
from benchmarks.serving_lib.peers import PEERS
from benchmarks.serving_lib.recorder import SLICES, Plan, Recorder
from benchmarks.serving_lib.tables import tables, targets

NAMES = ("raymlops", *(peer.name for peer in PEERS))
LOG_STARTS = 4
"""Of the server that shows what the prediction log takes."""
WHAT = """\
One row of named columns per request, the same 64 rows of flights in turn, one model: the champion of the flights
configuration, opened from the same package. A closed loop of c connections drives each server alone on the machine;
servers are started anew for every repeat, in turn, and every server is measured at every c {slices} times per start.
Before and after, every server's answers to all rows are compared with the champion's own prediction. Generator:
{generator}, on the same {cores} cores as the server."""


def measure(quick: bool, options: argparse.Namespace) -> Report:
    """Throughput and latency of endpoints at 1, 16 and 64 connections."""
    repeats, seconds, warm = (1, 1.0, 1.0) if quick else (options.repeats, options.seconds, 1.5)
    skipped = {name for value in options.skip for name in value.split(",")}
    with ExitStack() as stack:
        storage = options.storage or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymlops-serving-")))
        recorder = Recorder(Plan(models.prepare(storage), options.generator, seconds, warm))
        environments = _environments(options.environments, skipped, recorder)
        for _ in range(repeats):
            for label in SETTINGS:
                if "raymlops" not in skipped:
                    measure_ours(label, recorder)
            for peer in PEERS:
                if peer.name in environments:
                    measure_peer(peer, environments[peer.name], recorder)
        if "raymlops" not in skipped:
            measure_log(recorder, *((1, 4) if quick else (LOG_STARTS,)))
    raw = {
        **recorder.plain(),
        "generator": options.generator,
        "repeats": repeats,
        "seconds": seconds,
        "versions": {name: dict(found.versions) for name, found in environments.items()},
    }
    return report(raw, quick)


def report(raw: dict[str, Any], quick: bool = False) -> Report:
    """Tables and targets from the measurements."""
    cores = len(os.sched_getaffinity(0))
    what = WHAT.format(slices=SLICES, generator=raw["generator"], cores=cores)
    return Report("serving", "Serving: what an endpoint costs", what, tables(raw), targets(raw), raw, quick)


def _environments(directory: Path, skipped: set[str], recorder: Recorder) -> dict[str, Environment]:
    """By peer; why one cannot be installed is kept with the recorder."""
    found = {}
    for peer in PEERS:
        if peer.name in skipped:
            recorder.missing[peer.title] = "skipped by --skip"
            continue
        try:
            found[peer.name] = ensure(peer.distribution, peer.requirements, directory)
        except Unavailable as error:
            recorder.missing[peer.title] = str(error)
    return found


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--environments", type=Path, metavar="DIR", default=default_directory(),
        help="where the peers' virtual environments are kept (default: below the user's cache directory)",
    )  # fmt: skip
    parser.add_argument("--storage", type=Path, metavar="DIR", help="keep the trained models here, and take them again")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME[,NAME]", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--generator", choices=GENERATORS, default=available(), help="default: wrk where it is")
    parser.add_argument("--repeats", type=int, default=2, help="starts of every server (default: 2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement (default: 2)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers that run end with this process
    own = _options()
    options, _ = own.parse_known_args(argv)
    measuring = partial(measure, options=options)
    measuring.__doc__ = measure.__doc__
    return run("serving", measuring, argv, [own])


if __name__ == "__main__":
    sys.exit(main())
