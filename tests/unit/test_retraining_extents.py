"""How much there is to train on, counted without reading it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snapshot_cases import config

from raymlops.errors import DataError
from raymlops.retraining.extents import of_labelled, of_source
from raymlops.retraining.loop import Extent


def test_rows_and_files_are_counted_and_half_a_file_is_named(tmp_path: Path) -> None:
    rules = config(data={"source": {"kind": "parquet", "path": "rows"}})
    folder = tmp_path / "rows" / "date=2026-03-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2, 3]}), folder / "a.parquet")
    assert of_source(rules, tmp_path) == of_labelled(str(tmp_path / "rows")) == Extent(3, 1)
    (folder / "b.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-20])  # somebody is writing it
    with pytest.raises(DataError, match=r"b\.parquet is not a readable parquet file"):
        of_source(rules, tmp_path)
