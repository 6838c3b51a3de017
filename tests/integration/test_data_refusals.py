"""Data that no snapshot can be made of, and what is said about it."""

from __future__ import annotations

import pyarrow as pa
from lab import Lab, contract_file, refused
from snapshot_cases import replaced, trips, with_cell

from raymlops.data.checks import ContractViolated

BY_HASH = {"split!": {"by": "hash", "key": "id", "validation": 0.2, "holdout": 0.2}}


def test_a_missing_label_column_is_named(lab: Lab) -> None:
    lab.parquet(trips().drop_columns(["minutes"]))
    assert refused(lab) == (
        "data: there is no column 'minutes', the label column; found at, carrier, distance, id, late, stops"
    )


def test_a_missing_feature_column_is_named(lab: Lab) -> None:
    lab.parquet(trips().drop_columns(["carrier"]))
    assert "data: there is no column 'carrier', which the configuration uses; found at, distance" in refused(lab)


def test_rows_without_a_label_stop_the_run(lab: Lab) -> None:
    lab.parquet(with_cell(with_cell(trips(), "minutes", 5, None), "minutes", 9, float("nan")))
    message = refused(lab, ContractViolated)
    assert "minutes: missing: allowed no missing values, observed 2 of 240 rows; for example {" in message
    assert not contract_file(lab).exists()


def test_a_column_without_values(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "distance", [None] * 240, pa.float64()))
    assert refused(lab) == "features.numeric.distance: all 144 training rows are missing (or infinite)"
    lab.parquet(replaced(trips(), "carrier", pa.nulls(240)))
    assert refused(lab) == "features.categorical.carrier: all 144 training rows are missing"
    lab.parquet(replaced(trips(), "distance", [float("nan")] * 240))
    assert "all 144 training rows are missing (or infinite)" in refused(lab)
    unused = trips().append_column("note", pa.nulls(240))
    lab.parquet(unused)
    assert lab.build().snapshot.manifest["columns"]["note"] == "null"


def test_one_file_of_many_without_values_is_fine(lab: Lab) -> None:
    half = trips().slice(0, 60)
    lab.parquet(replaced(half, "carrier", pa.nulls(60)), "rows/part.parquet")
    lab.parquet(replaced(trips().slice(60, 60), "carrier", pa.nulls(60, pa.string())), "rows/a.parquet")
    lab.parquet(trips().slice(120), "rows/b.parquet")
    snapshot = lab.build().snapshot
    assert snapshot.manifest["columns"]["carrier"] == "string"
    assert snapshot.table("train").column("carrier").type == pa.string()


def test_text_in_a_numeric_column(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "distance", ["far"] * 240))
    assert refused(lab).startswith(
        "data.source: features.numeric.distance: column 'distance' is string (such as 'far'), expected numbers"
    )


def test_times_that_are_none(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "at", ["soon"] * 240))
    assert refused(lab).startswith("data.source: column 'at', row 0: found 'soon', expected a time (ISO 8601)")


def test_an_empty_part_of_the_split(lab: Lab) -> None:
    message = refused(lab, data={"split": {"validation_from": "2025-01-01", "holdout_from": "2025-02-01"}})
    assert message == (
        "data.split: no rows fall into validation and holdout (240 train, 0 validation, 0 holdout, 0 outside start "
        "and end); at runs from 2024-01-01T00:00:00.000000 to 2024-01-05T23:30:00.000000; move the split's marks"
    )


def test_one_key_for_all_rows(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "id", [1] * 240))
    message = refused(lab, data=BY_HASH)
    assert message.startswith("data.split: no rows fall into ") and "there are too few keys for these shares" in message


def test_rows_without_a_time(lab: Lab) -> None:
    lab.parquet(with_cell(trips(), "at", 0, None))
    assert "at: missing: allowed no missing values, observed 1 of 240 rows" in refused(lab, ContractViolated)


def test_a_column_of_a_type_that_is_not_supported(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "extra", [{"a": 1}] * 240, pa.struct({"a": pa.int64()})))
    message = refused(lab)
    assert "column 'extra': type struct<a: int64> is not supported; " in message and "part.parquet)" in message


def test_labels_of_a_class_never_seen_in_training(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "minutes", ["short"] * 80 + ["long"] * 159 + ["endless"]))
    message = refused(lab, task="binary")
    assert message.startswith("holdout rows: label, row ") and message.endswith(
        "found 'endless', training saw only long, short"
    )


def test_binary_with_three_classes(lab: Lab) -> None:
    lab.parquet(replaced(trips(), "minutes", ["a", "b", "c"] * 80))
    assert refused(lab, task="binary") == ("label: task binary needs 2 classes, training rows have 3: ['a', 'b', 'c']")
