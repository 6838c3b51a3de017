"""Processes that die where a test wants it: forks of a program that has imported Python, torch and MLflow once.

Each joins Ray by itself, if it needs it at all.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def world(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of this directory, with the imports and the Ray of this process."""
    import ray

    address = ray.get_runtime_context().gcs_address
    return subprocess.run(
        [sys.executable, str(HERE / program), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=600,
    )


def import_all() -> None:
    """What takes seconds to import."""
    from raymlops.registry.backend import prepare_environment

    prepare_environment()
    import mlflow  # noqa: F401
    import torch  # noqa: F401

    import raymlops.registry.tracking
    import raymlops.retraining.job
    import raymlops.training.search  # noqa: F401


def begin(live: Callable[..., None], *arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=live, args=arguments)
    process.start()
    return process


def kill_at(live: Callable[[str], None], points: list[str]) -> None:
    """One process per point, one after the other; says of each how it ended."""
    for point in points:
        process = begin(live, point)
        process.join()
        died = process.exitcode == -signal.SIGKILL
        print(f"{point}: {'killed' if died else f'ended {process.exitcode}'}", flush=True)


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
