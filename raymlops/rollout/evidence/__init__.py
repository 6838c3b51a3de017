"""Sequential evidence for rollouts: error control however often one looks. NumPy only, usable on its own."""

from raymlops.rollout.evidence.assignment import CONTROL, Assignment, Epoch, Stamp, unit_hash
from raymlops.rollout.evidence.engine import RolloutEvidence
from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.intervals import MeanInterval, ratio_interval
from raymlops.rollout.evidence.latency import PooledThreshold, exceeds
from raymlops.rollout.evidence.metrics import EvidenceConfig, LatencyMetric, MeanMetric, Metric, RateMetric
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
    "MeanInterval",
    "MeanMetric",
    "Metric",
    "MetricEvidence",
    "Outcome",
    "PooledThreshold",
    "RateMetric",
    "Report",
    "RolloutEvidence",
    "Stamp",
    "Traffic",
    "Verdict",
    "exceeds",
    "ratio_interval",
    "unit_hash",
]
