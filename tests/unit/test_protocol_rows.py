"""Rows of named columns, and labels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from protocol_cases import EXPECTED, JSON, ROWS, STAMP, answer, numbers_only, rules, same_columns, schema

from raymlops.config.serving import Limits
from raymlops.serving.protocol import Label, ProtocolError, Rules, match, parse, parse_feedback, parse_rows


def parsed(content: Any, by: Rules | None = None, **headers: str) -> Any:
    return parse_rows(json.dumps(content).encode(), headers, by or rules())


def test_many_rows_and_one() -> None:
    request = parsed({"rows": ROWS, "id": "7", "parameters": {"key": "u"}})
    assert (request.rows, request.id, request.key) == (2, "7", "u")
    same_columns(request.columns, EXPECTED)
    single = parsed(ROWS[0])
    assert single.rows == 1 and single.columns["carrier"] == ["UA"]


def test_a_request_knows_how_large_it_was() -> None:
    body = json.dumps({"rows": ROWS}).encode()
    assert parse(match("POST", "/v2/models/flights/rows"), body, {}, rules()).size == len(body)


def test_rows_may_hold_the_key() -> None:
    assert parsed({"rows": [{"x": 1, "user": "u"}]}, numbers_only("x")).key == "u"


def test_a_column_may_be_called_rows() -> None:
    assert parsed({"rows": 3}, numbers_only("rows")).columns["rows"].tolist() == [3.0]
    assert parsed({"rows": [{"rows": 3}]}, numbers_only("rows")).columns["rows"].tolist() == [3.0]


def test_tensors_nested_or_in_one_list() -> None:
    rows = [{**ROWS[0], "pixels": [1, 2, 3, 4]}, {**ROWS[1], "pixels": [0.5, 0, 0, 1]}]
    same_columns(parsed({"rows": rows}).columns, EXPECTED)


WRONG = {"pixels": [[1, 2], [float("nan"), 4]]} | dict.fromkeys(set(ROWS[0]) - {"pixels"}, float("nan"))


@pytest.mark.parametrize("name", sorted(ROWS[0]))
@pytest.mark.parametrize("row", [0, 1])
def test_nan_is_refused_in_every_kind_of_column_and_every_form(name: str, row: int) -> None:
    rows = [{**found, name: WRONG[name]} if i == row else found for i, found in enumerate(ROWS)]
    table = {"columns": list(ROWS[0]), "data": [list(found.values()) for found in rows]}
    lists = {column: [found[column] for found in rows] for column in ROWS[0]}
    forms = [("/v2/models/trip/rows", {"rows": rows})]
    forms += [("/invocations", {form: rows}) for form in ("dataframe_records", "instances")]
    forms += [("/invocations", {"dataframe_split": table}), ("/invocations", {"inputs": lists})]
    for path, content in forms:
        with pytest.raises(ProtocolError) as caught:
            parse(match("POST", path), json.dumps(content).encode(), JSON, rules())
        assert (caught.value.status, caught.value.field) == (400, name), path
        assert f"column {name!r}, row {row}" in caught.value.message


def test_nan_means_missing_where_it_may() -> None:
    rows = [ROWS[0], {**ROWS[1], "distance": float("nan"), "carrier": float("nan")}]
    same_columns(parsed({"rows": rows}, rules(nan_is_missing=True)).columns, EXPECTED)


def test_the_reply_has_one_object_per_row() -> None:
    content = json.loads(parsed({"rows": ROWS, "id": "7"}).encode(answer(2, schema()), STAMP).body)
    assert content["rows"] == [{"prediction": "yes", "probability_no": 0.5, "probability_yes": 0.5}] * 2
    assert (content["model_version"], content["id"]) == ("3", "7")
    assert content["parameters"] == {"variant": "champion", "prediction_id": "p-1"}
    numbers = parsed({"x": 1}, numbers_only("x")).encode({"prediction": np.array([0.1])}, STAMP)
    assert json.loads(numbers.body)["rows"] == [{"prediction": 0.1}]


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        ([{"x": 1}], 400, 'found a list of 1 values, expected {"rows"'),
        ({}, 400, "column 'x': missing; found none"),
        ({"rows": 1}, 400, "rows: found 1, expected a list of rows"),
        ({"rows": []}, 400, "rows: found no rows"),
        ({"rows": [{"x": 1}] * 51}, 413, "found 51 rows, expected at most 50"),
        ({"rows": [{"x": 1}, [1]]}, 400, "rows, row 1: found a list of 1 values, expected an object"),
        ({"rows": [{"x": 1}], "q": 1}, 400, "'q': unknown beside rows"),
        ({"rows": [{"x": 1}], "id": 1}, 400, "id: found 1, expected text"),
        ({"rows": [{"x": 1}, {"y": 1}]}, 400, "column 'y': unknown; the model takes x"),
        ({"x": 1, "y": 1}, 400, "column 'y': unknown"),
        ({"x": {"a": 1}}, 400, "column 'x', row 0: found an object of 1 fields, expected a number"),
    ],
)
def test_refusals(content: Any, status: int, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed(content, numbers_only("x"))
    assert caught.value.status == status and says in caught.value.message


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (None, "found null, expected an array of shape [2, 2]"),
        ([1, 2, 3], "found a list of 3 values, expected an array of shape [2, 2]"),
        ([[1, 2], [3, "4"]], "found '4', expected an array"),
        ([[1, 2], [3, None]], "found null, expected an array"),
        ([[1, 2], 3], "found 3, expected an array"),
        ([[1, 2], [3, [4]]], "found a list of 1 values"),
        ([[1, 2], [3, 1e39]], "found 1e+39, expected finite numbers"),
    ],
)
def test_arrays_that_do_not_fit(pixels: Any, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed({"rows": [ROWS[0], {**ROWS[1], "pixels": pixels}]})
    assert f"column 'pixels', row 1: {says}" in caught.value.message and caught.value.status == 400


def labels(content: Any, by: Rules | None = None, **headers: str) -> list[Label]:
    body = json.dumps(content).encode()
    return parse_feedback(body, {**JSON, **headers}, by or numbers_only("x"))


def test_labels_by_prediction_and_by_key() -> None:
    found = labels(
        {
            "labels": [
                {"prediction_id": "p", "label": 3},
                {"key": 7, "label": 0.5, "at": "2024-03-01T00:00:00+00:00"},
                {"key": "u", "label": -1e300, "at": 1_700_000_000},
                {"key": "u", "label": 1, "at": "2024-03-01"},
            ]
        }
    )
    assert found == [
        Label("p", None, 3.0, None),
        Label(None, "7", 0.5, 1709251200.0),
        Label(None, "u", -1e300, 1700000000.0),
        Label(None, "u", 1.0, 1709251200.0),
    ]


def test_labels_of_classes_are_canonical_text() -> None:
    entries = [{"key": "u", "label": label} for label in ("yes", 3, 3.0, True)]
    assert [label.label for label in labels({"labels": entries}, rules())] == ["yes", "3", "3", "true"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (1, "labels[0]: found 1, expected an object"),
        ({"label": 1}, "found neither prediction_id and key"),
        ({"label": 1, "key": "u", "prediction_id": "p"}, "found both prediction_id and key"),
        ({"key": "u"}, "labels[0].label: found null, expected a finite number"),
        ({"key": "u", "label": "1"}, "found '1', expected a finite number"),
        ({"key": "u", "label": True}, "found true, expected a finite number"),
        ({"key": "u", "label": float("nan")}, "found nan, expected a finite number"),
        ({"key": "", "label": 1}, "labels[0].key: found '', expected text"),
        ({"key": [1], "label": 1}, "labels[0].key: found a list of 1 values"),
        ({"key": "u", "label": 1, "when": 1}, "labels[0].when: unknown"),
        ({"key": "u", "label": 1, "at": "noon"}, "labels[0].at: found 'noon', expected a time since 1970"),
        ({"key": "u", "label": 1, "at": -1}, "labels[0].at: found -1"),
        ({"key": "u", "label": 1, "at": 1e300}, "labels[0].at: found 1e+300"),
        ({"key": "u", "label": 1, "at": True}, "labels[0].at: found true"),
        ({"key": "u", "label": 1, "at": float("nan")}, "labels[0].at: found nan"),
    ],
)
def test_wrong_labels(entry: Any, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        labels({"labels": [entry]})
    assert caught.value.status == 400 and says in caught.value.message


@pytest.mark.parametrize("label", [None, [], {}, "", float("inf")])
def test_wrong_classes(label: Any) -> None:
    with pytest.raises(ProtocolError, match="expected a class"):
        labels({"labels": [{"key": "u", "label": label}]}, rules())


def test_bounds_of_feedback() -> None:
    entry = {"key": "u", "label": 1}
    for content, status in (
        ({"labels": [entry] * 51}, 413),
        ({"labels": []}, 400),
        ({"labels": entry}, 400),
        ({"labels": [entry], "more": 1}, 400),
        ({"labels": [{**entry, "key": "k" * 5000}]}, 422),
    ):
        with pytest.raises(ProtocolError) as caught:
            labels(content)
        assert caught.value.status == status
    with pytest.raises(ProtocolError) as caught:
        labels({"labels": [{"key": "u", "label": "y" * 5000}]}, rules(limits=Limits()))
    assert caught.value.status == 422


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_pages_of_other_sites_cannot_send_labels(media: str) -> None:
    """A browser sends these types without asking the endpoint first."""
    with pytest.raises(ProtocolError) as caught:
        labels({"labels": [{"key": "u", "label": 1}]}, **{"content-type": media})
    assert caught.value.status == 415
    with pytest.raises(ProtocolError):
        parse_feedback(b"{}", {}, rules())
