"""The package as an MLflow model: `mlflow.pyfunc.load_model` and `mlflow models serve` work as for any other.

MLflow imports this module by name, from the copy of raymlops that is stored beside the package, so importing it must
not need Ray or a tracking server.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raymlops.registry.package import ModelPackage, load_package

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

LOADER = "raymlops.registry.pyfunc"
SHIPPED_SUFFIXES = {".py", ".html", ".typed"}


def _load_pyfunc(path: str) -> PackageModel:
    """What MLflow calls with the path of the stored package."""
    return PackageModel(load_package(Path(path)))


class PackageModel:
    """MLflow's view of a package."""

    def __init__(self, package: ModelPackage) -> None:
        self.package = package

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predictions for a DataFrame, a list of records, a dict of columns (or one record), or a 2-d array.

        A 2-d array holds the raw columns in the order of the signature. Raises DataError for rows that lack a column
        or hold what the features cannot read.
        """
        return self.package.predict(to_frame(model_input, self.package))


def to_frame(model_input: Any, package: ModelPackage) -> pd.DataFrame:
    """Any accepted input as a frame of raw rows."""
    columns = package.config.features.raw_columns()
    if isinstance(model_input, pd.DataFrame):
        frame = model_input
    elif isinstance(model_input, dict):
        one_record = all(np.ndim(value) == 0 for value in model_input.values())
        frame = pd.DataFrame([model_input] if one_record else {k: list(v) for k, v in model_input.items()})
    elif isinstance(model_input, np.ndarray):
        frame = pd.DataFrame(model_input, columns=columns if model_input.shape[1:] == (len(columns),) else None)
    else:
        frame = pd.DataFrame(list(model_input))
    plain = [c for c in columns if c in frame.columns and c not in package.config.features.tensor]
    # MLflow takes a dict of columns that all hold text for one record; each cell is then a whole column.
    if len(frame) == 1 and plain and all(isinstance(frame[c].iloc[0], list | np.ndarray) for c in plain):
        frame = frame.explode(list(frame.columns), ignore_index=True)
    return frame


def save_model(directory: Path, package: ModelPackage, data: Path, example: pd.DataFrame, model: Model) -> None:
    """Write an MLflow model into the new `directory` around the package stored at `data`.

    `example` is a few raw rows; they become the input example and say how columns are typed.
    """
    import mlflow.pyfunc

    rows = example[package.config.features.raw_columns()].reset_index(drop=True)
    model.metadata = {**(model.metadata or {}), "columns": column_uses(package)}
    scratch = directory.parent / f".{directory.name}-code"
    try:
        mlflow.pyfunc.save_model(
            str(directory),
            loader_module=LOADER,
            data_path=str(data),
            code_paths=[str(_own_code(scratch))],
            pip_requirements=package.manifest["requirements"],
            signature=signature(package, rows),
            input_example=_plain(rows),
            mlflow_model=model,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _own_code(directory: Path) -> Path:
    """A copy of the installed raymlops without anything that was generated."""
    source = Path(__file__).resolve().parent.parent
    target = directory / source.name
    for file in source.rglob("*"):
        if file.suffix in SHIPPED_SUFFIXES:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return target


def signature(package: ModelPackage, rows: pd.DataFrame) -> ModelSignature:
    """MLflow's description of inputs and outputs.

    Text columns are declared as such, everything else as "any", because MLflow refuses good rows before the model sees
    them: a frame of int64 for a `double` column, missing values for a `long` one, ISO text or a time zone for a
    `datetime`, whole numbers in an array of `double`. The features check every value themselves and name the column,
    the row and what was found; how columns are used is in the model's metadata.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    features = package.config.features
    typed = {*features.numeric, *features.dates, *features.tensor}

    def declared(column: str) -> Any:
        text = isinstance(rows[column].dtype, pd.StringDtype) and column not in typed
        return DataType.string if text else AnyType()

    inputs = [ColSpec(declared(column), column) for column in rows.columns]
    outputs = [ColSpec(DataType.double if not package.classes else DataType.string, "prediction")]
    outputs += [ColSpec(DataType.double, f"probability_{label}") for label in package.classes]
    return ModelSignature(Schema(inputs), Schema(outputs))


def column_uses(package: ModelPackage) -> dict[str, list[str]]:
    """Raw column → how features use it: numeric, categorical, date, tensor, or `input of DERIVED`."""
    features = package.config.features
    uses: dict[str, list[str]] = {column: [] for column in features.raw_columns()}
    for use, names in (
        ("numeric", features.numeric),
        ("categorical", features.categorical),
        ("date", features.dates),
        ("tensor", features.tensor),
    ):
        for name in names:
            if name in uses and name not in features.derived:
                uses[name].append(use)
    for name, derived in features.derived.items():
        for column in derived.inputs:
            uses[column].append(f"input of {name}")
    return uses


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Arrays in cells as lists, as MLflow's JSON wants them."""
    return rows.map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)
