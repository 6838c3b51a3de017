"""Replacing a model in production: the evidence that decides, the policy that acts on it, and planning. No Ray here.

`raymlops.rollout.evidence` says what is known; `policy` what to do about it; `plan` whether a rollout can decide at
all.
"""

from raymlops.rollout.evidence import (
    Event,
    EvidenceConfig,
    EvidenceError,
    Finding,
    FirstRequest,
    LatencyMetric,
    LatencyThresholds,
    MeanMetric,
    Outcome,
    PooledThreshold,
    RateMetric,
    Report,
    Reporter,
    RolloutEvidence,
    Traffic,
    Verdict,
)
from raymlops.rollout.plan import Plan, PlanInput, make_plan
from raymlops.rollout.policy import (
    Decision,
    Health,
    RolloutPolicy,
    RolloutState,
    Step,
    cooldown_left,
    decide,
    start,
)

__all__ = [
    "Decision",
    "Event",
    "EvidenceConfig",
    "EvidenceError",
    "Finding",
    "FirstRequest",
    "Health",
    "LatencyMetric",
    "LatencyThresholds",
    "MeanMetric",
    "Outcome",
    "Plan",
    "PlanInput",
    "PooledThreshold",
    "RateMetric",
    "Report",
    "Reporter",
    "RolloutEvidence",
    "RolloutPolicy",
    "RolloutState",
    "Step",
    "Traffic",
    "Verdict",
    "cooldown_left",
    "decide",
    "make_plan",
    "start",
]
