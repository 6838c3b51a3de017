"""/invocations against MLflow's own scoring server on the same package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from protocol_cases import (
    EXPECTED,
    JSON,
    ROWS,
    STAMP,
    Server,
    answer,
    column,
    numbers_only,
    post,
    rules,
    same_columns,
)
from registry_cases import config_of, example, make_package

from raymlops.config.serving import Limits
from raymlops.features.rows import Rows
from raymlops.registry.package import ModelPackage
from raymlops.serving.protocol import ModelSchema, ProtocolError, Rules, parse_invocations

NAMES = list(ROWS[0])
TABLE = [[row[name] for name in NAMES] for row in ROWS]


def parsed(content: Any, by: Rules | None = None, media: str = "application/json") -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_invocations(body, {"content-type": media}, by or rules())


@pytest.mark.parametrize(
    "content",
    [
        {"dataframe_split": {"columns": NAMES, "data": TABLE}},
        {"dataframe_split": {"columns": NAMES, "data": TABLE, "index": [7, 8]}},
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"instances": [[row[name] for name in rules().schema.columns] for row in ROWS]},
        {"inputs": ROWS},
        {"inputs": {name: [row[name] for row in ROWS] for name in NAMES}},
        {"inputs": {name: [row[name] for row in ROWS] for name in NAMES}, "params": {"temperature": 1}},
    ],
)
def test_every_form_gives_the_same_columns(content: Any) -> None:
    request = parsed(content)
    assert request.rows == 2
    same_columns(request.columns, EXPECTED)


def test_one_record_of_scalars() -> None:
    request = parsed({"inputs": {"x": 1, "y": None}}, numbers_only("x", "y"))
    assert request.rows == 1 and request.columns["x"].tolist() == [1.0]


def test_params_may_carry_the_key() -> None:
    assert parsed({"dataframe_records": [{"x": 1}], "params": {"key": "u"}}, numbers_only("x")).key == "u"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "found fields none, expected exactly one of dataframe_split, dataframe_records, instances, inputs"),
        ({"messages": []}, "found fields 'messages'"),
        ({"inputs": [], "instances": []}, "expected exactly one of"),
        ({"dataframe_split": []}, "dataframe_split: found a list of 0 values"),
        ({"dataframe_split": {"columns": ["x"]}}, "found the fields 'columns', expected an object of columns"),
        ({"dataframe_split": {"columns": ["x"], "data": [], "dtype": 1}}, "'dtype'"),
        ({"dataframe_split": {"data": [[1]]}}, "dataframe_split.columns: found null"),
        ({"dataframe_split": {"columns": ["x"], "data": {}}}, "dataframe_split.data: found an object of 0 fields"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1], [1, 2]]}}, "row 1: found a list of 2 values, expected 1"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1], 2]}}, "row 1: found 2, expected 1 values"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1]], "index": []}}, "index: found a list of 0 values"),
        ({"dataframe_split": {"columns": ["x", "x"], "data": [[1, 1]]}}, "column 'x': found twice"),
        ({"dataframe_split": {"columns": [["x"]], "data": [[1]]}}, "unknown; the model takes x"),
        ({"dataframe_split": {"columns": ["q"], "data": [[1]]}}, "column 'q': unknown; the model takes x"),
        ({"dataframe_records": {"x": [1]}}, "dataframe_records: found an object of 1 fields"),
        ({"dataframe_records": [1]}, "dataframe_records, row 0: found 1, expected an object"),
        ({"dataframe_records": []}, "found no rows"),
        ({"dataframe_records": [{"x": 1}, {}]}, "column 'x': missing from row 1"),
        ({"dataframe_records": [{}, {"x": 1}]}, "column 'x': missing from row 0"),
        ({"dataframe_records": [{"x": 1}, {"x": 1, "q": 1}]}, "column 'q': unknown"),
        ({"dataframe_records": [{"x": "1"}]}, "column 'x', row 0: found '1', expected a number"),
        ({"instances": [[1, 2]]}, "row 0: found a list of 2 values, expected 1"),
        ({"instances": 1}, "instances: found 1"),
        ({"inputs": {}}, "found no columns"),
        ({"inputs": {"x": [1], "q": [1]}}, "column 'q': unknown"),
        ({"inputs": {"x": []}}, "found no rows"),
        ({"inputs": {"x": [[1]]}}, "row 0: found a list of 1 values, expected a number"),
        ({"inputs": {"x": [1]}, "params": 1}, "params: found 1, expected an object"),
    ],
)
def test_refusals(content: Any, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed(content, numbers_only("x"))
    assert caught.value.status == 400 and says in caught.value.message


def test_columns_of_different_length() -> None:
    with pytest.raises(ProtocolError, match="column 'y': found 2 rows, expected 1 as before"):
        parsed({"inputs": {"x": [1], "y": [1, 2]}}, numbers_only("x", "y"))
    with pytest.raises(ProtocolError, match="column 'y': found 2, expected a list"):
        parsed({"inputs": {"x": [1], "y": 2}}, numbers_only("x", "y"))


class TestCsv:
    by = rules(
        schema=ModelSchema(
            "trip",
            ("3",),
            "regression",
            {c.name: c for c in (column("x", "number"), column("c", "text"), column("t", "time"))},
        )
    )

    def test_what_pandas_writes(self) -> None:
        frame = pd.DataFrame(
            {
                "x": [1.5, np.nan, 3],
                "c": ["a,b", 'say "hi"\nagain', None],
                "t": pd.to_datetime(["2024-03-01 08:30:00", None, "2024-03-02 00:00:00"]),
            }
        )
        found = parsed(frame.to_csv(index=False).encode(), self.by, "text/csv; charset=utf-8")
        same_columns(
            found.columns,
            {
                "x": frame["x"].to_numpy(),
                "c": ["a,b", 'say "hi"\nagain', None],
                "t": frame["t"].to_numpy().astype("datetime64[us]"),
            },
        )

    def test_booleans_and_missing_cells(self) -> None:
        found = parsed(b"\xef\xbb\xbfx,c,t\r\nTrue,NA,\r\n\r\nfalse,x,null\r\n", self.by, "text/csv").columns
        assert found["x"].tolist() == [1.0, 0.0] and found["c"] == [None, "x"] and np.isnat(found["t"]).all()

    @pytest.mark.parametrize(
        ("body", "status", "says"),
        [
            (b"", 400, "found no rows"),
            (b"x,c,t\n", 400, "found no rows"),
            (b"x,c,t\n1,a\n", 400, "row 0: found 2 values, expected 3"),
            (b"x,c,q\n1,a,b\n", 400, "column 'q': unknown"),
            (b"x,c\n1,a\n", 400, "column 't': missing"),
            (b"x,c,t,x\n1,a,,2\n", 400, "column 'x': found twice"),
            (b"x,c,t\none,a,\n", 400, "column 'x', row 0: found 'one', expected a number"),
            (b"x,c,t\n1_0,a,\n", 400, "found '1_0', expected a number"),
            (b"x,c,t\ninf,a,\n", 400, "found inf, expected a finite number"),
            (b"x,c,t\n1,a,noon\n", 400, "found 'noon', expected a time"),
            (b'x,c,t\n1,"a', 400, "not CSV"),
            (b"x,c,t\n1," + b"a" * 140_000, 413, "bytes"),
            (b"\xff", 400, "not UTF-8"),
            (b"x,c,t\n" + b"1,a,\n" * 51, 413, "found 51 rows, expected at most 50"),
        ],
    )
    def test_refusals(self, body: bytes, status: int, says: str) -> None:
        with pytest.raises(ProtocolError) as caught:
            parsed(body, self.by, "text/csv")
        assert caught.value.status == status and says in caught.value.message

    def test_long_fields_and_arrays(self) -> None:
        by = rules(limits=Limits(body_bytes=1_000_000))
        with pytest.raises(ProtocolError, match="field larger than field limit"):
            parsed(b"carrier\n" + b"a" * 200_000, by, "text/csv")
        with pytest.raises(ProtocolError, match="line 2: found 300000 characters, expected at most 262144"):
            parsed(b"carrier\n" + b"," * 300_000, by, "text/csv")
        with pytest.raises(ProtocolError, match="which CSV cannot hold"):
            parsed(b'pixels\n"[1, 2]"\n', by, "text/csv")


@pytest.mark.parametrize(
    "media",
    ["text/plain", "application/vnd.apache.parquet", "application/json; charset=latin-1", "text/csv; header=no"],
)
def test_other_content_types_are_415_as_with_mlflow(media: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed({"inputs": {"x": [1]}}, numbers_only("x"), media)
    assert caught.value.status == 415


def test_replies_and_errors_look_as_mlflow_writes_them() -> None:
    request = parsed({"dataframe_records": ROWS})
    content = json.loads(request.encode(answer(2, rules().schema), STAMP).body)
    record = {"prediction": "yes", "probability_no": 0.5, "probability_yes": 0.5}
    assert content == {"predictions": [record, record]}
    status, reply = post(Server(numbers_only("x")), "/invocations", {"inputs": {"x": ["a"]}})
    assert status == 400 and reply.keys() == {"error_code", "message", "field"}
    assert reply["error_code"] == "BAD_REQUEST"
    assert Server(rules()).respond("GET", "/ping", {}, b"")[:2] == (200, b"\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("protocol")


@pytest.fixture(scope="module")
def package(home: Path) -> ModelPackage:
    return make_package(home / "package", config_of("multiclass"))


@pytest.fixture(scope="module")
def served(package: ModelPackage, home: Path) -> Any:
    """The package as MLflow serves it."""
    import mlflow.pyfunc
    from mlflow.models import Model

    from raymlops.registry.pyfunc import save_model

    save_model(home / "model", package, home / "package", example(package), Model())
    return mlflow.pyfunc.load_model(str(home / "model"))


def of_mlflow(served: Any, body: bytes, media: str) -> Any:
    from mlflow.pyfunc.scoring_server import invocations

    reply = invocations(body, media, served, served.metadata.get_input_schema())
    assert reply.status == 200
    return json.loads(reply.response)


def of_ours(package: ModelPackage, body: bytes, media: str) -> Any:
    """Parsed here, with NaN for what is missing as MLflow takes it, and scored by the package."""
    by = Rules(ModelSchema.of(package, "trip.time", ["1"]), Limits(), nan_is_missing=True)
    request = parse_invocations(body, {"content-type": media}, by)
    frame = pd.DataFrame(
        {n: list(v) if isinstance(v, np.ndarray) and v.ndim > 1 else v for n, v in request.columns.items()}
    )
    predictions = package.predict(frame)
    return json.loads(request.encode({name: predictions[name].to_numpy() for name in predictions}, STAMP).body)


def forms(frame: pd.DataFrame) -> dict[str, bytes]:
    plain = frame.astype({"leaves": str})
    columns = {name: plain[name].tolist() for name in plain}
    split = {"columns": list(plain.columns), "data": plain.to_numpy().tolist()}
    records = plain.to_dict(orient="records")
    contents = {
        "dataframe_split": {"dataframe_split": split},
        "dataframe_records": {"dataframe_records": records},
        "instances": {"instances": records},
        "inputs": {"inputs": columns},
    }
    return {name: json.dumps(content).encode() for name, content in contents.items()}


@pytest.mark.parametrize("missing", [b"NaN", b"null"])
@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs"])
def test_the_same_body_gives_mlflows_predictions(form: str, missing: bytes, package: ModelPackage, served: Any) -> None:
    body = forms(example(package, 4))[form]
    assert b"NaN" in body
    body = body.replace(b"NaN", missing)
    theirs, ours = of_mlflow(served, body, "application/json"), of_ours(package, body, "application/json")
    assert len(ours["predictions"]) == 4
    for found, expected in zip(ours["predictions"], theirs["predictions"], strict=True):
        assert list(found) == list(expected)
        assert found["prediction"] == expected["prediction"]
        for name in found.keys() - {"prediction"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-6)


def test_what_comes_out_is_what_the_features_take(package: ModelPackage) -> None:
    by = Rules(ModelSchema.of(package, "trip.time", ["1"]), Limits())
    frame = example(package, 4)
    request = parse_invocations(forms(frame)["dataframe_records"].replace(b"NaN", b"null"), JSON, by)
    rows = Rows(request.columns, request.rows)
    np.testing.assert_array_equal(rows.numbers("alpha"), Rows.of(frame).numbers("alpha"))
    np.testing.assert_array_equal(rows.times("leaves"), Rows.of(frame).times("leaves"))
    np.testing.assert_array_equal(rows.tensors("pixels", (2, 2)), Rows.of(frame).tensors("pixels", (2, 2)))
    assert rows.texts("carrier").tolist() == Rows.of(frame).texts("carrier").tolist()


def test_a_schema_knows_how_derived_features_read_their_inputs(home: Path) -> None:
    from registry_cases import user_files, with_user_code

    package = make_package(home / "derived", with_user_code(config_of("binary")), user_files(home / "code"))
    found = ModelSchema.of(package, "trip.time", ["2"])
    assert {name: column.kind for name, column in found.columns.items()} == {
        "alpha": "number",
        "carrier": "text",
        "leaves": "time",
        "pixels": "tensor",
        "zeta": "number",
    }
    assert found.columns["pixels"].shape == (2, 2) and found.required == found.columns.keys()
    assert dict(found.outputs) == {"prediction": "BYTES", "probability_no": "FP64", "probability_yes": "FP64"}
