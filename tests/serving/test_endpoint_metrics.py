"""What a scrape of a node shows of an endpoint and of its rollout, on a Ray of its own without dashboard."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
from rollout_cases import Behaviour, FakeWorld, run, settings

from raymlops.config.serving import ServingConfig
from raymlops.store import Store

SCRIPT = """
import json, sys, time, urllib.request
import ray
from raymlops.rollout.controller import ensure_controller
from raymlops.serving.metrics import SPECS, scraped

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")


@ray.remote(num_cpus=0)
class Replica:
    def serve(self):
        from raymlops.serving.metrics import Counts, MetricsExporter

        counts = Counts()
        self.exporter = MetricsExporter(counts, "flights")
        champion = counts.arm("champion", "3")
        for latency in [0.003] * 95 + [0.2] * 5:
            champion.observe(latency)
        champion.errors = champion.timeouts = champion.fallbacks = 2
        counts.batch(7)
        log = {"written_rows": 5, "dropped_rows": 1, "waiting_rows": 2, "failed_writes": 1}
        labels = {"accepted": 4, "refused": 1, "conflicts": 1}
        self.exporter.flush({"champion": 1.0}, log, labels)


replica = Replica.remote()
ray.get(replica.serve.remote())
controller = ensure_controller(open(sys.argv[1]).read())
port = ray.nodes()[0]["MetricsExportPort"]
wanted, limit, text = {scraped(name) for name in SPECS}, time.monotonic() + 90, ""
while time.monotonic() < limit and not all(name + "{" in text for name in wanted):
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:  # the agent is still starting
        text = ""
    time.sleep(0.2)
ray.kill(controller)
ray.shutdown()
print(json.dumps([line for line in text.splitlines() if line.startswith("ray_raymlops_")]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> FakeWorld:
    """A rollout that compares, far from a decision, and whose controller died. Another goes on from what is on disk."""
    root = tmp_path_factory.mktemp("rollout")
    serving = ServingConfig.model_validate({"candidate": {"placement": "co_resident"}})
    comparisons = {"errors": {"kind": "rate", "margin": 2.0, "excess": None}}
    chosen = replace(settings(comparisons=comparisons, alpha=1e-12), storage=str(root), serving=serving)
    world = FakeWorld(Store(str(root)), chosen, now=time.time() - 60)
    world.behaviour |= {"1": Behaviour(errors=0.1), "2": Behaviour(errors=0.1)}

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        await world.until(lambda: world.kinds()[-1] == "step")
        await world.seconds(5)
        world.requests = 0
        await world.seconds(5)  # until everything that was reported is on disk

    run(scenario())
    return world


@pytest.fixture(scope="module")
def lines(world: FakeWorld, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A process of its own: this one may be connected to another Ray."""
    directory = tmp_path_factory.mktemp("scrape")
    script, config = directory / "scrape.py", directory / "controller.json"
    script.write_text(textwrap.dedent(SCRIPT))
    config.write_text(world.settings.to_json())
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_NAMESPACE")}
    command = [sys.executable, str(script), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def value(lines: list[str], name: str, **labels: str) -> float:
    found = [
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(name + "{") and all(f'{key}="{label}"' in line for key, label in labels.items())
    ]
    assert len(found) == 1, f"{name} {labels}: {found} in {lines}"
    return found[0]


def test_a_scrape_shows_every_metric(lines: list[str]) -> None:
    from raymlops.serving.metrics import SPECS, scraped

    assert {re.split(r"[{ ]", line)[0] for line in lines} == {scraped(name) for name in SPECS}


def test_values_arrive_by_variant_and_version(lines: list[str]) -> None:
    arm = {"endpoint": "flights", "variant": "champion", "version": "3"}
    assert value(lines, "ray_raymlops_requests_total", **arm) == 100
    assert value(lines, "ray_raymlops_latency_seconds_bucket_total", **arm, le="0.005") == 95
    assert value(lines, "ray_raymlops_latency_seconds_bucket_total", **arm, le="+Inf") == 100
    assert value(lines, "ray_raymlops_weight", **arm) == 1
    assert value(lines, "ray_raymlops_log_rows_dropped_total", endpoint="flights") == 1


def test_the_controller_shows_its_rollout(world: FakeWorld, lines: list[str]) -> None:
    rollout = world.conductor.rollout
    assert rollout is not None and rollout.course is not None and rollout.course.finding is not None
    [candidate] = rollout.course.finding.candidates
    of = {"endpoint": "trips", "variant": "candidate-1", "version": "2", "metric": "errors"}
    shown = {side: value(lines, "ray_raymlops_evidence_log_e", **of, side=side) for side in ("rollback", "promotion")}
    assert shown["rollback"] == pytest.approx(candidate.metrics[0].log_e_rollback) != 0
    assert shown["promotion"] != 0
    threshold = value(lines, "ray_raymlops_evidence_threshold", endpoint="trips", side="rollback")
    assert threshold == pytest.approx(rollout.course.finding.rollback_log_threshold)
    assert value(lines, "ray_raymlops_rollout_phase", endpoint="trips", phase="running") == 1
    assert value(lines, "ray_raymlops_rollouts_ended", endpoint="trips", verdict="rollback") == 0
