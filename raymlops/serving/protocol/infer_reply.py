"""Replies of the Open Inference Protocol v2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from raymlops.serving.protocol.datatypes import write_bytes_elements
from raymlops.serving.protocol.errors import JSON, Encoded
from raymlops.serving.protocol.request import Stamp

FEW = 16
"""Up to this many numbers a list is faster than handing orjson the array."""


@dataclass(slots=True)
class InferReply:
    """The outputs that were asked for: name, datatype, and whether it goes behind the JSON as binary data."""

    outputs: tuple[tuple[str, str, bool], ...]

    def encode(self, answer: Mapping[str, Any], stamp: Stamp, request_id: str | None) -> Encoded:
        """The inference response; with binary outputs, content-type and header as Triton sets them."""
        outputs, tail = [], []
        for name, datatype, binary in self.outputs:
            values = answer[name]
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
            if binary:
                data = write_bytes_elements(values) if datatype == "BYTES" else np.asarray(values, "<f8").tobytes()
                output["parameters"] = {"binary_data_size": len(data)}
                tail.append(data)
            else:
                output["data"] = json_values(values)
            outputs.append(output)
        content: dict[str, Any] = {"model_name": stamp.model_name, "model_version": stamp.model_version}
        if request_id is not None:
            content["id"] = request_id
        content["parameters"] = {"variant": stamp.variant, "prediction_id": stamp.prediction_id}
        content["outputs"] = outputs
        body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        if not tail:
            return Encoded(body, {"content-type": JSON})
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(body))}
        return Encoded(body + b"".join(tail), headers)


def json_values(values: Any) -> Any:
    """A column of an answer as orjson takes it fastest."""
    if isinstance(values, np.ndarray) and (len(values) <= FEW or values.dtype.kind not in "fiu"):
        return values.tolist()
    return np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values
