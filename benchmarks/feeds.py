"""The ways to feed a training step that `benchmarks.ingest` compares; each measurement is a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from raymlops.config.tree import Config
    from raymlops.data.snapshot import Snapshot

    Batch = dict[str, torch.Tensor]

NUMERIC, CATEGORICAL, CATEGORIES = 15, 4, 50
COLUMNS = NUMERIC + CATEGORICAL + 1
FLOOR = "tensors in memory, randperm + index_select"
OURS, STREAMED = "raymlops, in memory", "raymlops, streamed from shards"
LOADERS = ("DataLoader, num_workers=0", "DataLoader, num_workers=2")
RAY_DATA = ("iter_torch_batches", "iter_torch_batches, local shuffle")
CONTENDERS = (FLOOR, OURS, STREAMED, *LOADERS, *RAY_DATA)


def generate(work: str, rows: int) -> dict[str, Any]:
    """The source: a directory of parquet files."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    folder = Path(work) / "source"
    folder.mkdir()
    for part in range(12):
        count = rows // 12
        columns: dict[str, Any] = {f"x{i}": random.standard_normal(count) for i in range(NUMERIC)}
        names = np.array([f"category {i}" for i in range(CATEGORIES)])
        columns |= {f"c{i}": names[random.integers(0, CATEGORIES, count)] for i in range(CATEGORICAL)}
        columns["y"] = columns["x0"] + random.standard_normal(count)
        pq.write_table(pa.table(columns), folder / f"part-{part:02d}.parquet")
    return {}


def build(work: str) -> dict[str, Any]:
    """Peak memory of making the snapshot."""
    from datetime import UTC, datetime

    from benchmarks.memory import watched
    from raymlops.cluster import connected
    from raymlops.config.tree import RayConfig
    from raymlops.data.build import build_snapshot
    from raymlops.store import Store

    with watched() as peaks, connected(RayConfig(num_cpus=2)):
        began = time.perf_counter()
        built = build_snapshot(_config(work), Path(work), Store.at(work), "benchmark", datetime.now(UTC), {})
        seconds = time.perf_counter() - began
    source = sum(file.stat().st_size for file in (Path(work) / "source").iterdir())
    encoded = sum(built.snapshot.encoded_bytes(part) for part in built.snapshot.rows)
    facts = {"digest": built.snapshot.hash, "seconds": seconds, "source_bytes": source, "encoded_bytes": encoded}
    return {**facts, **peaks.to_dict()}


def epoch_peaks(work: str, digest: str, stream: bool) -> dict[str, Any]:
    """Peak memory of one epoch in one worker."""
    import ray

    from benchmarks.memory import watched
    from raymlops.cluster import connected
    from raymlops.config.tree import RayConfig
    from raymlops.training.search import share_parts
    from raymlops.training.trial import Handles

    snapshot = _snapshot(work, digest)
    with watched() as peaks, connected(RayConfig(num_cpus=2)):
        began = time.perf_counter()
        handles = Handles({}) if stream else share_parts(snapshot, _config(work))
        ray.get(ray.remote(_one_epoch).remote(snapshot, handles))
        seconds = time.perf_counter() - began
    return {"seconds": seconds, **peaks.to_dict()}


def rate(work: str, digest: str, contender: str, batch_size: int, step: str, seconds: float) -> dict[str, Any]:
    """Rows per second over whole epochs, at least one and at least `seconds` long."""
    import torch

    torch.set_num_threads(1)
    snapshot = _snapshot(work, digest)
    epochs = _contender(contender, snapshot, _config(work), batch_size)
    work_on = _touch if step == "touch" else _trainer(snapshot)
    for number, batch in enumerate(next(epochs)):
        work_on(batch)
        if number == 20:
            break
    rows, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for batch in next(epochs):
            work_on(batch)
            rows += len(batch["target"])
    return {"rows_per_second": rows / (time.perf_counter() - began)}


