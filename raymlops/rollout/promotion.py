"""What a rollout changes in the registry: the alias of the champion, and tags of versions. Blocking: for threads."""

from __future__ import annotations

from raymlops.registry.backend import Tracking, reported
from raymlops.registry.values import cut
from raymlops.registry.versions import CHAMPION, champion, find_version
from raymlops.serving import packages
from raymlops.serving.document import ModelRef
from raymlops.store import Store

ROLLOUT_TAG = "raymlops.rollout"
_MAX_TAG = 5000


def stage(registry: Tracking, store: Store, name: str, version: str) -> tuple[ModelRef, str | None]:
    """The staged version, and what its tag says about earlier rollouts. Raises RaymlopsError."""
    found = find_version(registry, f"{name}/{version}")
    return packages.stage(registry, store, f"{name}/{version}"), found.tags.get(ROLLOUT_TAG)


def seen_alias(registry: Tracking, name: str) -> str | None:
    """The version that the registry calls champion. Raises RaymlopsError."""
    found = champion(registry, name)
    return None if found is None else found.version


def move_alias(registry: Tracking, name: str, version: str) -> str | None:
    """Make the version the champion; returns which one was. Doing it twice changes nothing. Raises RaymlopsError."""
    before = seen_alias(registry, name)
    if before != version:
        with reported(f"moving the alias {CHAMPION!r} to version {version}"):
            registry.client.set_registered_model_alias(name, CHAMPION, version)
    return before


def tag_version(registry: Tracking, name: str, version: str, text: str) -> None:
    """Say on the version what became of its rollout. Raises RaymlopsError."""
    with reported(f"tagging version {version}"):
        registry.client.set_model_version_tag(name, version, ROLLOUT_TAG, cut(text, _MAX_TAG))
