"""A small job, and the program that kills it.

    python job_world.py BASE POINT...      one process per POINT, one after the other, each killed there

Python, torch and MLflow are imported once; every process is a fork that joins Ray by itself, if it needs it at all.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from conftest import configured  # noqa: E402

from raymlops.config.tree import Config  # noqa: E402
from raymlops.registry.backend import prepare_environment  # noqa: E402
from raymlops.retraining.pipeline import run_job  # noqa: E402
from raymlops.retraining.watch import Silent  # noqa: E402

POINTS = [
    "the run is opened",
    "snapshot is being written",
    "a trial is half recorded",
    "search is not recorded",
    "refit is not recorded",
    "gate is not recorded",
    "the model is half stored",
    "the verdict is half recorded",
    "the version has no alias",
    "register is not recorded",
    "report is not recorded",
    "the run is not closed",
    "the job is not done",
]


def job(base: Path, **changes: Any) -> Config:
    return configured({"storage": str(base / "storage"), "search__trials": 3, "search__scheduler": "fifo", **changes})


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Die instead of calling `owner.name`, as soon as `when` is true of the arguments."""
    real = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if when(*arguments, **options):
            die()
        return real(*arguments, **options)

    setattr(owner, name, call)


def after(owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        die()

    setattr(owner, name, call)


def set_trap(point: str) -> None:
    import mlflow

    import raymlops.data.build
    from raymlops.registry.tracking import Tracker
    from raymlops.retraining.records import Records

    client = mlflow.MlflowClient
    step, _, rest = point.partition(" ")
    if rest == "is not recorded":
        before(Records, "done", lambda self, name, *_: name == step)
    elif point == "the run is opened":
        before(Records, "write_job")
    elif point == "snapshot is being written":
        after(raymlops.data.build, "write_shards")
    elif point == "a trial is half recorded":
        before(client, "set_terminated")
    elif point == "the model is half stored":
        before(client, "finalize_logged_model")
    elif point == "the verdict is half recorded":
        before(Tracker, "log_files", lambda self, files: "verdict.json" in files)
    elif point == "the version has no alias":
        before(client, "set_registered_model_alias")
    elif point == "the run is not closed":
        before(client, "set_terminated")
    elif point == "the job is not done":
        before(Records, "write_job", lambda self, record: record.status == "done")


def main() -> None:
    base = Path(sys.argv[1])
    prepare_environment()
    import mlflow  # noqa: F401
    import torch  # noqa: F401

    import raymlops.registry.tracking
    import raymlops.retraining.job
    import raymlops.training.search  # noqa: F401

    for point in sys.argv[2:]:
        child = os.fork()
        if child == 0:
            set_trap(point)
            result = run_job(job(base), base, Silent())
            print(f"{result.run_id} {result.weights_sha256} {','.join(result.reused)}", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(f"{point}: {'killed' if died else f'ended {status}'}", flush=True)


if __name__ == "__main__":
    main()
