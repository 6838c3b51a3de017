"""What replicas report: totals, quantiles, metrics, shares, presence."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st
from rollout_cases import settings

from raymlops.config.rollout import RolloutConfig
from raymlops.rollout import settings as mapping
from raymlops.rollout.evidence import LatencyMetric, MeanMetric, RateMetric
from raymlops.rollout.presence import Presence
from raymlops.rollout.settings import EndpointSettings, shares_of
from raymlops.rollout.totals import BOUNDS, Totals, bucket, quantile
from raymlops.serving.document import LatencyRule, QualityRule, RoutingDocument


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 5)), max_size=60))
def test_cumulative_counts_may_come_twice_or_not_at_all(steps: list[tuple[int, int, int]]) -> None:
    chance = random.Random(len(steps))
    totals, told = Totals(), {replica: {0: 0, 1: 0} for replica in range(3)}
    for replica, arm, n in steps:
        told[replica][arm] += n
        rows = [{"epoch": 0, "arm": a, "requests": m, "fallbacks": m} for a, m in told[replica].items()]
        for _ in range(chance.randrange(3)):
            totals.take(str(replica), rows)
    for replica, counts in told.items():
        totals.take(str(replica), [{"epoch": 0, "arm": a, "requests": m, "fallbacks": m} for a, m in counts.items()])
    expected = sum(sum(counts.values()) for counts in told.values())
    assert totals.pooled == (expected, expected)
    assert Totals.from_dict(json.loads(json.dumps(totals.to_dict()))).to_dict() == totals.to_dict()


def test_quantiles_are_buckets() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    for n in range(1, 1001):
        counts[bucket(n / 1000)] += 1
    for q in (0.5, 0.95, 0.99):
        found = quantile(counts, q)
        assert found is not None and q <= found <= q * 1.26
    assert quantile([0] * (len(BOUNDS) + 1), 0.5) is None
    assert bucket(1e9) == len(BOUNDS)


def test_comparisons_become_metrics() -> None:
    config = RolloutConfig.model_validate(
        {
            "comparisons": {
                "errors": {"kind": "rate", "tolerance": 1.5, "margin": 3.0, "excess": None},
                "late": {"kind": "rate", "event": "timeouts"},
                "slow": {"kind": "latency", "quantile": 0.9, "tolerance": 1.1, "margin": 2.0, "slack_ms": 3},
                "mae": {"kind": "quality", "loss_scale": 2.0, "horizon_seconds": 60.0, "margin": 0.1},
            }
        }
    )
    found = mapping.evidence_config(config, candidates=2, attempt=3, request_timeout=4.0)
    assert found.metrics == (
        RateMetric("errors", 1.5, 3.0, None, 4),
        RateMetric("late", 1.0, 2.0, 0.01, 4),
        LatencyMetric("slow", 1.1, 2.0, 0.9, 0.003),
        MeanMetric("mae", 65.0, 0.0, 0.1),
    )
    assert (found.candidates, found.attempt, found.request_timeout, found.alpha) == (2, 3, 4.0, 0.01)
    assert mapping.rates_of(config) == {"errors": "errors", "late": "timeouts"}
    assert mapping.quality_of(config) == (QualityRule("mae", 2.0),)
    assert mapping.label_rules(config) == {"mae": (60.0, 2.0)}
    ab = mapping.policy_of(config, "ab")
    assert [step.share for step in ab.steps] == [0.5] and ab.approve_promotion


def test_a_reporter_knows_every_event_of_its_document() -> None:
    base = settings().champion
    assert base is not None
    rules = (LatencyRule("slow", 1.0, 1.0), LatencyRule("slow@margin", 1.0, 2.0))
    document = RoutingDocument("e", 1, 1, base, rates={"errors": "errors"}, latency=rules)
    assert mapping.reporter_config(document, 1.0).event_names == {"errors", "slow", "slow@margin"}


@given(st.floats(0.001, 0.999), st.integers(1, 6), st.sets(st.integers(1, 6)))
def test_shares_are_whole_ten_thousandths(total: float, candidates: int, dropped: set[int]) -> None:
    shares = shares_of(total, frozenset(dropped), candidates)
    assert len(shares) == candidates and sum(shares) <= 1.0
    for number, share in enumerate(shares, start=1):
        assert share == round(share * 10_000) / 10_000
        assert (share == 0.0) == (number in dropped) or total / candidates < 0.0001


def test_settings_survive_json() -> None:
    assert EndpointSettings.from_json(settings().to_json()) == settings()


def test_presence() -> None:
    presence = Presence()
    presence.asked({"id": "a", "build": "1"}, None, [], 0.0)
    presence.asked({"id": "b", "build": "1", "failed": {"x": "why"}}, [1, 2], ["x"], 0.0)
    assert {r.id for r in presence.live(100.0)} == {"a", "b"}  # their calls are open
    presence.answered("a", 100.0)
    assert {r.id for r in presence.live(101.9)} == {"a", "b"}
    assert [r.id for r in presence.live(102.1)] == ["b"]
    presence.asked({"id": "c", "build": "2"}, None, [], 103.0)
    assert {r.build for r in presence.live(103.0)} == {"1", "2"}
    assert presence.settled_s(105.0) == 2.0
