"""raymlops' own rows: without a rollout, with candidates in their two places, in shadow, with and without the log."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.serving_lib.contenders import FAILURES
from benchmarks.serving_lib.endpoint import Endpoint, serving
from benchmarks.serving_lib.load import measure
from benchmarks.serving_lib.models import NAME
from benchmarks.serving_lib.protocols import rows
from benchmarks.serving_lib.recorder import Recorder
from benchmarks.serving_lib.switching import COUPLE_SECONDS, RESULT

ALONE = "raymlops, no candidate"
TENTH = "raymlops, 10 % isolated"
HALF = "raymlops, 50 % isolated"
SHADOW = "raymlops, shadow of all"
RESIDENT = "raymlops, 10 % co-resident"
UNLOGGED = "raymlops, 10 % isolated, no log"
OURS = (ALONE, TENTH, HALF, SHADOW, RESIDENT, UNLOGGED)
LOG = "the prediction log's share"
STEPS = "rollout.steps=[{share: 0.1}, {share: 0.5, approval: true}]"
ABOUT_TENTH, ABOUT_HALF = (0.02, 0.22), (0.35, 0.65)
"""Shares that 256 requests of a right split leave less than once in a million times."""
COUPLES = 36
"""Turns with the prediction log, and as many without it, in one start."""
SETTINGS = {
    TENTH: (STEPS,),
    RESIDENT: (STEPS, "serving.candidate.placement=co_resident"),
    UNLOGGED: (STEPS, "serving.log.enabled=false"),
}
"""Servers that are started, by the rollout that each begins with."""


def measure_ours(label: str, recorder: Recorder) -> None:
    """Start the endpoint of `label` (a key of SETTINGS) and measure all that it can show. A failure is kept as the
    reason why what was not measured by then has no numbers."""
    wanted = (ALONE, TENTH, HALF, SHADOW) if label == TENTH else (label,)
    done: list[str] = []
    try:
        with serving(recorder.plan.models, SETTINGS[label]) as endpoint:

            def measure(name: str, share: tuple[float, float] = (0.0, 0.0)) -> None:
                recorder.measure(name, endpoint.port, endpoint.protocol, endpoint.server.memory, share)
                done.append(name)

            if label == TENTH:
                measure(ALONE)
            endpoint.start()
            endpoint.wait_share(*ABOUT_TENTH)
            measure(label, ABOUT_TENTH)
            if label == TENTH:
                _more(endpoint, measure)
            endpoint.abort()
    except FAILURES as error:
        recorder.missing.update({name: " ".join(str(error).split()) for name in wanted if name not in done})


def measure_log(recorder: Recorder, starts: int, couples: int = COUPLES) -> None:
    """Start the endpoint `starts` times with a log that is on and off in turn, under load at 16 connections, and keep
    the throughput of about `couples` turns with and without it."""
    plan = recorder.plan
    bodies, path = [rows(NAME).encode(row) for row in plan.models.rows], rows(NAME).path
    program = (sys.executable, "-m", "benchmarks.serving_lib.switching")
    try:
        for _ in range(starts):
            with tempfile.TemporaryDirectory(prefix="raymlops-switching-") as scratch:
                result = Path(scratch) / "rates"
                with serving(plan.models, SETTINGS[TENTH], program, {RESULT: str(result)}) as endpoint:
                    endpoint.start()
                    endpoint.wait_share(*ABOUT_TENTH)
                    measure(endpoint.port, path, bodies, 16, plan.warm, plan.generator)
                    result.write_text("")
                    measure(endpoint.port, path, bodies, 16, (couples + 2) * COUPLE_SECONDS, plan.generator)
                    lines = result.read_text().splitlines()[1:]  # the first may have begun before the load
                    endpoint.abort()
            recorder.log_starts.append([(float(on), float(off)) for on, off in map(str.split, lines)])
            taken = statistics.median(1 - on / off for on, off in recorder.log_starts[-1])
            print(
                f"... prediction log: {taken:.1%} of the throughput in {len(lines)} turns", file=sys.stderr, flush=True
            )
    except FAILURES as error:
        recorder.missing[LOG] = " ".join(str(error).split())


def _more(endpoint: Endpoint, measure: Callable[..., None]) -> None:
    endpoint.rollout("resume", NAME)
    endpoint.wait_share(*ABOUT_HALF)
    measure(HALF, ABOUT_HALF)
    endpoint.abort()
    endpoint.start("shadow")
    endpoint.wait_mirrored()
    measure(SHADOW)
