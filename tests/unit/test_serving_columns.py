"""Predictions from columns are those from a data frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from registry_cases import config_of, example, make_package, user_files, with_user_code

from raymlops.errors import DataError


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
