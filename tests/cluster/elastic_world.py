"""An elastic training over two nodes of one CPU, one of which is killed and comes back: `python elastic_world.py BASE`.

A program of its own, because the Ray that other tests share must not lose nodes. Writes what was seen to
BASE/seen.json.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster
from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "integration"), str(HERE.parent)]

from conftest import Prepared, configured, frame  # noqa: E402

from raymlops.data.build import build_snapshot  # noqa: E402
from raymlops.store import Store  # noqa: E402
from raymlops.training.checkpoint import load_checkpoint  # noqa: E402
from raymlops.training.refit import train_on_cluster  # noqa: E402
from raymlops.training.search import share_parts  # noqa: E402
from raymlops.training.state import numbers  # noqa: E402

HOLD_AT = 20
"""Steps that a group of workers does before it waits for the nodes to change."""
GROUPS = 3
DEADLINE_S = 120
PATH = "runs/small/elastic/trial"
NODE: dict[str, Any] = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""A dead node is noticed in 2 s instead of 15."""


class Paced(nn.Module):
    """Notes every step and, once in its life, the size of its group; waits in an epoch unless its group is the last.

    No step begins before the state of the one before is written, so what a group leaves does not depend on the disk.
    """

    def __init__(self, numeric: int, folder: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(numeric, 1)
        self.folder, self.steps = folder, 0

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        workers = torch.distributed.is_initialized()
        if self.training and not (workers and torch.distributed.get_rank()):
            self._note(torch.distributed.get_world_size() if workers else 1)
        out: torch.Tensor = self.layer(inputs["numeric"]).squeeze(1)
        return out

    def _note(self, size: int) -> None:
        self.steps += 1
        notes = {"steps": "."} | ({"groups": f"{size}\n"} if self.steps == 1 else {})
        for name, text in notes.items():
            with (self.folder / name).open("a") as file:
                file.write(text)
        for thread in threading.enumerate():
            if thread.name == "state-writer":
                thread.join()
        while self.steps > HOLD_AT and len(groups(self.folder)) < GROUPS:
            time.sleep(0.02)


def groups(folder: Path) -> list[int]:
    """Sizes of the groups of workers that have begun to train."""
    path = folder / "groups"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


class Attentive(coordinator._AutoscalingCoordinatorActor):  # type: ignore[misc]
    """What tells Ray Train how many workers there is room for looks at the nodes every second instead of every 20."""

    TICK_INTERVAL_S = 1


def main(base: Path) -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": QUICK}
    )
    other = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    ray.remote(num_cpus=0)(Attentive).options(
        name="AutoscalingCoordinator",
        namespace="AutoscalingCoordinator",
        lifetime="detached",
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
    ).remote()
    frame().to_parquet(base / "rows.parquet")
    store = Store(str(base / "storage"))
    config = configured(
        {
            "model": {"kind": "factory", "factory": "elastic_world:build"},
            "train__workers": {"min": 1, "max": 2, "check_every": 1},
            "train__checkpoint": {"every": 0.001},
            "train__max_failures": 1,
        }
    )
    snapshot = build_snapshot(configured({}), base, store, "setup", datetime.now(UTC), {}).snapshot
    context = Prepared(base, store, snapshot).context(config, "elastic", factory=lambda spec: Paced(spec.numeric, base))
    training = ThreadPoolExecutor(1).submit(
        train_on_cluster, config, context, share_parts(snapshot, config), PATH, refit=False
    )

    def wait_for(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not what():
            assert not training.done(), training.exception()
            assert time.monotonic() < deadline, f"groups of {groups(base)}, states {numbers(store, PATH)}"
            time.sleep(0.05)

    wait_for(lambda: groups(base) == [2] and numbers(store, PATH)[-1:] >= [HOLD_AT - 1])
    cluster.remove_node(other, allow_graceful=False)
    wait_for(lambda: groups(base) == [2, 1] and numbers(store, PATH)[-1:] >= [2 * HOLD_AT - 2])
    cluster.add_node(**NODE)
    training.result(DEADLINE_S)
    _, facts = load_checkpoint(store, PATH)
    seen = {"groups": groups(base), "steps": (base / "steps").stat().st_size, "epoch": facts["epoch"]}
    (base / "seen.json").write_text(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without waiting for the training, which may never end; Ray's processes end with this one
