"""The pass over blocks and its merging, in this process: everything but Ray itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import BY_HASH, config_of, scanned, trips, with_value

from raymlops.data.block import BlockResult
from raymlops.data.checks import ContractViolated
from raymlops.data.contract import infer
from raymlops.data.files import PATH
from raymlops.data.scan import Scan, agreed_kinds
from raymlops.errors import DataError
from raymlops.store import Store, StoreError


def from_file(table: pa.Table, name: str) -> pa.Table:
    return table.append_column(PATH, pa.array([name] * table.num_rows).dictionary_encode())


def in_blocks(table: pa.Table, *cuts: int) -> list[pa.Table]:
    edges = [0, *cuts, table.num_rows]
    return [table.slice(low, high - low) for low, high in itertools.pairwise(edges)]


def test_blocks_of_any_size_give_the_same_scan(tmp_path: Path) -> None:
    whole = scanned(config_of(), tmp_path / "a", [trips()])
    cut = scanned(config_of(), tmp_path / "b", in_blocks(trips(), 1, 10, 333)[::-1])
    assert cut.content == whole.content
    assert cut.times == whole.times
    assert {part: sum(n for _, n in pieces) for part, pieces in cut.pieces.items()} == {
        part: sum(n for _, n in pieces) for part, pieces in whole.pieces.items()
    }
    assert whole.fit is not None and cut.fit is not None
    config = config_of()
    assert cut.fit.finish(config.features, config.task) == whole.fit.finish(config.features, config.task)


def test_a_result_survives_the_way_to_the_driver(tmp_path: Path) -> None:
    found = BlockResult(path="x", kinds={"a": ("integer", None)}, rows=3, violations={("a", "max"): (1, [{"a": 1}])})
    assert BlockResult.unpack(found.pack()).violations == found.violations


def test_only_training_rows_are_fitted(tmp_path: Path) -> None:
    table = trips()
    late = pa.array([day.as_py().month == 2 for day in table.column("day")])
    moved = table.set_column(2, "distance", pa.compute.if_else(late, 1e9, table.column("distance")))
    state = [
        scanned(config_of(), tmp_path, [t]).fit.finish(config_of().features, "regression")  # type: ignore[union-attr]
        for t in (table, moved)
    ]
    assert state[0] == state[1]


def test_rows_outside_the_window_are_counted_and_left_out(tmp_path: Path) -> None:
    config = config_of(data_split={**config_of().data.split.model_dump(), "start": "2030-01-11", "end": "2030-02-25"})
    found = scanned(config, tmp_path, [with_value(trips(), "minutes", 0, None), trips(50, seed=1)])
    assert found.excluded + found.rows + sum(n for n, _ in found.violations.values()) == 650
    assert 90 < found.excluded < 250
    assert found.times["train"][0] >= "2030-01-11" and found.times["holdout"][1] < "2030-02-25"
    assert found.times["all"][0] < "2030-01-11"


def test_text_and_numbers_in_one_column_name_the_file_and_a_value(tmp_path: Path) -> None:
    good = from_file(trips(20), "a.csv")
    words = trips(20).set_column(2, "distance", pa.array(["12", "n/a", *["7"] * 18]))
    for blocks in ([good, from_file(words, "b.csv")], [from_file(words, "b.csv"), good]):
        with pytest.raises(
            DataError, match=r"column 'distance' is string in b.csv \(such as '12'\), but number in a.csv"
        ):
            agreed_kinds(scanned(config_of(), tmp_path, blocks))


def test_integers_numbers_and_empty_columns_unify(tmp_path: Path) -> None:
    whole = trips(20).set_column(2, "distance", pa.array(range(20)))
    empty = trips(20).set_column(3, "carrier", pa.nulls(20))
    kinds = agreed_kinds(scanned(config_of(), tmp_path, [trips(20), whole, empty]))
    assert kinds["distance"] == "number" and kinds["carrier"] == "string"


def test_a_column_missing_in_one_file_is_named(tmp_path: Path) -> None:
    extra = trips(20).append_column("extra", pa.array(range(20)))
    for blocks in ([trips(20), extra], [extra, trips(20)]):
        named = [from_file(b, "full.csv" if "extra" in b.column_names else "thin.csv") for b in blocks]
        with pytest.raises(DataError, match=r"column 'extra' is missing in thin.csv, but present in full.csv"):
            agreed_kinds(scanned(config_of(), tmp_path, named))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "distance",
            ["far"] * 5,
            r"features.numeric.distance: column 'distance' is string \(such as 'far'\), expected num",
        ),
        ("minutes", ["5"] * 5, r"data.target: column 'minutes' is string \(such as '5'\), expected numbers"),
        ("day", ["soon"] * 5, r"column 'day', row 0: found 'soon', expected a time \(ISO 8601\)"),
    ],
)
def test_unusable_columns_are_named_with_their_file(
    tmp_path: Path, column: str, values: list[Any], message: str
) -> None:
    table = trips(5).drop_columns([column]).append_column(column, pa.array(values))
    error = scanned(config_of(), tmp_path, [from_file(table, "b.csv")]).error
    with pytest.raises(DataError, match=message):
        raise DataError(error or "")
    assert error is not None and error.endswith("(in b.csv)")


def test_offending_rows_are_counted_with_examples_and_not_used(tmp_path: Path) -> None:
    config = config_of(data_contract={"keys": ["id"]})
    profile = scanned(config, tmp_path, [trips()]).profile
    assert profile is not None
    contract = infer(profile, config)
    bad = with_value(with_value(trips(), "distance", 7, 99_999.0), "minutes", 8, None)
    found = scanned(config, tmp_path, [from_file(bad, "b.parquet")], contract)
    assert found.violations["distance", "max"] == (
        1,
        [{"id": 7, "day": bad.column("day")[7].as_py(), "distance": 99_999.0, "file": "b.parquet"}],
    )
    assert found.violations["minutes", "missing"][0] == 1
    assert found.rows == 598 and found.quarantined == 0


def test_quarantined_rows_stay_readable_with_their_reason(tmp_path: Path) -> None:
    config = config_of(data_contract={"action": "quarantine"})
    bad = with_value(with_value(trips(), "day", 7, None), "minutes", 8, float("nan"))
    found = scanned(config, tmp_path, [bad])
    (name,) = found.quarantine_files
    kept = pq.read_table(tmp_path / name)
    assert found.quarantined == kept.num_rows == 2 and found.rows == 598
    assert dict(zip(kept.column("id").to_pylist(), kept.column("_violation").to_pylist(), strict=True)) == {
        7: "day: missing",
        8: "minutes: missing",
    }


def test_rows_without_a_key_are_dealt_together(tmp_path: Path) -> None:
    table = with_value(with_value(trips(), "id", 0, None), "id", 1, None)
    assert scanned(config_of(data_split=BY_HASH), tmp_path, [table]).rows == 600


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match=r"cannot write .*staging/run/.*parquet: No space left on device"):
        scanned(config_of(), tmp_path, [trips()])
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_the_message_of_a_violated_contract_reads_as_a_list() -> None:
    from raymlops.data.checks import Violation

    error = ContractViolated(
        [Violation("distance", "max", "<= 10", "1 of 5 rows", ({"distance": 99},))], "contracts/trips.yaml"
    )
    assert str(error) == (
        "the data breaks the contract contracts/trips.yaml:\n"
        '  distance: max: allowed <= 10, observed 1 of 5 rows; for example {"distance": 99}'
    )
    assert error.exit_code == 3
    assert json.loads(str(error).rpartition("example ")[2]) == {"distance": 99}


def test_nothing_found_is_not_an_error_yet() -> None:
    assert agreed_kinds(Scan()) == {}
    assert Store("unused").is_local
