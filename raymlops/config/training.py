"""`model:`, `train:` and `search:` what is trained, how, and which variants are tried."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raymlops.config.base import ImportPath, Node


class MlpModel(Node):
    """Embeddings for the categorical columns, then fully connected layers."""

    kind: Literal["mlp"]
    hidden: int = Field(default=128, ge=1)
    """Width of every hidden layer."""
    layers: int = Field(default=2, ge=1, le=32)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding: int = Field(default=16, ge=1)
    """Largest embedding width; a column of c categories gets min(embedding, ceil(c / 2))."""
    activation: Literal["relu", "gelu", "silu"] = "relu"


class FactoryModel(Node):
    """Your own `torch.nn.Module`."""

    kind: Literal["factory"]
    factory: ImportPath
    """`build(spec, **params) -> torch.nn.Module`; forward takes a dict of tensors, returns (n,) or (n, classes)."""
    params: dict[str, Any] = {}


Model = Annotated[MlpModel | FactoryModel, Field(discriminator="kind")]


class EarlyStopping(Node):
    patience: int = Field(default=5, ge=1)
    """Epochs without an improvement of the validation metric before the trial ends."""
    min_delta: float = Field(default=0.0, ge=0)


class CheckpointConfig(Node):
    """How often the state of a training under way is stored, so that a killed one goes on from there."""

    every: timedelta = Field(default=timedelta(seconds=30), gt=timedelta(0))
    """Most work that a kill can cost; seconds or ISO 8601. Written by a thread beside the training."""
    keep: int = Field(default=2, ge=1)
    """States that are kept; when the newest turns out to be damaged the one before it is used."""


class ElasticWorkers(Node):
    """As many workers as there is room for, within bounds, changing while the training goes on."""

    min: int = Field(ge=1)
    max: int = Field(ge=2)
    check_every: timedelta = Field(default=timedelta(seconds=60), gt=timedelta(0))
    """Time between two looks for room for more workers, which cost a restart from the last state."""

    @model_validator(mode="after")
    def _ordered(self) -> ElasticWorkers:
        if self.min >= self.max:
            raise ValueError(f"min must be less than max, found min {self.min} and max {self.max}")
        return self


Workers = Annotated[
    Annotated[int, Field(ge=1), Tag("int")] | Annotated[ElasticWorkers, Tag("ElasticWorkers")],
    Discriminator(lambda given: "ElasticWorkers" if isinstance(given, dict | ElasticWorkers) else "int"),
]


class TrainConfig(Node):
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=512, ge=1)
    """Rows per optimiser step, over all workers together."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Only for `sgd`."""
    schedule: Literal["constant", "cosine", "onecycle"] = "onecycle"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps spent raising the learning rate (cosine and onecycle)."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    loss: str = "auto"
    """`auto` (regression: mae, binary and multiclass: log_loss), `mae`, `mse`, `huber`, `log_loss`, or an import path
    `pkg.module:loss` of a function (predictions, targets) -> scalar tensor."""
    metric: str = "auto"
    """Validation metric that picks checkpoints and trials: `auto` (regression: mae, else log_loss), a metric of the
    task, or an import path of a function (predictions, targets) -> float with attribute `greater_is_better`."""
    early_stopping: EarlyStopping | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Mixed precision by autocast; float16 needs a CUDA device."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Workers = 1
    """Processes per trial; more than one trains data-parallel (DDP) through `ray.train`. `{min, max}` starts with what
    there is room for, goes on with fewer when some are lost and with more when there is room again."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    checkpoint: CheckpointConfig = CheckpointConfig()
    max_failures: int = Field(default=2, ge=0)
    """How often a trial may lose a process (killed, out of memory, node gone) and go on from its last stored state. An
    exception is final at once: it would come again."""

    @property
    def least_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.max


def deciding(train: Mapping[str, Any]) -> dict[str, Any]:
    """Of `train` as plain data, what decides the weights: all but what a failure costs and when workers are added."""
    kept = {name: value for name, value in train.items() if name not in ("checkpoint", "max_failures")}
    if isinstance(kept["workers"], Mapping):
        kept["workers"] = {name: value for name, value in kept["workers"].items() if name != "check_every"}
    return kept


class Dimension(Node):
    """One dimension of the search space; exactly one of the keys."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(default=None, alias="int")
    """Both ends included."""
    choice: list[Any] | None = None
    grid: list[Any] | None = None
    """Every value is tried `search.trials` times (random searcher only)."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Dimension:
        given = self.model_dump(exclude_none=True, by_alias=True)
        if len(given) != 1:
            raise ValueError("give exactly one of uniform, loguniform, int, choice, grid")
        kind, value = next(iter(given.items()))
        if kind in ("choice", "grid"):
            if not value:
                raise ValueError(f"{kind} needs at least one value")
        elif value[0] >= value[1]:
            raise ValueError(f"{kind} needs [low, high] with low < high, found {list(value)}")
        elif kind == "loguniform" and value[0] <= 0:
            raise ValueError(f"loguniform needs low > 0, found {value[0]}")
        return self


class SearchConfig(Node):
    trials: int = Field(default=16, ge=1)
    space: dict[str, Dimension] = {}
    """Keys are paths below `train` or `model`, such as `train.learning_rate` or `model.hidden`."""
    searcher: Literal["random", "optuna"] = "random"
    """`optuna` is the tree-structured Parzen estimator."""
    scheduler: Literal["fifo", "asha", "median"] = "asha"
    grace_epochs: int = Field(default=2, ge=1)
    """Epochs every trial may run before asha or median may stop it."""
    reduction_factor: float = Field(default=3.0, gt=1)
    """asha keeps one in this many trials at each rung."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """No trial starts after this many seconds, running ones are stopped; the best so far wins."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """Upper bound; the number that fits the cluster when absent."""
    refit: bool = True
    """Train the winning configuration again on training and validation rows together before the gate."""

    @model_validator(mode="after")
    def _grid_needs_random(self) -> SearchConfig:
        grids = [k for k, d in self.space.items() if d.grid is not None]
        if grids and self.searcher != "random":
            raise ValueError(f"grid dimensions ({', '.join(grids)}) need searcher: random; use choice with optuna")
        return self
