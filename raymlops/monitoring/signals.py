"""What a look at a model in production says: a signal for each kind of trouble, with an incident when there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from raymlops.errors import IntegrityError

Kind: TypeAlias = Literal["degradation", "drift", "quality", "labels", "estimate"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Signal:
    """One monitor's verdict on all closed windows until `window`."""

    kind: Kind
    alarm: bool
    window: str
    """The last day that was judged, an ISO date; empty when none was."""
    since: str | None
    """When the change began, an ISO date, as estimated on alarm."""
    reason: str
    """One line for people."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What the verdict rests on: evidence, threshold, levels, features that moved. Values that JSON can hold."""
    incident: str | None = None
    """Set on alarm. The same alarm, seen again, has the same one."""

    @classmethod
    def raised(
        cls, kind: Kind, version: str, window: str, since: str | None, reason: str, numbers: dict[str, Any]
    ) -> Signal:
        """An alarm about a model version."""
        return cls(kind, True, window, since, reason, numbers, f"{kind}-{version}-{since or window}")


@dataclass(frozen=True)
class Observation:
    """What a look at the log and the labels of an endpoint says about the version that serves."""

    endpoint: str
    version: str
    at: float
    """Seconds since 1970."""
    signals: list[Signal]
    rows: int
    """Predictions that the last look had not seen."""
    labelled: int
    """Labelled predictions that the last look had not seen."""
    newest_window: str | None
    """The last day with predictions, closed or not."""

    @property
    def alarms(self) -> list[Signal]:
        return [signal for signal in self.signals if signal.alarm]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Observation:
        """What `to_dict` gave. Raises IntegrityError when it is something else."""
        try:
            signals = [Signal(**row) for row in data["signals"]]
            if unknown := [signal.kind for signal in signals if signal.kind not in KINDS]:
                raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {unknown[0]!r}")
            return cls(**{**data, "signals": signals})
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"observation: cannot be read ({type(error).__name__}: {error})") from error
