"""raymlops' own rows: without a rollout, with candidates in their two places, in shadow, with and without the log."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.serving_lib.contenders import FAILURES
from benchmarks.serving_lib.endpoint import Endpoint, serving
from benchmarks.serving_lib.models import NAME
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
PER_PAIR = 4
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
    """Start the endpoint with and without the log, `pairs` times in turn, and keep each pair's throughput at 16
    connections. Two starts of one server differ by more than the log takes, so a single pair says little."""
    try:
        for number in range(pairs):
            rates = {}
            for label in (TENTH, UNLOGGED) if number % 2 == 0 else (UNLOGGED, TENTH):
                with serving(recorder.plan.models, SETTINGS[label]) as endpoint:
                    endpoint.start()
                    endpoint.wait_share(*ABOUT_TENTH)
                    loads = list(recorder.loads(label, endpoint.port, endpoint.protocol, (16,) * PER_PAIR))
                    rates[label] = statistics.median(load.rate for load in loads)
                    endpoint.abort()
            recorder.log_pairs.append((rates[TENTH], rates[UNLOGGED]))
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
