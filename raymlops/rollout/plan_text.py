"""A plan for a terminal."""

from __future__ import annotations

from raymlops.rollout.plan import Plan, time_text


def render(plan: Plan) -> str:
    """The plan for a terminal."""
    given = plan.given
    units = "every request its own unit" if given.keys is None else f"{given.keys:,} keys"
    head = (
        f"{given.rps:g} requests/s, {given.baseline_errors:.3g} bad per request, {given.weight:.0%} to the candidate, "
        f"{units}, alpha {given.alpha:g}, deadline {time_text(given.deadline_seconds)}"
    )
    lines = [head, ""]
    for name, outlook in (
        (f"rollback of {given.effect:g}x", plan.rollback),
        (f"promotion if equal, margin {given.margin:g}x", plan.promotion),
    ):
        if outlook.requests is None or outlook.seconds is None:
            told = "more than half do not get there before the deadline"
        else:
            told = f"median {outlook.requests:,.0f} requests, {time_text(outlook.seconds)}"
            if outlook.requests_90 is not None:
                told += f"; nine of ten within {time_text(outlook.requests_90 / given.rps)}"
        lines.append(f"{name:<36} {told} (power {outlook.power:.0%})")
    if not plan.can_decide:
        lines += ["", "This rollout is not expected to decide:", *[f"  - {line}" for line in plan.advice]]
    return "\n".join(lines)
