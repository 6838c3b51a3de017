"""raymlops' own rows: without a rollout, with candidates in their two places, in shadow, with and without the log."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving_lib.contenders import FAILURES
from benchmarks.serving_lib.endpoint import Endpoint, serving
from benchmarks.serving_lib.load import measure
from benchmarks.serving_lib.models import NAME, prepare
from benchmarks.serving_lib.protocols import rows
from benchmarks.serving_lib.recorder import Recorder

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
TURNS, TURN_SECONDS, RUN_IN_SECONDS = 12, 2.0, 1.0
"""Of a pair of servers: how often one is loaded after the other, and for how long each time, measured and before. The
log is written twice a second: what was logged in one turn must not be written in the other's, unmeasured."""
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


def measure_log(recorder: Recorder, pairs: int) -> None:
    """Start the endpoint with and without the log side by side, `pairs` times, load the two in turn and keep their
    throughput at 16 connections, turn by turn. Two starts of one server differ by more than the log takes, so a single
    pair says little; and so do two moments of one machine, so that only those are compared which follow each other."""
    plan, order = recorder.plan, (TENTH, UNLOGGED)
    bodies, path = [rows(NAME).encode(row) for row in plan.models.rows], rows(NAME).path
    try:
        for number in range(pairs):
            with ExitStack() as stack:
                endpoints = {}
                for label in order:
                    copied = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raymlops-serving-"))) / "copy"
                    shutil.copytree(plan.models.storage, copied)
                    endpoints[label] = stack.enter_context(serving(prepare(copied), SETTINGS[label], aside=True))
                    endpoints[label].start()
                    endpoints[label].wait_share(*ABOUT_TENTH)
                turns: list[tuple[float, float]] = []
                for turn in range(TURNS):
                    rates = {}
                    for label in order if (number + turn) % 2 else order[::-1]:
                        for seconds in (RUN_IN_SECONDS, TURN_SECONDS):
                            load = measure(endpoints[label].port, path, bodies, 16, seconds, plan.generator)
                        rates[label] = load.rate
                    turns.append((rates[TENTH], rates[UNLOGGED]))
                    shown = "{:,.0f}/s with the log, {:,.0f}/s without".format(*turns[-1])
                    print(f"... {shown}, side by side", file=sys.stderr, flush=True)
                for endpoint in endpoints.values():
                    endpoint.abort()
            recorder.log_pairs.append(turns)
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
