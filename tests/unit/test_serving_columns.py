"""Predictions from columns are those from a data frame; and which columns a version reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from registry_cases import config_of, example, make_package, user_files, with_user_code

from raymlops.config.tree import Config
from raymlops.errors import DataError, Refused
from raymlops.registry.package import ModelPackage, read_files
from raymlops.serving import packages
from raymlops.serving.document import ModelRef
from raymlops.serving.protocol import ModelSchema
from raymlops.store import Store


def columns_of(frame: pd.DataFrame, form: str) -> dict[str, Any]:
    if form == "lists":
        return {name: frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    arrays = {name: frame[name].to_numpy() for name in frame}
    arrays["pixels"] = np.array(frame["pixels"].tolist(), dtype=np.float32).reshape(-1, 2, 2)
    arrays["leaves"] = frame["leaves"].to_numpy().astype("datetime64[us]")
    return arrays


@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize("form", ["lists", "arrays"])
def test_columns_predict_what_a_frame_predicts(tmp_path: Path, task: str, form: str) -> None:
    config = with_user_code(config_of(task, tmp_path))
    package = make_package(tmp_path / "package", config, user_files(tmp_path / "user"))
    frame = example(package, 7)
    expected, found = package.predict(frame), package.predict_columns(columns_of(frame, form), len(frame))
    assert list(found) == list(expected)
    for name in expected:
        values = expected[name].to_numpy()
        if name == "prediction" and task != "regression":
            assert found[name].tolist() == values.tolist()
        else:
            assert found[name].dtype == np.float64
            np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_bad_columns_are_named(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", config_of("regression", tmp_path))
    columns = columns_of(example(package, 2), "lists")
    with pytest.raises(DataError, match="'zeta'"):
        package.predict_columns({**columns, "zeta": ["a", "b"]}, 2)
    with pytest.raises(DataError, match="'zeta': missing"):
        package.predict_columns({name: values for name, values in columns.items() if name != "zeta"}, 2)


def stored(store: Store, directory: Path, config: Config, version: str) -> tuple[ModelRef, ModelPackage]:
    package = make_package(directory, config)
    ref = ModelRef("trip.time", version, package.sha256)
    for path, data in read_files(directory).items():
        store.write(f"{ref.path}/{path}", data)
    return ref, package


def test_a_staged_version_says_what_it_reads_without_its_weights(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    ref, package = stored(store, tmp_path / "a", config_of("multiclass", tmp_path), "4")
    assert packages.schema(store, ref) == ModelSchema.of(package, "trip.time", ["4"])


def test_changes_of_requests_are_named_and_other_answers_refused(tmp_path: Path) -> None:
    store, plain = Store(str(tmp_path / "store")), config_of("regression", tmp_path)
    features = plain.features.model_dump(mode="json", by_alias=True)
    other = config_of("regression", tmp_path, features={**features, "numeric": {"zeta": {}}})
    one, _ = stored(store, tmp_path / "a", plain, "1")
    two, _ = stored(store, tmp_path / "b", other, "2")
    assert packages.changes(store, two, one) == ["it needs the column 'alpha', which requests need not have now"]
    assert packages.changes(store, one, two) == ["it does not know the column 'alpha', which requests have now"]
    classes, _ = stored(store, tmp_path / "c", config_of("multiclass", tmp_path), "3")
    with pytest.raises(Refused, match=r"version 3 answers with prediction, proba.* version 1, with prediction: "):
        packages.changes(store, one, classes)
