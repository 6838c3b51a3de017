"""Errors of the evidence package. The one import from the rest of raymlops is its base error."""

from __future__ import annotations

from raymlops.errors import RaymlopsError


class EvidenceError(RaymlopsError):
    """What was reported contradicts how the rollout assigned traffic; counting it would void the guarantee."""
