"""What a report must not say: facts that contradict how the rollout assigned traffic."""

from __future__ import annotations

from raymlops.rollout.evidence.assignment import CONTROL, Assignment
from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.metrics import EvidenceConfig, MeanMetric
from raymlops.rollout.evidence.reports import Event, FirstRequest, Outcome, Report


def check_report(report: Report, assignment: Assignment, config: EvidenceConfig) -> None:
    """Raises EvidenceError, naming field, found and expected, if a fact has an epoch, arm or metric that cannot be."""
    facts: tuple[FirstRequest | Event | Outcome, ...] = report.first_requests + report.events + report.outcomes
    epochs, candidates, arm_of, names = len(assignment.epochs), config.candidates, assignment.arm_of, config.event_names
    labelled = {metric.name for metric in config.metrics if isinstance(metric, MeanMetric)}

    def wrong(field: str, expected: object, found: object) -> EvidenceError:
        at = f"report {report.sequence} of {report.replica}"
        return EvidenceError(f"{at}: {field}: expected {expected}, found {found}")

    for fact in facts:
        if not 0 <= fact.epoch < epochs:
            raise wrong("epoch", f"one of the {epochs} that were opened", fact.epoch)
        if not CONTROL <= fact.arm <= candidates:
            raise wrong("arm", f"0 to {candidates}", fact.arm)
        if fact.key is not None and fact.arm != (arm := arm_of(fact.key, fact.epoch)):
            expected = f"{arm} for key {fact.key:016x} in epoch {fact.epoch}"
            raise wrong("arm", expected, f"{fact.arm}; report the arm that was assigned, not the one that answered")
    for event in report.events:
        if event.metric not in names:
            raise wrong("metric", f"an event of {sorted(names)}", repr(event.metric))
    for request in report.first_requests:
        if not names.issuperset(request.events):
            raise wrong("events", f"some of {sorted(names)}", list(request.events))
    for outcome in report.outcomes:
        if outcome.metric not in labelled:
            raise wrong("metric", f"a label of {sorted(labelled)}", repr(outcome.metric))
