"""The binary tensor extension, against tritonclient's own encoder and decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_cases import STAMP, Server, column, post, rules

from raymlops.serving.protocol import ModelSchema, Rules, parse_infer

tritonclient = pytest.importorskip("tritonclient.http")
from tritonclient.utils import np_to_triton_dtype  # noqa: E402

KINDS = {"n": "number", "t": "text", "x": "tensor"}
SCHEMA = ModelSchema(
    "trip",
    ("3",),
    "multiclass",
    {
        "n": column("n", "number"),
        "t": column("t", "text"),
        "x": column("x", "tensor", shape=(2, 3)),
    },
    ("no", "yes", "perhaps"),
)
NUMERIC = [
    np.bool_,
    *(np.dtype(f"{k}{b}").type for k in "ui" for b in (1, 2, 4, 8)),
    np.float16,
    np.float32,
    np.float64,
]


def request(arrays: dict[str, np.ndarray], binary: list[bool], outputs: Any = None, **more: Any) -> tuple[bytes, Any]:
    inputs = []
    for (name, array), each in zip(arrays.items(), binary, strict=True):
        tensor = tritonclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        inputs.append(tensor.set_data_from_numpy(array, binary_data=each))
    return tritonclient.InferenceServerClient.generate_request_body(inputs, outputs=outputs, **more)


def received(body: bytes, length: Any, by: Rules) -> Any:
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    return parse_infer(body, headers, by)


texts = st.text(max_size=12).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(NUMERIC),
    values=st.lists(st.integers(0, 100), min_size=1, max_size=5),
    words=st.lists(texts, min_size=5, max_size=5),
    binary=st.lists(st.booleans(), min_size=3, max_size=3),
    wide=st.booleans(),
)
def test_what_the_client_sends_is_what_the_model_gets(
    kind: type, values: list[int], words: list[str], binary: list[bool], wide: bool
) -> None:
    n = len(values)
    numbers, tensor = np.array(values).astype(kind), (np.arange(n * 6).reshape(n, 2, 3) % 7).astype(kind)
    labels = np.array([word.encode() for word in words[:n]], dtype=object)
    shape = (n, 1) if wide else (n,)
    arrays = {"n": numbers.reshape(shape), "t": labels.reshape(shape), "x": tensor}
    found = received(*request(arrays, binary), rules(schema=SCHEMA))
    np.testing.assert_array_equal(found.columns["n"], numbers.astype(np.float64))
    np.testing.assert_array_equal(found.columns["x"], tensor.astype(np.float32))
    assert found.columns["t"] == words[:n]
    assert found.columns["x"].flags.writeable


def test_json_and_binary_say_the_same_for_every_float() -> None:
    for kind in (np.float16, np.float32, np.float64):
        numbers = np.random.default_rng(0).normal(size=20).astype(kind)
        by = rules(schema=ModelSchema("trip", ("3",), "regression", {"n": column("n", "number")}))
        both = [received(*request({"n": numbers}, [flag]), by).columns["n"] for flag in (True, False)]
        assert both[0].tobytes() == both[1].tobytes() == numbers.astype(np.float64).tobytes()


ANSWER: dict[str, Any] = {
    "prediction": np.array(["yes", "pe\u00dfh", ""], dtype=object),
    "probability_no": np.array([0.1, 0.2, 0.3]),
    "probability_yes": np.array([0.5, 0.1, 1 / 3]),
    "probability_perhaps": np.array([0.4, 0.7, 0.0]),
}


@pytest.mark.parametrize("flags", [None, (True, True), (False, True), (True, False), (False, False)])
def test_the_client_reads_what_was_answered(flags: Any) -> None:
    wanted = None
    if flags is not None:
        names = ("probability_yes", "prediction")
        wanted = [tritonclient.InferRequestedOutput(n, binary_data=f) for n, f in zip(names, flags, strict=True)]
    arrays = {"n": np.arange(3.0), "t": np.array([b"a"] * 3, dtype=object), "x": np.ones((3, 2, 3))}
    parsed = received(*request(arrays, [True] * 3, wanted, request_id="7"), rules(schema=SCHEMA))
    reply = parsed.encode(ANSWER, STAMP)
    length = reply.headers.get("inference-header-content-length")
    result = tritonclient.InferenceServerClient.parse_response_body(
        reply.body, header_length=None if length is None else int(length)
    )
    assert (length is None) == (flags == (False, False))
    about = result.get_response()
    assert (about["model_name"], about["model_version"], about["id"]) == ("trip", "3", "7")
    assert len(about["outputs"]) == (4 if flags is None else 2)
    np.testing.assert_array_equal(result.as_numpy("probability_yes"), ANSWER["probability_yes"])
    labels = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("prediction")]
    assert labels == ANSWER["prediction"].tolist()
    assert (result.as_numpy("probability_no") is None) == (flags is not None)


def test_errors_have_the_field_that_the_client_shows() -> None:
    status, reply = post(Server(rules(schema=SCHEMA)), "/v2/models/trip/infer", {"inputs": []})
    assert status == 400 and isinstance(reply["error"], str)
