"""A small job, and the programs that kill it.

python job_world.py BASE at POINT...           one process per POINT, one after the other, each killed there
python job_world.py BASE at-random SEED KILLS  processes one after the other, until so many were killed
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import configured
from killing import begin, die, import_all, kill_at

from raymlops.config.tree import Config
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.records import Records
from raymlops.retraining.watch import Silent

POINTS = [
    "the run is opened",
    "snapshot is being written",
    "a trial is half recorded",
    "search is not recorded",
    "refit is not recorded",
    "gate is not recorded",
    "the winner has no hash",
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
    from raymlops.registry.names import SHA256_TAG, WINNER
    from raymlops.registry.tracking import Tracker

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
    elif point == "the winner has no hash":
        before(Tracker, "tag", lambda self, tags: SHA256_TAG + WINNER in tags)
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


def live(base: Path, storage: str, point: str) -> None:
    """One process of the job, which tells what came of it if it lives to see the end."""
    set_trap(point)
    result = run_job(job(base, storage=str(base / storage)), base, Silent())
    print(f"{storage} {result.run_id} {result.weights_sha256} {','.join(result.reused)}", flush=True)


def kill_at_random(base: Path, seed: str, kills: str) -> None:
    """After a process that is left alone. A job that is done in spite of them is followed by one with a storage of its
    own; the last one is left to finish.

    Lives are as long as the undisturbed one at most. Most are short, to be many in little time; some are long enough
    for the search, which hardly any would get past if all were short.
    """
    began = time.monotonic()
    begin(live, base, "undisturbed", "never").join()
    whole = time.monotonic() - began
    draw, killed, storages = random.Random(seed), 0, 1
    while True:
        life = whole * (0.05 + 0.95 * draw.random() ** 4) if killed < int(kills) else None
        process = begin(live, base, f"storage-{storages}", "never")
        process.join(life)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            print(f"storage-{storages}: killed after {life:.2f} s", file=sys.stderr)
        elif process.exitcode or killed == int(kills):
            sys.exit(process.exitcode)
        else:
            storages += 1


def main() -> None:
    folder, mode, *arguments = sys.argv[1:]
    base = Path(folder)
    import_all()
    if mode == "at":
        kill_at(lambda point: live(base, "storage", point), arguments)
    else:
        kill_at_random(base, *arguments)


if __name__ == "__main__":
    main()
