"""What weights depend on besides data and configuration: code, packages, machine; as recorded and as they are here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raymlops import __version__
from raymlops.registry import lineage
from raymlops.registry.names import GIT_DIFF, SHA256_TAG
from raymlops.registry.record import NotRecorded, RunRecord

MACHINE = ("cpu", "cpus", "memory", "system")
"""Another machine of the same kind is not expected to change weights, so these are told apart from the rest."""
CLEAN = "none"


def recorded_circumstances(record: RunRecord) -> dict[str, Any]:
    """Of a run, by readable keys; what it has not recorded is left out. Raises IntegrityError for what was changed."""
    tags = record.tags
    found: dict[str, Any] = {"raymlops": tags.get("raymlops.version"), "python": tags.get("python")}
    found |= _git(tags.get("mlflow.source.git.commit"), tags.get(SHA256_TAG + GIT_DIFF))
    for read in (_functions, _packages, _machine):
        try:
            found |= read(record)
        except NotRecorded:
            continue
    return found


def _functions(record: RunRecord) -> dict[str, Any]:
    return {f"function {name}": digest for name, digest in record.functions.items()}


def _packages(record: RunRecord) -> dict[str, Any]:
    return {f"package {name}": version for name, version in record.packages.items()}


def _machine(record: RunRecord) -> dict[str, Any]:
    return {name: record.hardware.get(name) for name in (*MACHINE, "gpus")}


def present_circumstances(base: Path, functions: Mapping[str, str]) -> dict[str, Any]:
    """Of this process; `base` is the directory of the user's code, `functions` maps key paths to hashes."""
    git, machine = lineage.git_state(base), lineage.hardware()
    found: dict[str, Any] = {"raymlops": __version__, "python": machine["python"]}
    found |= _git(git.commit if git else None, hashlib.sha256(git.diff.encode()).hexdigest() if git else None)
    found |= {f"function {name}": digest for name, digest in functions.items()}
    found |= {
        f"package {name}": version for name, _, version in (p.partition("==") for p in lineage.installed_packages())
    }
    return found | {name: machine[name] for name in (*MACHINE, "gpus")}


def _git(commit: str | None, diff_sha256: str | None) -> dict[str, Any]:
    clean = diff_sha256 in (None, hashlib.sha256(b"").hexdigest())
    return {"commit": commit or None, "uncommitted changes": CLEAN if clean else diff_sha256}
