"""What is known of a job before anything is done: configuration, code, packages, machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from raymlops import __version__
from raymlops.config.tree import Config
from raymlops.data.identity import path_digest
from raymlops.imports import user_functions
from raymlops.registry import lineage
from raymlops.registry.lineage import GitState
from raymlops.registry.names import CONFIG, FUNCTIONS, GIT, GIT_DIFF, HARDWARE, PACKAGES, STARTED_TAG
from raymlops.registry.values import dump, flat_params


@dataclass(frozen=True)
class Start:
    """As this process finds it."""

    config: Config
    git: GitState | None
    packages: list[str]
    machine: dict[str, Any]

    @classmethod
    def of(cls, config: Config, base: Path) -> Self:
        return cls(config, lineage.git_state(base), lineage.installed_packages(), lineage.hardware())

    def to_dict(self) -> dict[str, Any]:
        """Git state, hardware, versions and seed."""
        return {
            "git": self.git.to_dict() if self.git else None,
            "hardware": self.machine,
            "packages": self.packages,
            "seed": self.config.seed,
            "raymlops": __version__,
        }

    def params(self) -> dict[str, str]:
        """The configuration as parameters of a run."""
        return flat_params(self._plain)

    def files(self) -> dict[str, str]:
        """As artifacts."""
        files = {
            CONFIG: yaml.safe_dump(self._plain, sort_keys=False, allow_unicode=True),
            PACKAGES: "\n".join(self.packages) + "\n",
            HARDWARE: dump(self.machine),
            GIT: dump(self.to_dict()["git"]),
            FUNCTIONS: dump({name: path_digest(path) for name, path in user_functions(self.config).items()}),
        }
        return files if self.git is None else {**files, GIT_DIFF: self.git.diff}

    def tags(self) -> dict[str, str]:
        """The last thing to record: they vouch for the files."""
        git = self.git
        tags = {
            STARTED_TAG: "not a git repository" if git is None else "changed" if git.dirty else "clean",
            "hardware": f"{self.machine['cpus']} × {self.machine['cpu']}, {len(self.machine['gpus'])} GPU",
            "python": self.machine["python"],
        }
        if git is not None:
            tags |= {"mlflow.source.git.commit": git.commit or "", "mlflow.source.git.branch": git.branch or ""}
        return tags

    @property
    def _plain(self) -> dict[str, Any]:
        return self.config.model_dump(mode="json", by_alias=True)
