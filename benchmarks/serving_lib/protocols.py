"""The same content, one row of named columns, as each server wants it; and the prediction out of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Protocol:
    name: str
    path: str
    encode: Callable[[Row], bytes]
    decode: Callable[[Any], float]
    """From the decoded JSON of an answer."""


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tensor(name: str, value: Any) -> dict[str, Any]:
    kind = {str: "BYTES", int: "INT64"}.get(type(value), "FP64")
    return {"name": name, "shape": [1], "datatype": kind, "data": [value]}


def _v2(row: Row) -> bytes:
    return _compact({"inputs": [_tensor(name, value) for name, value in row.items()]})


def _split(row: Row) -> bytes:
    return _compact({"dataframe_split": {"columns": list(row), "data": [list(row.values())]}})


def _v2_prediction(answer: Any) -> float:
    [found] = [output for output in answer["outputs"] if output["name"] == "prediction"]
    return float(found["data"][0])


def plain(path: str) -> Protocol:
    """A JSON object of columns in, `{"prediction": …}` out."""
    return Protocol("JSON object of columns", path, _compact, lambda answer: float(answer["prediction"]))


def rows(model: str) -> Protocol:
    """raymlops: a JSON object of columns in, predictions by row out."""
    path = f"/v2/models/{model}/rows"
    return Protocol("JSON object of columns", path, _compact, lambda answer: float(answer["rows"][0]["prediction"]))


def open_inference(model: str) -> Protocol:
    """Open Inference Protocol v2: a tensor per column."""
    return Protocol("Open Inference v2", f"/v2/models/{model}/infer", _v2, _v2_prediction)


def invocations() -> Protocol:
    """MLflow's scoring protocol."""
    return Protocol(
        "dataframe_split", "/invocations", _split, lambda answer: float(answer["predictions"][0]["prediction"])
    )
