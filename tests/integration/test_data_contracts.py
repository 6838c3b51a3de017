"""Contracts stop a snapshot or move rows aside."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lab import NOW, Lab, contract_file, refused
from snapshot_cases import config, replaced, trips, with_cell

from raymlops.data.checks import ContractViolated
from raymlops.data.split import PARTS
from raymlops.features.state import MISSING, UNKNOWN
from raymlops.features.transform import Transform


def edit(lab: Lab, *replacements: tuple[str, str]) -> None:
    text = contract_file(lab).read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    contract_file(lab).write_text(text)


def test_a_broken_contract_stops_with_everything_one_needs_to_know(lab: Lab) -> None:
    lab.build(data={"contract": {"keys": ["id"]}})
    later = with_cell(trips(), "stops", 3, 40)
    later = with_cell(with_cell(later, "stops", 200, -7), "minutes", 11, None)
    later = replaced(later, "carrier", [None] * 100 + later.column("carrier").to_pylist()[100:], pa.string())
    lab.parquet(later)
    with pytest.raises(ContractViolated) as caught:
        lab.build(data={"contract": {"keys": ["id"]}})
    assert caught.value.exit_code == 3
    found = {(v.column, v.check): v for v in caught.value.violations}
    assert set(found) == {("stops", "max"), ("stops", "min"), ("minutes", "missing"), ("carrier", "null fraction")}
    most = found["stops", "max"]
    assert (most.threshold, most.observed) == ("<= 4.5", "1 of 240 rows")
    assert [(e["id"], e["stops"]) for e in most.examples] == [(1003, 40)]
    assert str(contract_file(lab)) in str(caught.value)
    assert "stops: max: allowed <= 4.5, observed 1 of 240 rows; for example {" in str(caught.value)
    assert "carrier: null fraction: allowed <= " in str(caught.value)


def test_a_changed_schema_stops(lab: Lab) -> None:
    lab.build()
    lab.parquet(replaced(trips(), "stops", ["one"] * 240).drop_columns(["late"]))
    message = refused(lab, ContractViolated)
    assert "late: schema: allowed a column of kind boolean, observed no such column" in message
    assert "stops: schema: allowed kind integer, observed kind string" in message


def test_closed_categories_stop_and_open_ones_are_reported(lab: Lab) -> None:
    lab.build()
    later = with_cell(trips(), "carrier", 239, "ZZ")
    lab.parquet(later)
    built = lab.build()
    assert built.new_categories == {"carrier": ["ZZ"]}
    transform = Transform(config().features, built.snapshot.state(), "regression", {})
    holdout = built.snapshot.table("holdout")
    codes = transform.batch(holdout)["categorical"][:, 0]
    assert [codes[i] for i, c in enumerate(holdout.column("carrier").to_pylist()) if c == "ZZ"] == [UNKNOWN]
    assert {int(codes[i]) for i, c in enumerate(holdout.column("carrier").to_pylist()) if c is None} <= {MISSING}
    edit(lab, ("categories: [AA, B6, UA, Ünïted]", "categories: [AA, B6, UA, Ünïted], closed: true"))
    message = refused(lab, ContractViolated)
    assert "carrier: category: allowed one of AA, B6, UA, Ünïted, observed 1 of 240 rows" in message
    assert '"carrier": "ZZ"' in message


def test_repeated_keys(lab: Lab) -> None:
    keys = {"data": {"contract": {"keys": ["id"]}}}
    later = with_cell(with_cell(trips(), "id", 100, 1007), "id", 201, 1007)
    lab.parquet(later.slice(0, 120))
    lab.parquet(later.slice(120), "rows/other.parquet")
    first = refused(lab, ContractViolated, **keys)
    assert "id: unique: allowed one row per key, observed 2 of 240 rows repeat the key of another" in first
    assert '{"id": 1007}' in first and not contract_file(lab).exists()


def test_volume_and_freshness(lab: Lab) -> None:
    lab.build(data={"contract": {"max_age": "P1D"}})
    message = refused(lab, ContractViolated, now=NOW + timedelta(days=7))
    assert "at: freshness: allowed newest row at most 1 day, 0:00:00 old, observed 7 days, 12:30:00 old" in message
    every_third = trips().take(pa.array(range(0, 240, 3)))
    lab.parquet(every_third)
    assert "(rows): volume: allowed >= 120 rows, observed 80 rows" in refused(lab, ContractViolated)


def test_a_broken_contract_file_is_a_configuration_error(lab: Lab) -> None:
    from raymlops.errors import ConfigError

    lab.build()
    edit(lab, ("min_rows", "min_row"))
    assert refused(lab, ConfigError) == f"{contract_file(lab)}: min_row: unknown key; did you mean 'min_rows'?"


def test_a_contract_beside_the_configuration(lab: Lab) -> None:
    place = {"data": {"contract": {"path": "checks/trips.yaml"}}}
    lab.build(**place)
    path = lab.base / "checks" / "trips.yaml"
    path.write_text(path.read_text().replace("max: 4.5", "max: 2"))
    assert f"the data breaks the contract {path}:\n  stops: max: allowed <= 2" in refused(
        lab, ContractViolated, **place
    )


QUARANTINE = {"contract": {"action": "quarantine", "max_quarantined": 0.05, "keys": ["id"]}}


def test_offending_rows_are_moved_aside_counted_and_kept(lab: Lab) -> None:
    lab.parquet(with_cell(trips(), "minutes", 5, None))
    assert lab.build(data=QUARANTINE).quarantined == 1  # already of the rows that the contract is inferred from
    later = with_cell(with_cell(trips(), "stops", 3, 40), "minutes", 3, None)
    later = with_cell(with_cell(later, "minutes", 200, 1e9), "at", 10, None)
    lab.parquet(later.slice(0, 100))
    lab.parquet(later.slice(100), "rows/other.parquet")
    built = lab.build(data=QUARANTINE)
    assert built.quarantined == 3 and built.snapshot.manifest["quarantined"] == 3
    assert sum(built.snapshot.rows.values()) == 237
    aside = pq.read_table(str(built.quarantine_path)).sort_by("id").to_pylist()
    assert {row["id"]: row["_violation"] for row in aside} == {
        1003: "minutes: missing; stops: max",
        1010: "at: missing",
        1200: "minutes: max",
    }
    assert aside[0]["stops"] == 40
    kept = {row for part in PARTS for row in built.snapshot.table(part).column("id").to_pylist()}
    assert kept == set(range(1000, 1240)) - {1003, 1010, 1200}
    lab.parquet(trips().filter(pa.array([i not in (3, 10, 200) for i in range(240)])))
    (lab.base / "rows" / "other.parquet").unlink()
    assert lab.build(data=QUARANTINE).reused  # the same content as without the rows


def test_too_many_offending_rows_stop_the_run(lab: Lab) -> None:
    lab.build(data=QUARANTINE)
    lab.parquet(replaced(trips(), "stops", [40] * 13 + trips().column("stops").to_pylist()[13:], pa.int64()))
    message = refused(lab, ContractViolated, data=QUARANTINE)
    assert "stops: max: allowed <= 4.5, observed 13 of 240 rows; for example {" in message
    assert "(rows): quarantine: allowed at most 5.00% of rows moved aside" in message and "5.42% (13 of 240)" in message
    folder = message.rpartition("the rows moved aside are in ")[2]
    assert pq.read_table(folder).num_rows == 13
