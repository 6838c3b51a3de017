"""The installed distributions that a model package needs, pinned."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

SCORING = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "torch")
"""Distributions that raymlops imports to score rows."""


def pinned_requirements(imports: Iterable[str] = ()) -> list[str]:
    """`name==version` of what scoring needs and of the distributions behind the module names in `imports`."""
    names = set(SCORING)
    if extra := set(imports):
        providers = metadata.packages_distributions()
        names.update(d.lower() for name in extra for d in providers.get(name, ()) if d != "raymlops")
    pinned = []
    for name in sorted(names):
        # "2.13.0+cpu" is a build of 2.13.0; package indexes know only the latter.
        version = metadata.version(name).partition("+")[0]
        pinned.append(f"{name}=={version}")
    return pinned
