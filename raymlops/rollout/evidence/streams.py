"""The evidence of one metric for all candidates: both directions, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raymlops.rollout.evidence.assignment import Epoch
from raymlops.rollout.evidence.firsts import Closed
from raymlops.rollout.evidence.intervals import MeanInterval, ratio_interval
from raymlops.rollout.evidence.means import MeanEvidence
from raymlops.rollout.evidence.metrics import EvidenceConfig, LatencyMetric, MeanMetric, RateMetric
from raymlops.rollout.evidence.rates import RESTART_EVERY, RateEvidence, promotion_ratios, rollback_ratios, split_ratios
from raymlops.rollout.evidence.reports import Outcome
from raymlops.rollout.evidence.strata import ExcessEvidence


class EventStream:
    """Errors, timeouts, fallbacks, slow requests: first events for rollback, first requests for promotion."""

    def __init__(self, metric: RateMetric | LatencyMetric, config: EvidenceConfig) -> None:
        self.metric = metric
        tolerance, margin = (metric.tolerance, metric.margin) if isinstance(metric, RateMetric) else (1.0, 1.0)
        arms = range(config.candidates)
        self.rollback = [RateEvidence(rollback_ratios(tolerance), tolerance, restarts=config.restarts) for _ in arms]
        self.promotion: list[RateEvidence] | list[ExcessEvidence]
        if isinstance(metric, RateMetric) and metric.excess is not None:
            self.promotion = [ExcessEvidence(metric.excess, metric.strata) for _ in arms]
        else:
            self.promotion = [RateEvidence(promotion_ratios(margin), margin) for _ in arms]
        self._events = 0
        self._new: dict[tuple[int, int], int] = {}
        self._totals: list[dict[float, list[int]]] = [{} for _ in arms]
        self.by_stratum = isinstance(metric, RateMetric) and metric.excess is not None
        self.promotion_name = metric.margin_name if isinstance(metric, LatencyMetric) else metric.name

    def first_event(self, epochs: Sequence[Epoch], epoch: int, arm: int) -> None:
        """A key's first event. Control's counts against every candidate, a candidate's for itself."""
        self._new[epoch, arm] = self._new.get((epoch, arm), 0) + 1
        self._events += 1
        if self._events % RESTART_EVERY == 0 and self.rollback[0].restarts:
            self.settle(epochs)
            for evidence in self.rollback:
                evidence.fold()

    def settle(self, epochs: Sequence[Epoch]) -> None:
        """Hands the first events counted since the last call to the evidence."""
        for (number, arm), n in self._new.items():
            epoch = epochs[number]
            for candidate in epoch.compared(arm):
                share = epoch.odds_share(candidate)
                self.rollback[candidate - 1].add(share, arm == candidate, n)
                self._totals[candidate - 1].setdefault(share, [0, 0])[arm == candidate] += n
        self._new = {}

    def first_request(self, epoch: Epoch, unit: Closed, n: int) -> None:
        """Counts n units whose first requests are complete and alike."""
        part = unit.part(self.promotion_name)
        for candidate in epoch.compared(unit.arm):
            evidence, share, own = self.promotion[candidate - 1], epoch.odds_share(candidate), unit.arm == candidate
            if isinstance(evidence, ExcessEvidence):
                evidence.add(unit.at, share, own, n, part)
            elif part > 0.0:
                evidence.add(share, own, n, part)

    def shown(self, candidate: int, alpha: float) -> dict[str, Any]:
        counts = {share: (row[0], row[1]) for share, row in self._totals[candidate - 1].items()}
        return {
            "first_events": [sum(row[0] for row in counts.values()), sum(row[1] for row in counts.values())],
            "ratio_interval": list(ratio_interval(counts, alpha)),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "rollback": [e.to_dict() for e in self.rollback],
            "promotion": [e.to_dict() for e in self.promotion],
            "events": self._events,
            "new": [[*at, n] for at, n in sorted(self._new.items())],
            "totals": [[[share, *row] for share, row in sorted(t.items())] for t in self._totals],
        }

    def load(self, data: dict[str, Any]) -> None:
        for evidence, row in zip(
            [*self.rollback, *self.promotion], [*data["rollback"], *data["promotion"]], strict=True
        ):
            evidence.load(row)
        self._events = data["events"]
        self._new = {(epoch, arm): n for epoch, arm, n in data["new"]}
        self._totals = [{share: [control, arm] for share, control, arm in rows} for rows in data["totals"]]


class OutcomeStream:
    """A labelled score, and the check that labels go missing alike in all arms."""

    def __init__(self, metric: MeanMetric, config: EvidenceConfig) -> None:
        self.metric = metric
        arms = range(config.candidates)
        self.rollback = [MeanEvidence(metric.tolerance, -1) for _ in arms]
        self.promotion = [MeanEvidence(metric.margin, +1) for _ in arms]
        self.missing = [RateEvidence(split_ratios()) for _ in arms]
        self._labels = [[0, 0] for _ in range(config.candidates + 1)]
        self._means = [MeanInterval() for _ in range(config.candidates + 1)]

    def outcome(self, epoch: Epoch, outcome: Outcome) -> None:
        """A matured outcome, in the order of the predictions."""
        late = outcome.label_at is None or outcome.label_at > outcome.routed_at + self.metric.horizon
        self._labels[outcome.arm][late] += 1
        for candidate in epoch.compared(outcome.arm):
            share, own = epoch.odds_share(candidate), outcome.arm == candidate
            if late or outcome.value is None:
                self.missing[candidate - 1].add(share, own)
            else:
                self.rollback[candidate - 1].add(share, own, outcome.value)
                self.promotion[candidate - 1].add(share, own, outcome.value)
        if not late and outcome.value is not None:
            self._means[outcome.arm].add([outcome.value])

    def shown(self, candidate: int, alpha: float) -> dict[str, Any]:
        return {
            "labels": [self._labels[arm][0] for arm in (0, candidate)],
            "missing": [self._labels[arm][1] for arm in (0, candidate)],
            "mean_intervals": [list(self._means[arm].interval) for arm in (0, candidate)],
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "means_evidence": [e.to_dict() for e in [*self.rollback, *self.promotion]],
            "missing_evidence": [e.to_dict() for e in self.missing],
            "labels": self._labels,
            "means": [m.to_dict() for m in self._means],
        }

    def load(self, data: dict[str, Any]) -> None:
        for evidence, row in zip([*self.rollback, *self.promotion], data["means_evidence"], strict=True):
            evidence.load(row)
        for other, row in zip(self.missing, data["missing_evidence"], strict=True):
            other.load(row)
        self._labels = [list(row) for row in data["labels"]]
        for interval, row in zip(self._means, data["means"], strict=True):
            interval.load(row)
