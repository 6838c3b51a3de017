"""What a job reports when it is over."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """One finished job. `version` and `alias` are None when the gate refused the model."""

    run_id: str
    name: str
    model: str | None
    """URI to load the model by: `models:/NAME/VERSION`, or the run's artifact when it was refused."""
    version: str | None
    alias: str | None
    """The alias that the version was registered with."""
    verdict: str
    """`blessed` or `refused`."""
    reasons: list[str]
    metrics: dict[str, float | None]
    snapshot: str
    weights_sha256: str
    seconds: dict[str, float]
    """Wall-clock seconds by step, and `total`."""
    notes: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    """Steps that were not done again, since nothing that they read has changed."""
    unchanged: bool = False
    """Whether that was all of them: then this is the result of the run that did them."""

    @property
    def exit_code(self) -> int:
        return 0 if self.verdict == "blessed" else 3

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