def _contender(name: str, snapshot: Snapshot, config: Config, size: int) -> Iterator[Iterable[Batch]]:
    """Epoch after epoch, each an iterable of batches."""
    if name in (OURS, STREAMED):
        return _ours(snapshot, config, size, stream=name == STREAMED)
    if name in RAY_DATA:
        return _ray_data(snapshot, size, shuffle=name == RAY_DATA[1])
    return _floor(snapshot, size) if name == FLOOR else _loader(snapshot, size, workers=int(name[-1]))


def _floor(snapshot: Snapshot, size: int) -> Iterator[Iterable[Batch]]:
    import torch

    tensors = _tensors(snapshot)
    while True:
        order = torch.randperm(len(tensors["target"]))
        yield ({name: t.index_select(0, index) for name, t in tensors.items()} for index in order.split(size))


def _ours(snapshot: Snapshot, config: Config, size: int, stream: bool) -> Iterator[Iterable[Batch]]:
    from raymlops.cluster import connected
    from raymlops.config.tree import RayConfig
    from raymlops.training.search import share_parts
    from raymlops.training.trial import Handles

    with connected(RayConfig(num_cpus=2)):
        handles = Handles({}) if stream else share_parts(snapshot, config)
        rows = handles.open(snapshot, "train")
        epoch = 0
        while True:
            epoch += 1
            yield rows.epoch(0, epoch, size)


def _loader(snapshot: Snapshot, size: int, workers: int) -> Iterator[Iterable[Batch]]:
    from torch.utils.data import DataLoader, TensorDataset

    tensors = _tensors(snapshot)
    loader = DataLoader(
        TensorDataset(*tensors.values()), size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield (dict(zip(tensors, batch, strict=True)) for batch in loader)


def _ray_data(snapshot: Snapshot, size: int, shuffle: bool) -> Iterator[Iterable[Batch]]:
    import ray.data

    from raymlops.cluster import connected
    from raymlops.config.tree import RayConfig

    shards = snapshot.shards("train")
    with connected(RayConfig(num_cpus=2)):
        ray.data.DataContext.get_current().enable_progress_bars = False
        read = ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(
            lambda batch: snapshot.load_shard(shards[int(batch["id"][0])]), batch_size=1
        )
        stored = read.materialize()
        buffer = 131_072 if shuffle else None
        while True:
            yield stored.iter_torch_batches(batch_size=size, local_shuffle_buffer_size=buffer)


def _touch(batch: Batch) -> None:
    for tensor in batch.values():
        tensor.sum()


def _trainer(snapshot: Snapshot) -> Callable[[Batch], None]:
    import torch

    from raymlops.config.training import MlpModel
    from raymlops.features.state import ArraySpec
    from raymlops.training.models import build_model

    state = snapshot.state()
    spec = ArraySpec(NUMERIC, tuple(len(known) + 2 for known in state.categories.values()), {}, 1)
    model = build_model(MlpModel(kind="mlp", hidden=64, layers=2), spec)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(batch: Batch) -> None:
        loss = torch.nn.functional.l1_loss(model(batch), batch["target"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _one_epoch(snapshot: Snapshot, handles: Any) -> None:
    for batch in handles.open(snapshot, "train").epoch(0, 1, 4096):
        _touch(batch)


def _tensors(snapshot: Snapshot) -> Batch:
    import numpy as np
    import torch

    shards = [snapshot.load_shard(shard) for shard in snapshot.shards("train")]
    return {name: torch.from_numpy(np.concatenate([shard[name] for shard in shards])) for name in shards[0]}


def _snapshot(work: str, digest: str) -> Snapshot:
    from raymlops.data.snapshot import Snapshot
    from raymlops.store import Store

    return Snapshot.open(Store.at(work), digest)


def _config(work: str) -> Config:
    from raymlops.config.loading import parse_config

    return parse_config(
        {
            "name": "ingest",
            "task": "regression",
            "storage": work,
            "data": {
                "source": {"kind": "parquet", "path": str(Path(work) / "source")},
                "target": "y",
                "split": {"by": "hash", "key": "x0", "validation": 0.05, "holdout": 0.05},
            },
            "features": {
                "numeric": {f"x{i}": {} for i in range(NUMERIC)},
                "categorical": {f"c{i}": {} for i in range(CATEGORICAL)},
            },
        }
    )
