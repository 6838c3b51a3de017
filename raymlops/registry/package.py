"""The model package: one directory that holds everything needed to score raw rows, and nothing that is unpickled.

manifest.json         format, hash and size of every other file, facts about the run
config.json           name, task, target, model and features as the configuration declared them
features.json         fitted state of the features
weights.safetensors   weights of the network
source/               the user's modules that the model factory and derived features need
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load as load_tensors

from raymlops import __version__
from raymlops.config.base import Node
from raymlops.config.features import FeaturesConfig
from raymlops.config.training import Model
from raymlops.config.tree import Config
from raymlops.errors import DataError, IntegrityError, RaymlopsError
from raymlops.features.rows import Rows
from raymlops.features.state import FeatureState
from raymlops.features.transform import Transform
from raymlops.registry.requirements import pinned_requirements
from raymlops.registry.source import PackagedSource, collect_source
from raymlops.registry.values import finite
from raymlops.training.checkpoint import weights_bytes
from raymlops.training.models import build_model
from raymlops.training.objective import scores as scores_of

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
MANIFEST, CONFIG, FEATURES, WEIGHTS, SOURCE = (
    "manifest.json",
    "config.json",
    "features.json",
    "weights.safetensors",
    "source/",
)
CHUNK_ROWS = 65_536
"""Rows scored at a time: bounds memory, and large enough that the loop costs nothing."""


class PackageConfig(Node):
    """The part of the configuration that scoring needs."""

    name: str
    task: Literal["regression", "binary", "multiclass"]
    target: str
    model: Model = Field(discriminator="kind")
    features: FeaturesConfig

    def functions(self) -> dict[str, str]:
        """Import paths that the model needs, by configuration field."""
        found = {f"features.derived.{name}.function": d.function for name, d in self.features.derived.items()}
        if self.model.kind == "factory":
            found["model.factory"] = self.model.factory
        return found


def write_package(
    directory: Path,
    *,
    config: Config,
    state: FeatureState,
    weights: Mapping[str, torch.Tensor],
    base: Path,
    facts: Mapping[str, Any],
    created: datetime,
) -> dict[str, Any]:
    """Write a package into `directory`, which must be new or empty; returns the manifest.

    `base` is where the user's modules are found, `facts` are plain values that describe the run (snapshot hash,
    metrics, run id). `weights_sha256` in the manifest depends on the weights alone. Raises RaymlopsError when the
    directory has content.
    """
    if directory.exists() and any(directory.iterdir()):
        raise RaymlopsError(f"{directory}: not empty; a model package is written once")
    part = PackageConfig(
        name=config.name, task=config.task, target=config.data.target, model=config.model, features=config.features
    )
    source = collect_source(part.functions().values(), base)
    files = {
        CONFIG: _json(part.model_dump(mode="json", by_alias=True)),
        FEATURES: state.to_json().encode(),
        WEIGHTS: weights_bytes(weights),
        **{SOURCE + path: data for path, data in source.files.items()},
    }
    manifest = {
        "format": FORMAT,
        "raymlops": __version__,
        "created": created.isoformat(),
        "weights_sha256": _sha256(files[WEIGHTS]),
        "files": {path: {"sha256": _sha256(files[path]), "bytes": len(files[path])} for path in sorted(files)},
        "requirements": pinned_requirements(source.imports),
        "facts": finite(facts),
    }
    for path, data in {**files, MANIFEST: _json(manifest)}.items():  # the manifest last: it vouches for the rest
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return manifest


def load_package(directory: Path, *, sha256: str | None = None, device: str = "cpu") -> ModelPackage:
    """Check every file of the package, then load it.

    `sha256` is the expected hash of the manifest, which pins the whole package. Raises IntegrityError naming the file
    that is missing, extra or changed; no user code has run by then.
    """
    if not directory.is_dir():
        raise IntegrityError(f"{directory}: no model package here")
    return open_package(read_files(directory), str(directory), sha256=sha256, device=device)


def read_files(directory: Path) -> dict[str, bytes]:
    """Every file of a package by its relative path: what travels to workers that do not share the disk."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def open_package(
    files: Mapping[str, bytes], where: str = "model package", *, sha256: str | None = None, device: str = "cpu"
) -> ModelPackage:
    """A package from its files in memory; see `load_package`."""
    manifest = verify(files, where, sha256)
    try:
        config = PackageConfig.model_validate_json(files[CONFIG])
    except ValueError as error:
        raise RaymlopsError(f"{where}: {CONFIG} was not written by this version: {error}") from error
    source = PackagedSource({p.removeprefix(SOURCE): data for p, data in files.items() if p.startswith(SOURCE)})
    functions = {field: source.resolve(path, field) for field, path in config.functions().items()}
    derived = {name: functions[f"features.derived.{name}.function"] for name in config.features.derived}
    transform = Transform(config.features, FeatureState.from_json(files[FEATURES].decode()), config.task, derived)
    module = build_model(config.model, transform.spec, functions.get("model.factory"))
    try:
        module.load_state_dict(load_tensors(files[WEIGHTS]), strict=True)
    except RuntimeError as error:
        raise IntegrityError(f"{where}: {WEIGHTS} does not fit the declared model: {error}") from error
    return ModelPackage(manifest, _sha256(files[MANIFEST]), config, transform, module.to(device).eval(), device)


