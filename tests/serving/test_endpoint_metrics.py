"""What a scrape of a node shows of an endpoint, on a Ray of its own without dashboard."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
import json, sys, time, urllib.request
import ray
from raymlops.serving.metrics import SPECS, scraped

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")


@ray.remote(num_cpus=0)
class Replica:
    def serve(self):
        from raymlops.rollout.evidence import Finding, Verdict
        from raymlops.rollout.evidence.verdict import CandidateEvidence, MetricEvidence
        from raymlops.serving.metrics import Counts, MetricsExporter, RolloutMetrics

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
        evidence = CandidateEvidence(1, Verdict.HOLD, None, (MetricEvidence("errors", 1.5, -0.5, False),))
        self.rollout = RolloutMetrics("flights")
        finding = Finding(0.0, Verdict.HOLD, "", (evidence,), None, 0.0, 3.7, 3.0, 10, (5, 5), 0, 0)
        self.rollout.show(finding, ["3", "4"])


replica = Replica.remote()
ray.get(replica.serve.remote())
port = ray.nodes()[0]["MetricsExportPort"]
wanted, limit, text = {scraped(name) for name in SPECS}, time.monotonic() + 90, ""
while time.monotonic() < limit and not all(name + "{" in text for name in wanted):
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:  # the agent is still starting
        text = ""
    time.sleep(0.2)
ray.shutdown()
print(json.dumps([line for line in text.splitlines() if line.startswith("ray_raymlops_")]))
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A process of its own: this one may be connected to another Ray."""
    script = Path(tmp_path_factory.mktemp("scrape")) / "scrape.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_NAMESPACE")}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
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
    evidence = {"variant": "candidate-1", "version": "4", "metric": "errors", "side": "rollback"}
    assert value(lines, "ray_raymlops_evidence_log_e", **evidence) == 1.5
    assert value(lines, "ray_raymlops_log_rows_dropped_total", endpoint="flights") == 1
