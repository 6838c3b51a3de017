"""A virtual environment for every peer, made once and kept: peers pin libraries that exclude each other."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import ROOT

SCORING = ("numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch")
"""What the champion's package needs to answer. raymlops itself is taken from this checkout by PYTHONPATH."""
READY = "ready.json"


class Unavailable(Exception):
    """A peer that cannot be installed or does not run here. The message is the evidence."""


@dataclass(frozen=True)
class Environment:
    """An installed environment."""

    python: Path
    versions: Mapping[str, str]
    """Distribution → version of everything installed."""

    def program(self, name: str) -> str:
        return str(self.python.parent / name)


def default_directory() -> Path:
    """Where environments are kept unless said otherwise: below the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "raymlops-benchmarks"


def requirements(own: Sequence[str], pinned: Mapping[str, str], shared: Sequence[str] = SCORING) -> list[str]:
    """The peer's own requirements, and what it shares with raymlops in the versions that raymlops is tested with, as
    long as the peer does not ask for something else: `pinned` maps a distribution to a version."""
    asked = {_name(requirement) for requirement in own}
    return [*own, *(f"{name}=={pinned[name]}" for name in shared if name not in asked)]


def constraints(text: str) -> dict[str, str]:
    """Distribution → version of a file of `name==version` lines, names in lower case."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {name.lower(): version for name, _, version in (line.partition("==") for line in lines if line) if version}


def ensure(name: str, own: Sequence[str], directory: Path, shared: Sequence[str] = SCORING) -> Environment:
    """The environment of a peer below `directory`, installed unless it is there already with the same requirements.

    Raises Unavailable with the end of pip's output.
    """
    wanted = requirements(own, constraints((ROOT / "constraints.txt").read_text()), shared)
    place = directory / f"{name}-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:10]}"
    python, ready = place / "bin" / "python", place / READY
    if not ready.exists():
        print(f"... installing {name} into {place}", file=sys.stderr, flush=True)
        venv.create(place, with_pip=True, clear=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--no-input", *wanted],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"pip: {' '.join(done.stderr.strip().splitlines()[-3:])}")
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
        ).stdout
        ready.write_text(json.dumps({entry["name"].lower(): entry["version"] for entry in json.loads(listed)}))
    return Environment(python, json.loads(ready.read_text()))


def _name(requirement: str) -> str:
    """The distribution of `name[extra]==version`."""
    for at, character in enumerate(requirement):
        if not (character.isalnum() or character in "-_."):
            return requirement[:at].lower()
    return requirement.lower()
