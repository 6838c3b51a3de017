"""`raymlops config check`: everything that can be found out about a configuration without running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from raymlops.config import Config, resolve_local
from raymlops.errors import ConfigError, ResourceError
from raymlops.imports import resolve, user_functions


def check_config(config: Config, base: Path) -> dict[str, Any]:
    """Facts for display when all is well; raises ConfigError or ResourceError listing what is not."""
    from raymlops.training.space import check_space, trial_count

    problems: list[str] = []
    for field, path in user_functions(config).items():
        try:
            resolve(path, field)
        except ConfigError as error:
            problems += error.problems
    try:
        check_space(config)
    except ConfigError as error:
        problems += error.problems
    problems += _missing_files(config, base)
    if problems:
        raise ConfigError(problems)
    nodes, where = _nodes(config)
    from raymlops.training.resources import concurrent_trials

    return {
        "model": config.name,
        "trials": trial_count(config),
        "concurrent_trials": concurrent_trials(nodes, config.train, config.search),
        "resources": where,
    }


def _missing_files(config: Config, base: Path) -> list[str]:
    paths = getattr(config.data.source, "path", [])
    local = [resolve_local(p, base) for p in ([paths] if isinstance(paths, str) else paths) if "://" not in p]
    return [
        f"data.source.path: found {p!r}, but no such file or directory exists" for p in local if not Path(p).exists()
    ]


def _nodes(config: Config) -> tuple[list[dict[str, float]], str]:
    """Node sizes of the cluster to be joined, or of this machine when a local Ray would be started."""
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        from raymlops.cluster import connected
        from raymlops.training.search import cluster_nodes

        with connected(config.ray) as cluster:
            return [dict(node) for node in cluster_nodes()], str(cluster)
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    gpus = _gpus()
    if config.train.device == "cuda" and not gpus:
        raise ResourceError("train.device: found 'cuda', but this machine has no CUDA device; use auto or cpu")
    return [{"CPU": float(cpus), "GPU": float(gpus)}], f"this machine: {cpus} CPU, {gpus} GPU"


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
