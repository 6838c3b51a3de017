"""The verdict, with the numbers that led to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    ROLLBACK = "ROLLBACK"
    """A candidate is worse than the tolerance of some metric."""
    PROMOTE = "PROMOTE"
    """A candidate is better than the margin of every metric."""
    HOLD = "HOLD"
    """Not decided yet, or something forbids a decision; the reason says which."""
    EXPIRED = "EXPIRED"
    """The deadline passed without a decision."""
    BROKEN_SPLIT = "BROKEN_SPLIT"
    """Keys did not arrive in the shares they were assigned in: no comparison can be trusted."""


@dataclass(frozen=True)
class MetricEvidence:
    """One metric of one candidate. Natural logarithms of the e-values; void if its labels go missing unequally."""

    metric: str
    log_e_rollback: float
    log_e_promotion: float
    void: bool


@dataclass(frozen=True)
class CandidateEvidence:
    """One candidate against control."""

    candidate: int
    verdict: Verdict
    blame: str | None
    """For ROLLBACK: the metric with the most evidence when it was found."""
    metrics: tuple[MetricEvidence, ...]


@dataclass(frozen=True)
class Finding:
    """What the evidence says at one time. With several candidates `verdict` is PROMOTE as soon as one may be promoted,
    ROLLBACK when all are to be rolled back; see `candidates` for each."""

    now: float
    verdict: Verdict
    reason: str
    candidates: tuple[CandidateEvidence, ...]
    promoted: int | None
    """The candidate to promote: of those that may be, the one whose weakest metric has the most evidence."""
    log_e_split: float
    rollback_log_threshold: float
    promotion_log_threshold: float
    requests: int
    """Pooled, repeats included."""
    unit_counts: tuple[int, ...]
    """Counted first requests per arm, control first."""
    skipped: int
    """Reported facts that belong to a warm-up or to a closed block, and labels that came after their turn."""
    refused_keys: int
    """Times that an event or label was not counted because `max_keys` keys were known."""


def judge(
    candidates: list[tuple[tuple[MetricEvidence, ...], str | None]],
    rollback_at: float,
    promote_at: float,
    split_broken: bool,
) -> tuple[Verdict, str, tuple[CandidateEvidence, ...], int | None]:
    """Combines metrics and candidates. `candidates` has each one's metrics and the metric in which it was found worse
    before, if it was: a rollback is not taken back.

    Rollback if max_k E_k ≥ K·V/α (a union bound, valid however the metrics depend on each other, and it names the
    culprit); promotion if every metric passes at the same time (the intersection needs no correction across metrics).
    Rollback wins a tie. A broken split forbids promotion and never hides a rollback.
    """
    judged: list[CandidateEvidence] = []
    for number, (metrics, before) in enumerate(candidates, start=1):
        usable = [m for m in metrics if not m.void]
        worst = max(usable, key=lambda m: m.log_e_rollback, default=None)
        blame = before or (worst.metric if worst is not None and worst.log_e_rollback >= rollback_at else None)
        if blame is not None:
            verdict = Verdict.ROLLBACK
        elif split_broken:
            verdict = Verdict.BROKEN_SPLIT
        elif len(usable) == len(metrics) and all(m.log_e_promotion >= promote_at for m in metrics):
            verdict = Verdict.PROMOTE
        else:
            verdict = Verdict.HOLD
        judged.append(CandidateEvidence(number, verdict, blame, metrics))
    best = max(
        (c for c in judged if c.verdict is Verdict.PROMOTE),
        key=lambda c: min(m.log_e_promotion for m in c.metrics),
        default=None,
    )
    verdict = Verdict.PROMOTE if best else _overall([c.verdict for c in judged])
    return verdict, _reason(verdict, judged, best, promote_at), tuple(judged), best.candidate if best else None


def _overall(verdicts: list[Verdict]) -> Verdict:
    if all(v is Verdict.ROLLBACK for v in verdicts):
        return Verdict.ROLLBACK
    return Verdict.BROKEN_SPLIT if Verdict.BROKEN_SPLIT in verdicts else Verdict.HOLD


def _reason(
    verdict: Verdict, judged: list[CandidateEvidence], best: CandidateEvidence | None, promote_at: float
) -> str:
    if verdict is Verdict.ROLLBACK:
        return "; ".join(f"candidate {c.candidate} is worse in {c.blame}" for c in judged)
    if best is not None:
        return f"candidate {best.candidate} is within the margin of every metric"
    if verdict is Verdict.BROKEN_SPLIT:
        return "keys do not arrive in the assigned shares: look for routing that loses or repeats keys in one arm"
    open_ = {
        m.metric + (" (labels go missing unequally)" if m.void else "")
        for c in judged
        if c.verdict is Verdict.HOLD
        for m in c.metrics
        if m.void or m.log_e_promotion < promote_at
    }
    return "no decision yet; promotion waits for " + ", ".join(sorted(open_))
