"""What a job tells whoever watches it. The terminal implements this; tests and notebooks may use `Silent`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raymlops.training.records import TrialRecord


class Watch(Protocol):
    def run_started(self, run_id: str) -> None: ...
    def step_started(self, name: str, what: str) -> None: ...
    def step_done(self, name: str, seconds: float) -> None: ...
    def step_failed(self, name: str) -> None: ...
    def step_reused(self, name: str, why: str) -> None: ...
    def note(self, text: str) -> None: ...
    def trials(self, records: Sequence[TrialRecord], expected: int, metric: str, mode: str) -> None: ...
    def quiet(self) -> AbstractContextManager[None]:
        """Keep the chatter of libraries off the terminal while active."""
        ...


class Silent:
    """Watches without a word."""

    def run_started(self, run_id: str) -> None:
        pass

    def step_started(self, name: str, what: str) -> None:
        pass

    def step_done(self, name: str, seconds: float) -> None:
        pass

    def step_failed(self, name: str) -> None:
        pass

    def step_reused(self, name: str, why: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def trials(self, records: Sequence[TrialRecord], expected: int, metric: str, mode: str) -> None:
        pass

    def quiet(self) -> AbstractContextManager[None]:
        return nullcontext()
