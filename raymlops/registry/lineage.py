"""Where a model came from besides its data: code, packages, machine. Never the environment, which holds secrets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

MAX_DIFF_BYTES = 1_000_000
GIT_SECONDS = 10.0
RAYS_OWN = "thirdparty_files"
"""Name of the directories that Ray puts on the path when it is imported."""


@dataclass(frozen=True)
class GitState:
    """The repository that a directory belongs to."""

    commit: str | None
    """None before the first commit."""
    branch: str | None
    """None when HEAD is detached."""
    changed: int
    """Tracked files that differ from the commit."""
    untracked: int
    diff: str
    """Changes of tracked files against the commit; cut at 1 MB with a last line that says so."""

    @property
    def dirty(self) -> bool:
        return self.changed > 0 or self.untracked > 0

    def to_dict(self) -> dict[str, Any]:
        """Without the text of the diff."""
        return {**asdict(self), "dirty": self.dirty, "diff": len(self.diff)}


def git_state(directory: Path) -> GitState | None:
    """None when `directory` is in no git repository, or git is missing, refuses, or takes longer than 10 s."""
    status = _git(directory, "status", "--porcelain=v1", "-z", "--untracked-files=normal", "--no-renames")
    if status is None:
        return None
    entries = [entry for entry in status.decode(errors="replace").split("\0") if entry]
    untracked = sum(entry.startswith("?? ") for entry in entries)
    commit = _git(directory, "rev-parse", "--verify", "--quiet", "HEAD")
    branch = _git(directory, "symbolic-ref", "--quiet", "--short", "HEAD")
    diff = b""
    if commit is not None and len(entries) > untracked:
        diff = _git(directory, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--") or b""
    text = diff[:MAX_DIFF_BYTES].decode(errors="replace")
    if len(diff) > MAX_DIFF_BYTES:
        text += f"\n[cut: {len(diff) - MAX_DIFF_BYTES:,} more bytes of changes]\n"
    return GitState(
        commit=commit.decode().strip() if commit else None,
        branch=branch.decode(errors="replace").strip() if branch else None,
        changed=len(entries) - untracked,
        untracked=untracked,
        diff=text,
    )


def _git(directory: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def installed_packages() -> list[str]:
    """`name==version` of every installed distribution, sorted.

    Without what Ray brings along for itself: that is on the path only of processes that have imported Ray.
    """
    path = [entry for entry in sys.path if Path(entry).name != RAYS_OWN]
    found = {(d.metadata["Name"] or "").lower(): d.version for d in metadata.distributions(path=path)}
    return [f"{name}=={found[name]}" for name in sorted(found) if name]


def hardware() -> dict[str, Any]:
    """CPU, memory (bytes) and GPUs of this machine, and the Python that runs here."""
    import psutil
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append({"name": properties.name, "memory": properties.total_memory})
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "gpus": gpus,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
