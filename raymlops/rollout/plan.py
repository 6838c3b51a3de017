"""Before a rollout: will it be able to decide, and when?

The power comes from the evidence itself, run over simulated first events at the stated rates (seeded: the same plan
gives the same numbers), not from a formula for some other test.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from raymlops.errors import ConfigError, Refused
from raymlops.rollout.evidence.numerics import Array
from raymlops.rollout.evidence.rates import log_e_paths, promotion_ratios, rollback_ratios
from raymlops.rollout.plan_traffic import Traffic

_ROLLOUTS = 400
_ADVICE_ROLLOUTS = 100
_EVENTS = (1_000, 20_000)
"""Events drawn per rollout: most plans are decided in the first; only the others need more."""
_CELLS = 4_000_000
"""Numbers held at once."""
_SEED = 20_240_611


@dataclass(frozen=True)
class PlanInput:
    """What is assumed. Raises ConfigError naming every field that is wrong."""

    rps: float
    baseline_errors: float
    """Control's event rate per request."""
    weight: float = 0.5
    effect: float = 3.0
    """The ratio of event rates that must be found."""
    margin: float = 2.0
    alpha: float = 0.01
    deadline_seconds: float = 86_400.0
    keys: int | None = None
    """Distinct keys; each counts once. None: every request is its own unit."""
    metrics: int = 1
    candidates: int = 1
    power: float = 0.8
    """The chance of a decision within the deadline that the plan has to reach."""

    def __post_init__(self) -> None:
        found = []
        for name, low, high in (
            ("baseline_errors", 0.0, 1.0), ("weight", 0.0, 1.0), ("alpha", 0.0, 0.5), ("power", 0.0, 1.0)
        ):  # fmt: skip
            if not low < getattr(self, name) < high:
                found.append(f"{name}: expected a number between {low:g} and {high:g}, found {getattr(self, name):g}")
        for name in ("rps", "deadline_seconds"):
            if not 0.0 < getattr(self, name) < math.inf:
                found.append(f"{name}: expected a number above 0, found {getattr(self, name):g}")
        for name in ("effect", "margin"):
            if not 1.0 < getattr(self, name) <= 1e6:
                found.append(f"{name}: expected a ratio above 1, found {getattr(self, name):g}")
        for name in ("metrics", "candidates"):
            if getattr(self, name) < 1:
                found.append(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not found and self.weight * self.candidates >= 1.0:
            found.append(f"weight: {self.candidates} candidates with {self.weight:g} each leave nothing for control")
        if self.keys is not None and self.keys < 1:
            found.append(f"keys: expected at least 1, found {self.keys}")
        if found:
            raise ConfigError(found)


@dataclass(frozen=True)
class Outlook:
    """How one decision is expected to go."""

    power: float
    """Chance of the decision within the deadline."""
    requests: float | None
    """Median total requests to it, None if fewer than half get there before the deadline."""
    seconds: float | None
    requests_90: float | None
    """Nine of ten need no more."""


@dataclass(frozen=True)
class Plan:
    given: PlanInput
    rollback: Outlook
    """If the candidate is worse by `effect`."""
    promotion: Outlook
    """If the candidate is equal."""
    can_decide: bool
    advice: tuple[str, ...]
    """What would make it decide; empty if it can."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(given: PlanInput) -> Plan:
    """Expected requests and time to rollback and to promotion, and the power within the deadline."""
    rollback, promotion = _rollback(given), _promotion(given)
    can = rollback.power >= given.power and promotion.power >= given.power
    return Plan(given, rollback, promotion, can, () if can else _advice(given, rollback, promotion))


def require_decisive(plan: Plan) -> Plan:
    """The plan, or Refused with what would help if it cannot decide."""
    if not plan.can_decide:
        raise Refused("this rollout is not expected to decide:\n" + "\n".join(plan.advice))
    return plan


def _rollback(given: PlanInput, rollouts: int = _ROLLOUTS) -> Outlook:
    threshold = math.log(given.metrics * given.candidates / given.alpha)
    return _outlook(given, given.effect, rollback_ratios(), 1.0, threshold, rollouts, promoting=False)


def _promotion(given: PlanInput, rollouts: int = _ROLLOUTS) -> Outlook:
    threshold = math.log(given.candidates / given.alpha)
    return _outlook(given, 1.0, promotion_ratios(given.margin), given.margin, threshold, rollouts, promoting=True)


def _outlook(
    given: PlanInput, ratio: float, ratios: Array, null: float, threshold: float, rollouts: int, *, promoting: bool
) -> Outlook:
    compared = 1.0 - given.weight * (given.candidates - 1)
    traffic = Traffic(
        share=given.weight / compared,
        control=given.baseline_errors,
        candidate=min(1.0, given.baseline_errors * ratio),
        pace=compared,
        budget=given.rps * given.deadline_seconds,
    )
    for most_events in _EVENTS:
        decided = _decide(given, traffic, ratios, null, threshold, rollouts, most_events, promoting=promoting)
        if np.isfinite(decided).all():
            break
    median, most = (float(np.quantile(decided, q, method="higher")) for q in (0.5, 0.9))
    return Outlook(
        power=float(np.isfinite(decided).mean()),
        requests=median if math.isfinite(median) else None,
        seconds=median / given.rps if math.isfinite(median) else None,
        requests_90=most if math.isfinite(most) else None,
    )


def _decide(
    given: PlanInput,
    traffic: Traffic,
    ratios: Array,
    null: float,
    threshold: float,
    rollouts: int,
    most_events: int,
    *,
    promoting: bool,
) -> Array:
    """Request number of the decision in each simulated rollout, inf if there is none before the deadline."""
    rng = np.random.default_rng(_SEED)
    decided = np.empty(0)
    while len(decided) < rollouts:
        rows = min(rollouts - len(decided), _CELLS // (40 * most_events))
        if given.keys is None:
            at, arm = traffic.unkeyed(rng, rows, most_events)
        else:
            at, arm = traffic.keyed(rng, rows, most_events, given.keys, first_requests=promoting)
        log_e = log_e_paths(arm, (traffic.share,), np.zeros_like(arm), ratios, null, restarts=not promoting)
        hit = (log_e >= threshold) & (at <= traffic.budget)
        when = np.take_along_axis(at, hit.argmax(axis=1)[:, None], axis=1)[:, 0]
        decided = np.concatenate([decided, np.where(hit.any(axis=1), when, np.inf)])
    return decided


def _advice(given: PlanInput, rollback: Outlook, promotion: Outlook) -> tuple[str, ...]:
    """What would help, each checked by planning again with that one change."""
    said = [
        f"{name} is decided within the deadline in {outlook.power:.0%} of rollouts, {given.power:.0%} are wanted"
        for name, outlook in (("rollback", rollback), ("promotion", promotion))
        if outlook.power < given.power
    ]

    def enough(changed: PlanInput) -> bool:
        return all(decision(changed, _ADVICE_ROLLOUTS).power >= given.power for decision in (_rollback, _promotion))

    for factor in (2, 4, 8, 16, 32):
        if enough(replace(given, deadline_seconds=given.deadline_seconds * factor)):
            said.append(f"longer: a deadline of {time_text(given.deadline_seconds * factor)} is enough")
            break
    for weight in (0.1, 0.25, 0.5):
        if given.weight < weight <= 1.0 / (given.candidates + 1) and enough(replace(given, weight=weight)):
            said.append(f"more share: {weight:g} of the traffic is enough")
            break
    if promotion.power < given.power <= rollback.power:
        for margin in (3.0, 5.0, 10.0):
            if (
                margin > given.margin
                and _promotion(replace(given, margin=margin), _ADVICE_ROLLOUTS).power >= given.power
            ):
                said.append(f"larger margin: {margin:g}x is enough for promotion")
                break
    if given.keys is not None and enough(replace(given, keys=None)):
        said.append("fresh salts: keys count once and run out; new blocks with fresh salts count them again")
    said.append(
        "other metric: one with more events, such as latency above a quantile, or a bound on the absolute excess"
    )
    return tuple(said)


def time_text(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