def verify(files: Mapping[str, bytes], where: str, sha256: str | None = None) -> dict[str, Any]:
    """The manifest, if it vouches for exactly these files. Raises IntegrityError naming the first that differs."""
    if MANIFEST not in files:
        raise IntegrityError(f"{where}: {MANIFEST} is missing")
    found = _sha256(files[MANIFEST])
    if sha256 is not None and found != sha256:
        raise IntegrityError(f"{where}: {MANIFEST} has hash {found[:12]}, expected {sha256[:12]}")
    try:
        manifest: dict[str, Any] = json.loads(files[MANIFEST])
        known, expected = manifest["format"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{where}: {MANIFEST} is damaged ({type(error).__name__}: {error})") from error
    if known != FORMAT:
        raise RaymlopsError(
            f"{where}: written in package format {known}, this is raymlops {__version__} with format {FORMAT}"
        )
    for path in sorted({*expected, *files} - {MANIFEST}):
        if path not in files:
            raise IntegrityError(f"{where}: {path} is missing")
        if path not in expected:
            raise IntegrityError(f"{where}: {path} does not belong to the package")
        found, wanted = _sha256(files[path]), expected[path]["sha256"]
        if found != wanted:
            raise IntegrityError(f"{where}: {path} has hash {found[:12]}, expected {wanted[:12]}; it was changed")
    if manifest["weights_sha256"] != expected[WEIGHTS]["sha256"]:
        raise IntegrityError(f"{where}: {MANIFEST} names two different hashes of the weights")
    return manifest


class ModelPackage:
    """A loaded model: raw rows in, predictions out."""

    def __init__(
        self,
        manifest: dict[str, Any],
        sha256: str,
        config: PackageConfig,
        transform: Transform,
        module: torch.nn.Module,
        device: str = "cpu",
    ) -> None:
        self.manifest, self.sha256, self.config = manifest, sha256, config
        self.transform, self.module, self.device = transform, module, device

    @property
    def classes(self) -> list[str]:
        """Class labels in the order of probabilities; empty for regression."""
        return [] if self.config.task == "regression" else list(self.transform.state.target["classes"])

    def scores(self, frame: pd.DataFrame) -> np.ndarray:
        """float64 scores of raw rows: (n,) in target units, (n,) P(positive), or (n, classes) probabilities.

        Rows do not influence each other, apart from the last bits that matrix products of different sizes round
        differently. Raises DataError for rows that lack a column or hold what it cannot read.
        """
        wide = self.config.task == "multiclass"
        parts = [np.empty((0, len(self.classes)) if wide else 0)]
        for start in range(0, len(frame), CHUNK_ROWS):
            parts.append(self._score(frame.iloc[start : start + CHUNK_ROWS]))
        return np.concatenate(parts)

    def _score(self, rows: pd.DataFrame | Rows) -> np.ndarray:
        arrays = self.transform.batch(rows)
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
            outputs = self.module(inputs).float().cpu().numpy()
        outputs_per_row = self.transform.spec.outputs
        length = rows.length if isinstance(rows, Rows) else len(rows)
        expected = (length,) if outputs_per_row == 1 else (length, outputs_per_row)
        if outputs.shape != expected:
            raise DataError(f"model.forward returned shape {outputs.shape}, expected {expected}")
        if self.config.task == "regression":
            return self.transform.unscale(outputs)
        return scores_of(outputs, self.config.task)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One row of predictions per raw row, with the same index.

        Columns: `prediction`; for classes `prediction` is the label's text and `probability_CLASS` follow.
        """
        import pandas as pd

        found = self._columns(self.scores(frame))
        if self.classes:
            found["prediction"] = pd.Series(found["prediction"], index=frame.index, dtype="str")
        return pd.DataFrame(found, index=frame.index)

    def predict_columns(self, columns: Mapping[str, Any], rows: int) -> dict[str, np.ndarray]:
        """The columns of `predict` for `rows` rows given as sequences or NumPy arrays: for endpoints, where building a
        data frame would take ten times as long as the model.

        Labels come as an object array of text. Raises DataError as `scores` does.
        """
        plain = {name: _values(column) for name, column in columns.items()}
        return self._columns(self._score(Rows(plain, rows)))

    def _columns(self, scores: np.ndarray) -> dict[str, Any]:
        if self.config.task == "regression":
            return {"prediction": scores}
        if self.config.task == "binary":
            scores = np.stack([1.0 - scores, scores], axis=1)
        labels = np.asarray(self.classes, dtype=object)[scores.argmax(axis=1)]
        return {"prediction": labels} | {f"probability_{label}": scores[:, i] for i, label in enumerate(self.classes)}


def _values(column: Any) -> Any:
    """Arrays of text or objects become lists, whose values go through the rules for records."""
    return column.tolist() if isinstance(column, np.ndarray) and column.dtype.kind not in "biufM" else column


def _json(value: Any) -> bytes:
    """Keys stay in their order: the order of declared features is the order of the model's columns."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
