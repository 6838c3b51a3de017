"""Which trial of a run became its model, as the run records it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from raymlops.errors import IntegrityError
from raymlops.registry.names import WINNER


@dataclass(frozen=True)
class Winner:
    """Everything besides configuration, snapshot and code that the weights follow from."""

    trial: str
    values: Mapping[str, Any]
    """What the search chose, over the run's configuration."""
    epoch: int
    """The best one; a refit trains for so many."""
    metric: str
    value: float | None
    """Of the validation rows at that epoch."""
    refit: bool
    """Whether the model was trained again on training and validation rows."""
    checkpoint: str
    """Where its weights were written, below the storage."""
    weights_sha256: str
    start: str | None = None
    """Hash of the package that a warm start went on from."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Raises IntegrityError when it is not what was written."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{WINNER}: cannot be read ({type(error).__name__}: {error})") from error
