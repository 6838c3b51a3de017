"""Sequential evidence for rollouts: error control however often one looks. NumPy only, usable on its own."""

from raymlops.rollout.evidence.assignment import CONTROL, Assignment, Epoch, Stamp, unit_hash
from raymlops.rollout.evidence.engine import RolloutEvidence
from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.intervals import MeanInterval, ratio_interval
from raymlops.rollout.evidence.latency import LatencyThresholds, PooledThreshold, exceeds, slow_events
from raymlops.rollout.evidence.metrics import EvidenceConfig, LatencyMetric, MeanMetric, Metric, RateMetric
from raymlops.rollout.evidence.reporter import Reporter, Routed
from raymlops.rollout.evidence.reports import Event, FirstRequest, Outcome, Report, Traffic
from raymlops.rollout.evidence.verdict import CandidateEvidence, Finding, MetricEvidence, Verdict

__all__ = [
    "CONTROL",
    "Assignment",
    "CandidateEvidence",
    "Epoch",
    "Event",
    "EvidenceConfig",
    "EvidenceError",
    "Finding",
    "FirstRequest",
    "LatencyMetric",
    "LatencyThresholds",
    "MeanInterval",
    "MeanMetric",
    "Metric",
    "MetricEvidence",
    "Outcome",
    "PooledThreshold",
    "RateMetric",
    "Report",
    "Reporter",
    "RolloutEvidence",
    "Routed",
    "Stamp",
    "Traffic",
    "Verdict",
    "exceeds",
    "ratio_interval",
    "slow_events",
    "unit_hash",
]
