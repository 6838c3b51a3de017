"""raymlops' own rows: without a rollout, with candidates in their two places, in shadow, with and without the log."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
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
PER_PAIR = 8
"""Measurements of each of a pair's servers."""
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
    """Start the endpoint with and without the log side by side, `pairs` times, load the two in turn and keep each
    pair's throughput at 16 connections. Two starts of one server differ by more than the log takes, so a single pair
    says little; and so do two minutes of one machine, so neither of a pair has minutes of its own."""
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
                    measure(endpoints[label].port, path, bodies, 16, plan.warm, plan.generator)
                rates = defaultdict(list)
                for turn in range(PER_PAIR):
                    for label in order if (number + turn) % 2 else order[::-1]:
                        load = measure(endpoints[label].port, path, bodies, 16, plan.seconds, plan.generator)
                        rates[label].append(load.rate)
                        print(f"... {label}, beside the other: {load.rate:,.0f}/s", file=sys.stderr, flush=True)
                for endpoint in endpoints.values():
                    endpoint.abort()
            recorder.log_pairs.append((statistics.median(rates[TENTH]), statistics.median(rates[UNLOGGED])))
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
