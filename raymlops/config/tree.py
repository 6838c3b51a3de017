"""The root of the tree: one file describes one model's whole life."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from raymlops.config.base import Node
from raymlops.config.data import DataConfig, TimeSplit
from raymlops.config.features import FeaturesConfig
from raymlops.config.gate import GateConfig
from raymlops.config.labels import LabelsConfig
from raymlops.config.monitoring import BY_PREDICTION, MonitoringConfig
from raymlops.config.retraining import RetrainingConfig
from raymlops.config.rollout import RolloutConfig
from raymlops.config.serving import ServingConfig
from raymlops.config.training import MlpModel, Model, SearchConfig, TrainConfig

METRICS: dict[str, tuple[str, ...]] = {
    "regression": ("mae", "rmse"),
    "binary": ("log_loss", "auc", "accuracy", "brier", "calibration_error"),
    "multiclass": ("log_loss", "auc", "accuracy", "brier", "calibration_error"),
}
"""Metrics reported for each task. All but `auc` and `accuracy` are better when lower."""


class TrackingConfig(Node):
    uri: str | None = None
    """MLflow tracking URI; `MLFLOW_TRACKING_URI` when absent, else an sqlite database under `storage`."""
    experiment: str | None = None
    """Experiment name; the model's `name` when absent."""


class RayConfig(Node):
    address: str | None = None
    """Cluster to join; `RAY_ADDRESS` when absent, else a local Ray is started for the run."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs of a locally started Ray; all of the machine's when absent."""


class Config(Node):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    """Name of the model; also its name in the registry."""
    task: Literal["regression", "binary", "multiclass"]
    storage: str = ".raymlops"
    """Where everything durable lives: a path (relative to the working directory) or a URI that every node can reach."""
    storage_shared: bool = False
    """Say that a local `storage` path is a mount that every node sees (NFS and the like)."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    data: DataConfig
    features: FeaturesConfig
    model: Model = MlpModel(kind="mlp")
    train: TrainConfig = TrainConfig()
    search: SearchConfig = SearchConfig()
    gate: GateConfig = GateConfig()
    serving: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()
    labels: LabelsConfig = LabelsConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _columns_agree(self) -> Config:
        if self.data.target in self.features.raw_columns():
            raise ValueError(
                f"data.target: {self.data.target!r} is also a feature; the label would leak into the input"
            )
        if self.data.columns is not None:
            missing = [c for c in self.used_columns() if c not in self.data.columns]
            if missing:
                raise ValueError(f"data.columns: lacks {', '.join(missing)}, which the configuration uses elsewhere")
        return self

    @model_validator(mode="after")
    def _metrics_fit_the_task(self) -> Config:
        allowed = METRICS[self.task]
        named = [*self.gate.thresholds, *self.gate.slice_thresholds]
        named += [b.metric for b in self.gate.behaviours if b.kind == "minimum"]
        if self.train.metric != "auto" and ":" not in self.train.metric:
            named.append(self.train.metric)
        for metric in named:
            if metric not in allowed:
                raise ValueError(
                    f"metric {metric!r} does not belong to task {self.task}; allowed: {', '.join(allowed)}"
                )
        losses = {"regression": ("auto", "mae", "mse", "huber")}.get(self.task, ("auto", "log_loss"))
        if ":" not in self.train.loss and self.train.loss not in losses:
            raise ValueError(
                f"train.loss: {self.train.loss!r} does not fit task {self.task}; allowed: {', '.join(losses)}"
            )
        return self

    @model_validator(mode="after")
    def _monitors_fit_the_data(self) -> Config:
        if self.task == "regression" and self.monitoring.performance.loss == "log_loss":
            raise ValueError("monitoring.performance.loss: found log_loss, expected error, the one for regression")
        known, watched = self.features.raw_columns(), self.monitoring
        shown = ", ".join(known[:20]) + ("…" if len(known) > 20 else "")
        if unknown := [name for name in watched.drift.columns or () if name not in known]:
            unknown_names = ", ".join(unknown)
            raise ValueError(
                f"monitoring.drift.columns: found {unknown_names}, expected columns that the features read: {shown}"
            )
        if watched.time != BY_PREDICTION:
            if watched.time not in known:
                expected = f"{BY_PREDICTION!r} or a column that the features read: {shown}"
                raise ValueError(f"monitoring.time: found {watched.time!r}, expected {expected}")
            if watched.time in self.serving.log.redact:
                raise ValueError(
                    f"monitoring.time: {watched.time!r} is not logged, because serving.log.redact names it"
                )
        return self

    @property
    def time_column(self) -> str | None:
        if self.data.time_column is not None:
            return self.data.time_column
        return self.data.split.column if isinstance(self.data.split, TimeSplit) else None

    def used_columns(self) -> list[str]:
        """Raw columns that the configuration names anywhere, sorted."""
        data, gate = self.data, self.gate
        used = {*self.features.raw_columns(), data.target, *gate.slices, *data.contract.keys}
        if self.time_column is not None:
            used.add(self.time_column)
        if not isinstance(data.split, TimeSplit):
            used.update([data.split.key] if isinstance(data.split.key, str) else data.split.key)
        for behaviour in gate.behaviours:
            used.update(behaviour.where if behaviour.kind == "minimum" else [behaviour.column])
        return sorted(used)
