"""Counts of the endpoint, what is handed to Prometheus and the dashboard that shows it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rollout_cases import FakeWorld, run, settings

from raymlops.rollout.gauges import PHASES, RolloutGauges, export
from raymlops.serving.metrics import BOUNDS, SPECS, Counts, MetricsExporter, scraped
from raymlops.store import Store

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "raymlops-endpoint.json"


class FakeRay:
    """Ray's metrics as Prometheus would see them; as strict about tags and values as Ray is."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.calls = 0

    def _make(self, name: str, tag_keys: tuple[str, ...], add: bool) -> Any:
        fake = self

        class Made:
            def record(self, value: float, tags: dict[str, str]) -> None:
                assert isinstance(value, (int, float)) and (value > 0 or not add)
                assert set(tags) == set(tag_keys) and all(isinstance(tag, str) for tag in tags.values())
                at = (name.removeprefix("raymlops_"), frozenset(tags.items()))
                fake.values[at] = value + (fake.values.get(at, 0) if add else 0)
                fake.calls += 1

            inc = set = record

        return Made()

    def Counter(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        return self._make(name, tag_keys, add=True)

    def Gauge(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        return self._make(name, tag_keys, add=False)

    def get(self, name: str, **tags: str) -> float | None:
        return self.values.get((name, frozenset({"endpoint": "flights", **tags}.items())))


def test_counts_are_handed_over_once() -> None:
    ray, counts = FakeRay(), Counts()
    exporter = MetricsExporter(counts, "flights", ray)
    arm = counts.arm("champion", "3")
    for latency in (0.0004, 0.0005, 0.03, 99.0):
        arm.observe(latency)
    arm.errors += 2
    counts.batch(5)
    for _ in range(2):
        exporter.flush()
    champion = {"variant": "champion", "version": "3"}
    assert ray.get("requests", **champion) == ray.get("latency_seconds_count", **champion) == 4 == arm.requests
    assert ray.get("errors", **champion) == 2
    assert ray.get("timeouts", **champion) is None
    assert ray.get("latency_seconds_sum", **champion) == pytest.approx(99.0309)
    edges = {"0.0005": 2, "0.025": 2, "0.05": 3, "10": 3, "+Inf": 4}
    assert {le: ray.get("latency_seconds_bucket", **champion, le=le) for le in edges} == edges
    assert (ray.get("batches"), ray.get("batch_rows")) == (1, 5)
    before = ray.calls
    exporter.flush()
    assert ray.calls == before  # an idle endpoint costs nothing
    counts.arm("champion", "3").observe(0.03)
    exporter.flush()
    assert ray.get("requests", **champion) == 5


def test_a_latency_at_an_edge_belongs_below_it() -> None:
    arm = Counts().arm("champion", "1")
    for bound in BOUNDS:
        arm.observe(bound)
    assert arm.buckets == [1] * len(BOUNDS) + [0]


def test_weights_follow_the_versions_and_fall_to_zero() -> None:
    ray, counts = FakeRay(), Counts()
    exporter = MetricsExporter(counts, "flights", ray)
    counts.arm("champion", "3")
    counts.arm("candidate-1", "4")
    exporter.flush(weights={"champion": 0.9, "candidate-1": 0.1})
    assert ray.get("weight", variant="candidate-1", version="4") == 0.1
    counts.arm("champion", "4")
    exporter.flush(weights={"champion": 1})
    assert ray.get("weight", variant="champion", version="4") == 1
    assert ray.get("weight", variant="champion", version="3") == 0
    assert ray.get("weight", variant="candidate-1", version="4") == 0


def test_the_health_of_log_and_labels_is_shown(tmp_path: Path) -> None:
    from raymlops.config.serving import PredictionLog as LogConfig
    from raymlops.serving.labels import LabelStore
    from raymlops.serving.prediction_log import PredictionLog

    ray, store = FakeRay(), Store(str(tmp_path))
    log, labels = PredictionLog(store, "flights", "r", LogConfig()), LabelStore(store, "flights")
    log.append(1e9, "a", "1", "champion", 1.0, None, {"x": [1.0]}, None, 1, 0.1, "ok", 9)
    log.close()
    log.append(1e9, "b", "1", "champion", 1.0, None, {"x": [1.0]}, None, 1, 0.1, "ok", 9)
    MetricsExporter(Counts(), "flights", ray).flush(log=log.statistics(), labels=labels.statistics())
    labels.close()
    assert (ray.get("log_rows_written"), ray.get("log_rows_dropped"), ray.get("log_rows_waiting")) == (1, 1, 0)


def test_evidence_and_phase_are_shown_until_the_rollout_ends(tmp_path: Path) -> None:
    ray = FakeRay()
    gauges = RolloutGauges("flights", ray)
    world = FakeWorld(Store(str(tmp_path)), settings(bake_seconds=5.0))

    def get(name: str, **tags: str) -> float | None:
        gauges.show(world.conductor)
        return ray.get(name, **tags)

    def found() -> float:
        return world.conductor.rollout.course.finding.candidates[0].metrics[0].log_e_promotion  # type: ignore[union-attr]

    def shown(variant: str) -> float | None:
        return get("evidence_log_e", variant=variant, version="2", metric="errors", side="promotion")

    async def scenario() -> None:
        await world.tick()
        assert (get("rollout_phase", phase="none"), get("rollouts_ended", verdict="promote")) == (1, 0)
        await world.begin(2)
        await world.until(lambda: world.kinds()[-1] == "step" and found() > 0)
        assert shown("candidate-1") == found()
        assert ray.get("evidence_threshold", side="rollback") == pytest.approx(math.log(100), abs=1)
        assert (ray.get("rollout_phase", phase="none"), ray.get("rollout_phase", phase="running")) == (0, 1)
        await world.until(lambda: world.conductor.rollout.phase == "baking")  # type: ignore[union-attr]
        assert shown("champion") and not shown("candidate-1")
        await world.until(world.over)
        assert not shown("champion") and get("rollouts_ended", verdict="promote") == 1
        gauges.show(None)  # another controller took over
        assert not any(ray.get("rollout_phase", phase=phase) for phase in PHASES)

    run(scenario())


def test_metrics_that_fail_cost_the_controller_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = FakeWorld(Store(str(tmp_path)), settings())
    tried = 0

    def broken(self: RolloutGauges, conductor: Any) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("no metrics today")

    async def scenario() -> None:
        monkeypatch.setattr(RolloutGauges, "__init__", lambda self, endpoint: None)
        monkeypatch.setattr(RolloutGauges, "show", broken)
        monkeypatch.setattr("raymlops.rollout.gauges.SECONDS", 0.0)
        await world.tick()
        task = asyncio.get_running_loop().create_task(export(world.steering))
        while tried < 3:
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()

    run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        "cannot export metrics: RuntimeError: no metrics today"
    ]


# --- dashboard


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_every_metric_and_for_no_other(dashboard: dict[str, Any]) -> None:
    asked = set(re.findall(r"ray_\w+", json.dumps(dashboard)))
    assert asked == {scraped(name) for name in SPECS}


def test_the_dashboard_uses_labels_that_the_metrics_have(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        tags = [SPECS[name].tags for name in SPECS if re.search(rf"\b{scraped(name)}\b", expression)]
        used = set(re.findall(r"(\w+)=", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            used |= {label.strip() for label in group.split(",")}
        assert tags and all(used <= set(tag) for tag in tags), expression
        assert 'endpoint="$endpoint"' in expression
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")


def test_grafana_can_import_the_dashboard(dashboard: dict[str, Any]) -> None:
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    assert "id" not in dashboard  # Grafana gives it
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "endpoint"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells, f"{panel['title']} lies on another panel"
        cells |= mine
        if panel["type"] != "row":
            assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
