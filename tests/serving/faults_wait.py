"""Waiting for what a fault leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hand_client

SECONDS = 180.0
"""Longest wait: for a machine that is busy with something else."""


def eventually(what: str, check: Callable[[], Any]) -> Any:
    return hand_client.eventually(what, check, SECONDS)
