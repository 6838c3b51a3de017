"""How many trials fit the cluster at once. Pure: node sizes in, a number or a clear refusal out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raymlops.config.training import SearchConfig, TrainConfig
from raymlops.errors import ResourceError

Node = Mapping[str, float]


def concurrent_trials(nodes: Sequence[Node], train: TrainConfig, search: SearchConfig) -> int:
    """Number of trials that can hold all their workers (the fewest, where their number may change) at the same time.

    Trials that each wait for workers which the others hold would wait for ever, so no more are started than fit.
    Workers are packed first-fit onto nodes (`CPU` and `GPU` per node); a worker cannot span nodes. Raises
    ResourceError when not even one trial fits.
    """
    free = [{"CPU": float(node.get("CPU", 0)), "GPU": float(node.get("GPU", 0))} for node in nodes]
    need = {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}
    fitted = 0
    while search.max_concurrent is None or fitted < search.max_concurrent:
        placed = 0
        for node in free:
            while placed < train.least_workers and all(node[kind] + 1e-9 >= need[kind] for kind in need):
                for kind in need:
                    node[kind] -= need[kind]
                placed += 1
        if placed < train.least_workers:
            break
        fitted += 1
    if fitted == 0:
        sizes = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes) or "no nodes"
        raise ResourceError(
            f"train: one trial needs {train.least_workers} worker(s) of {train.cpus_per_worker:g} CPU and "
            f"{train.gpus_per_worker:g} GPU, but the cluster has {sizes}; lower train.workers, train.cpus_per_worker "
            "or train.gpus_per_worker, or add nodes"
        )
    return fitted
