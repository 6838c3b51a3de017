"""Which steps of a job have to run, and in which tracked run: from what is recorded and what is true now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from raymlops.retraining.differences import differences, sentence
from raymlops.retraining.facts import Facts
from raymlops.retraining.inputs import (
    PARTS,
    STEPS,
    Inputs,
    Outputs,
    StepName,
    inputs_of,
    key_of,
    own_inputs,
    part_inputs,
    steps_of,
)

FIRST, FOLLOWS = "was not done yet", "follows "


@dataclass(frozen=True)
class Record:
    """A step that was done."""

    step: StepName
    key: str
    inputs: Inputs
    output: dict[str, Any]
    run: str
    """Id of the tracked run that did it."""
    seconds: float
    at: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class JobRecord:
    """The latest run of a job."""

    key: str
    run_id: str
    status: str
    """`running` (also when its process was killed), `stopped` (interrupted, or by a fault that may pass), `failed`
    (the same would come of it again) or `done`."""
    at: float
    """When the run began, in seconds since 1970."""
    config: dict[str, Any]
    base: str
    tags: dict[str, str] = field(default_factory=dict)
    forced: StepName | None = None
    """The step that somebody asked it to begin with."""
    started: dict[str, str] = field(default_factory=dict)
    """Step to key, of those that it began."""
    error: str | None = None

    @property
    def unfinished(self) -> bool:
        return self.status in ("running", "stopped")


class Book(Protocol):
    """What is recorded of a model's steps."""

    def find(self, step: StepName, key: str) -> Record | None: ...
    def latest(self, step: StepName) -> Record | None:
        """Whatever its key."""

    def broken(self, record: Record) -> str | None:
        """Why what the step made is of no use any more, if so."""


@dataclass(frozen=True)
class Planned:
    """What is to become of a step."""

    step: StepName
    why: str
    record: Record | None = None
    """What was done earlier and stands; None when the step has to run."""
    key: str | None = None
    """None when that depends on a step that has to run before."""
    parts: dict[str, str] = field(default_factory=dict)
    """The parts of the snapshot, and why each is or is not what it was."""

    @property
    def runs(self) -> bool:
        return self.record is None

    @property
    def told(self) -> bool:
        """Whether there is a reason besides that it was never done or comes after another step."""
        return not self.why.startswith(FIRST) and not self.why.startswith(FOLLOWS)

    def to_dict(self) -> dict[str, Any]:
        parts = {"parts": self.parts} if self.parts else {}
        run = None if self.record is None else self.record.run
        return {"step": self.step, "action": "run" if self.runs else "reuse", "why": self.why, "run": run, **parts}


def make_plan(
    facts: Facts,
    book: Book,
    forced: StepName | None = None,
    own: str | None = None,
    made: Outputs | None = None,
) -> list[Planned]:
    """Step by step: what was done with the same inputs, by any run of the model, is not done again.

    From the step `forced` on only what the run `own` did counts. `made` are outputs of steps that were done just now;
    they are not in the plan. Behind a step that has to run nothing is certain: it may give the same as before.
    """
    outputs: dict[StepName, Mapping[str, Any]] = {**(made or {})}
    plan: list[Planned] = []
    running: StepName | None = None
    for step in steps_of(facts.config):
        if step in outputs:
            continue
        if running is None:
            found = plan_step(step, facts, book, outputs, forced, own)
        else:
            why = _asked(step, forced) or _reasons(step, facts, book)
            found = Planned(step, why or f"{FOLLOWS}{running}, unless that gives the same as before")
        if found.record is not None:
            outputs[step] = found.record.output
        else:
            running = running or step
        plan.append(found)
    return plan


def plan_step(
    step: StepName,
    facts: Facts,
    book: Book,
    outputs: Outputs,
    forced: StepName | None = None,
    own: str | None = None,
) -> Planned:
    """One step, when the `outputs` of all steps before it are known."""
    key = key_of(inputs_of(step, facts, outputs))
    parts = _parts(facts, book) if step == "snapshot" else {}
    record = book.find(step, key)
    mine = record is not None and record.run == own
    why: str | None = None
    if not mine and (asked := _asked(step, forced)):
        why = asked
    elif not mine and step == "snapshot" and facts.source is None:
        kind = facts.config["data"]["source"]["kind"]
        why = f"a source of kind {kind} has to be read to know what it holds"
    elif record is None:
        why = _reasons(step, facts, book) or "was not done with these inputs yet"
    else:
        why = book.broken(record)
    return Planned(step, why or "unchanged", None if why else record, key, parts)


def _asked(step: StepName, forced: StepName | None) -> str | None:
    asked = forced is not None and STEPS.index(step) >= STEPS.index(forced)
    return f"asked for by --from {forced}" if asked else None


def _reasons(step: StepName, facts: Facts, book: Book) -> str:
    latest = book.latest(step)
    if latest is None:
        return FIRST
    return sentence(differences(latest.inputs, own_inputs(step, facts)))


def _parts(facts: Facts, book: Book) -> dict[str, str]:
    """Of the snapshot, what became of each part's own inputs since it was last made."""
    latest = book.latest("snapshot")
    if latest is None:
        return {}
    before = latest.output["parts"]
    return {
        part: sentence(differences(before[part]["inputs"], part_inputs(part, facts))) or "unchanged" for part in PARTS
    }


def goes_on_with(earlier: JobRecord | None, plan: list[Planned], forced: StepName | None) -> str | None:
    """The tracked run that the work belongs to; None for a new one.

    An unfinished run of the job is gone on with, unless what it trained on or with has changed: its trials would be of
    two kinds. A finished one is opened again when only what follows its verdict has to be done.
    """
    keys: dict[str, str | None] = {planned.step: planned.key for planned in plan}
    if earlier is not None and earlier.unfinished and forced in (None, earlier.forced):
        begun = [(key, keys.get(step)) for step, key in earlier.started.items() if step in ("search", "refit")]
        if all(now is None or now == then for then, now in begun) and (keys.get("search") or not begun):
            return earlier.run_id
        return None
    if forced not in (None, "register", "report"):
        return None
    gate = next(planned for planned in plan if planned.step == "gate")
    return gate.record.run if gate.record is not None else None
