"""The state of one rollout, from its start to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raymlops.config.rollout import RolloutConfig
from raymlops.rollout.course import Course
from raymlops.rollout.evidence import EvidenceConfig
from raymlops.rollout.policy import RolloutPolicy
from raymlops.rollout.settings import Mode, evidence_config, policy_of
from raymlops.rollout.totals import Totals
from raymlops.serving.document import ModelRef

Phase = Literal["starting", "running", "staging", "baking", "ending"]
"""Candidates are deployed and probed → compared → the promoted one is loaded everywhere → it answers and the old one
keeps a holdback. `ending`: taken back, until every replica has said so."""
ORDER, UPDATE = "order", "update"
"""Who paused: somebody, or the endpoint's own update, while replicas of two builds answer."""


@dataclass(frozen=True)
class Candidate:
    model: ModelRef
    app: str | None
    """Its Serve application; None in the endpoint's own replicas."""
    size: int = 0
    """Bytes of its package."""

    def to_dict(self) -> dict[str, Any]:
        return {"model": vars(self.model), "app": self.app, "size": self.size}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        return cls(ModelRef(**data["model"]), data["app"], data["size"])


@dataclass
class Task:
    """Something owed to the world outside. Done at least once: a crash in between repeats it."""

    kind: str
    """`tag` (model version), `notify`, `run` (the end of the MLflow run)."""
    payload: dict[str, Any]


@dataclass
class Rollout:
    id: str
    """Of the comparison; reports carry it."""
    base_id: str
    """Of the rollout. The same, unless what bakes is a new comparison."""
    mode: Mode
    candidates: tuple[Candidate, ...]
    control: ModelRef
    config: RolloutConfig
    request_timeout: float
    started_at: float
    by: str
    attempt: int = 1
    phase: Phase = "starting"
    phase_at: float = 0.0
    course: Course | None = None
    """None before candidates run, in shadow mode, and where no holdback is compared."""
    shadow: Totals = field(default_factory=Totals)
    promoting: int | None = None
    """Number of the candidate that is being promoted."""
    promoted_at: float | None = None
    paused: tuple[str, ...] = ()
    waiting: str | None = None
    held: str | None = None
    dropped: dict[int, str] = field(default_factory=dict)
    """Candidates that were taken out, and why."""

    @classmethod
    def from_start(cls, at: float, control: ModelRef, payload: Mapping[str, Any]) -> Rollout:
        return cls(
            id=payload["id"],
            base_id=payload["id"],
            mode=payload["mode"],
            candidates=tuple(map(Candidate.from_dict, payload["candidates"])),
            control=control,
            config=RolloutConfig.model_validate(payload["config"]),
            request_timeout=payload["request_timeout"],
            started_at=at,
            by=payload["by"],
            phase_at=at,
        )

    @property
    def policy(self) -> RolloutPolicy:
        return policy_of(self.config, self.mode)

    @property
    def promoted_model(self) -> ModelRef:
        assert self.promoting is not None, "nothing is promoted"
        return self.candidates[self.promoting - 1].model

    @property
    def co_resident(self) -> tuple[ModelRef, ...]:
        """Candidates that live in the endpoint's replicas."""
        numbered = enumerate(self.candidates, start=1)
        return tuple(c.model for number, c in numbered if c.app is None and number not in self.dropped)

    def evidence_config(self, *, baking: bool = False) -> EvidenceConfig:
        """While a promoted model bakes in a comparison of its own, that is one more try."""
        return evidence_config(
            self.config,
            candidates=1 if baking else len(self.candidates),
            attempt=self.attempt + baking,
            request_timeout=self.request_timeout,
        )

    def to_dict(self) -> dict[str, Any]:
        plain = ("id", "base_id", "mode", "request_timeout", "started_at", "by", "attempt", "phase", "phase_at")
        more = ("promoting", "promoted_at", "paused", "waiting", "held")
        return {
            **{name: getattr(self, name) for name in (*plain, *more)},
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "control": vars(self.control),
            "config": self.config.model_dump(mode="json"),
            "course": None if self.course is None else self.course.to_dict(),
            "shadow": self.shadow.to_dict(),
            "dropped": {str(number): reason for number, reason in self.dropped.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rollout:
        return cls(
            **{
                **data,
                "candidates": tuple(map(Candidate.from_dict, data["candidates"])),
                "control": ModelRef(**data["control"]),
                "config": RolloutConfig.model_validate(data["config"]),
                "course": None if data["course"] is None else Course.from_dict(data["course"]),
                "shadow": Totals.from_dict(data["shadow"]),
                "dropped": {int(number): reason for number, reason in data["dropped"].items()},
                "paused": tuple(data["paused"]),
            }
        )
