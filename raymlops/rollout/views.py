"""What decisions are made from and what they become: the endpoint as it is seen, and entries to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Intent:
    """An entry that is to be written."""

    kind: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Replica:
    """What a live replica last said about itself."""

    id: str
    build: str
    known: tuple[int, int] | None
    """Order of the document that it follows."""
    loaded: frozenset[str]
    failed: Mapping[str, str]
    """Package hash → why it could not be loaded."""
    memory: int | None = None
    """Free bytes on its machine."""
    node: str = ""


@dataclass(frozen=True)
class View:
    """What is seen of the endpoint."""

    replicas: Sequence[Replica] = ()
    apps: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Candidate application → `starting`, `ready` (runs and answered a probe) or `failed`, and the reason."""
    settled_s: float = 0.0
    """Seconds since the set of builds last changed."""
    complete: bool = True
    """False while the controller has just started and may not know of all replicas."""

    @property
    def builds(self) -> set[str]:
        return {replica.build for replica in self.replicas}

    def load_failures(self, sha256: str) -> str | None:
        found = [f"replica {r.id[:8]}: {r.failed[sha256]}" for r in self.replicas if sha256 in r.failed]
        return found[0] if found else None

    def loaded(self, sha256: str) -> bool:
        """Whether every live replica, of which there is one at least, holds the model."""
        return self.complete and bool(self.replicas) and all(sha256 in replica.loaded for replica in self.replicas)

    def follow(self, order: tuple[int, int]) -> bool:
        """Whether every live replica, of which there is one at least, follows the document."""
        return self.complete and bool(self.replicas) and all(replica.known == order for replica in self.replicas)
