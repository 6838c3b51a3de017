"""Open Inference Protocol v2: binary tensors, replies, and the key of a request."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from protocol_cases import STAMP, answer, column, infer_body, numbers_only, one, parsed, refusal, rules

from raymlops.config.serving import AssignmentKey
from raymlops.serving.protocol import ModelSchema, ProtocolError, parse_infer
from raymlops.serving.protocol.datatypes import DATATYPES, read_bytes_elements, write_bytes_elements

WIDTHS = [name for name in DATATYPES if name not in ("BOOL", "BYTES")]


class TestBinary:
    def body(self, header: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
        encoded = json.dumps(header).encode()
        return encoded + b"".join(parts), {"inference-header-content-length": str(len(encoded))}

    def declared(self, size: Any, datatype: str = "FP64", shape: Any = (2,)) -> dict[str, Any]:
        parameters = {"binary_data_size": size}
        return {"inputs": [{"name": "x", "shape": list(shape), "datatype": datatype, "parameters": parameters}]}

    @pytest.mark.parametrize("name", [*WIDTHS, "BOOL"])
    def test_every_datatype(self, name: str) -> None:
        values = np.array([0, 1, 1], dtype=DATATYPES[name].dtype)
        body, headers = self.body(self.declared(values.nbytes, name, [3]), values.tobytes())
        assert parse_infer(body, headers, numbers_only("x")).columns["x"].tolist() == [0.0, 1.0, 1.0]

    @pytest.mark.parametrize(
        ("header", "parts", "says"),
        [
            ((16,), [b"\0" * 15], "found 15 bytes of binary data, expected 16"),
            ((16,), [b"\0" * 17], "found 1 bytes of binary data that no input declares"),
            ((15,), [b"\0" * 15], "found 15 bytes, expected 16 (2 × FP64)"),
            ((-1,), [], "found binary_data_size -1, expected a number of bytes"),
            ((True,), [], "found binary_data_size true"),
            ((16,), [struct.pack("<dd", 1.0, np.inf)], "row 1: found inf, expected a finite number or null"),
            ((16, "BYTES"), [b"\0" * 16], "found datatype BYTES"),
        ],
    )
    def test_refusals(self, header: tuple[Any, ...], parts: list[bytes], says: str) -> None:
        body, headers = self.body(self.declared(*header), *parts)
        with pytest.raises(ProtocolError) as caught:
            parse_infer(body, headers, numbers_only("x"))
        assert caught.value.status == 400 and says in caught.value.message

    @pytest.mark.parametrize("length", ["x", "-1", "", "1000000", "1e3", "9" * 30, "²"])
    def test_bad_header_lengths(self, length: str) -> None:
        error = refusal(b"{}", numbers_only("x"), **{"inference-header-content-length": length})
        assert error.status == 400 and error.field == "inference-header-content-length"

    def test_binary_data_needs_the_header(self) -> None:
        assert "without the header" in str(refusal(self.declared(16), numbers_only("x")))

    @pytest.mark.parametrize("name", ["FP64", "FP32", "FP16"])
    def test_nan_is_refused_unless_it_means_missing(self, name: str) -> None:
        values = np.array([1.0, np.nan], dtype=DATATYPES[name].dtype)
        body, headers = self.body(self.declared(values.nbytes, name), values.tobytes())
        with pytest.raises(ProtocolError, match="column 'x', row 1: found nan, expected a finite number or null"):
            parse_infer(body, headers, numbers_only("x"))
        lenient = numbers_only("x", nan_is_missing=True)
        assert np.isnan(parse_infer(body, headers, lenient).columns["x"]).tolist() == [False, True]

    def test_texts(self) -> None:
        texts = ["", "UA", "Zürich 🚲"]
        assert read_bytes_elements(write_bytes_elements(texts), 3, "x") == texts

    @pytest.mark.parametrize(
        ("data", "count", "says"),
        [
            (b"", 1, "found 0 bytes, expected 1 BYTES elements"),
            (b"\0\0\0\0\0", 1, "found 1 bytes after 1 BYTES elements"),
            (b"\xff\xff\xff\xff", 1, "found a length of 4294967295 bytes where 0 are left"),
            (b"\0\0\0\0\1\0\0\0", 2, "found a length of 1 bytes where 0 are left"),
            (b"\4\0\0\0abcd\0", 2, "found 1 BYTES elements, expected 2"),
            (b"\1\0\0\0\xff", 1, "element 0: not UTF-8 text"),
            (b"", 10**12, "expected 1000000000000 BYTES elements"),
        ],
    )
    def test_malformed_texts(self, data: bytes, count: int, says: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            read_bytes_elements(data, count, "x")
        assert caught.value.status == 400 and says in caught.value.message


class TestReply:
    def test_all_outputs_in_order_when_none_is_requested(self) -> None:
        request = parsed(infer_body())
        reply = request.encode(answer(2, rules().schema), STAMP)
        assert reply.headers == {"content-type": "application/json"}
        assert json.loads(reply.body) == {
            "model_name": "trip",
            "model_version": "3",
            "id": "42",
            "parameters": {"variant": "champion", "prediction_id": "p-1"},
            "outputs": [
                {"name": "prediction", "datatype": "BYTES", "shape": [2], "data": ["yes", "yes"]},
                {"name": "probability_no", "datatype": "FP64", "shape": [2], "data": [0.5, 0.5]},
                {"name": "probability_yes", "datatype": "FP64", "shape": [2], "data": [0.5, 0.5]},
            ],
        }

    def test_requested_outputs_only(self) -> None:
        request = parsed(infer_body(outputs=[{"name": "probability_yes"}], id=None))
        content = json.loads(request.encode(answer(2, rules().schema), STAMP).body)
        assert [output["name"] for output in content["outputs"]] == ["probability_yes"]
        assert "id" not in content

    @pytest.mark.parametrize("rows", [1, 16, 17, 40])
    def test_numbers_come_back_exactly(self, rows: int) -> None:
        request = parsed(one([1.0] * rows), numbers_only("x"))
        values = np.random.default_rng(rows).normal(size=2 * rows)[::2]
        content = json.loads(request.encode({"prediction": values}, STAMP).body)
        assert content["outputs"][0]["data"] == values.tolist()


class TestKey:
    by = rules(
        schema=ModelSchema("trip", ("3",), "regression", {"x": column("x", "number")}), key=AssignmentKey(column="user")
    )

    def content(self, parameter: Any = None, users: Any = None) -> dict[str, Any]:
        content = one([1.0])
        if users is not None:
            content["inputs"].append({"name": "user", "shape": [1], "datatype": "BYTES", "data": users})
        return content if parameter is None else {**content, "parameters": {"key": parameter}}

    def test_header_then_parameter_then_column(self) -> None:
        everything = self.content("p", ["c"])
        assert parsed(everything, self.by, **{"x-raymlops-key": "h"}).key == "h"
        assert parsed(everything, self.by).key == "p"
        assert parsed(self.content(7), self.by).key == "7"
        request = parsed(self.content(users=["c"]), self.by)
        assert request.key == "c" and request.columns.keys() == {"x"}
        assert parsed(self.content(users=[None]), self.by).key is None
        assert parsed(self.content(), self.by).key is None

    def test_a_column_of_the_model_may_be_the_key_and_stays(self) -> None:
        request = parsed(one([7.0]), numbers_only("x", key=AssignmentKey(column="x")))
        assert request.key == "7" and request.columns["x"].tolist() == [7.0]

    def test_the_name_of_the_header_has_no_case(self) -> None:
        by = numbers_only("x", key=AssignmentKey(header="X-User"))
        assert parsed(one([1.0]), by, **{"x-user": "u"}).key == "u"
