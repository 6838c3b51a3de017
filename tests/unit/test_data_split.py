from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.config.data import HashSplit, TimeSplit
from raymlops.data.split import EXCLUDED, HOLDOUT, TRAIN, VALIDATION, assign
from raymlops.errors import DataError

MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1))


@settings(max_examples=300, deadline=None)
@given(st.lists(MOMENTS, min_size=1, max_size=30), st.lists(MOMENTS, min_size=4, max_size=4, unique=True))
def test_no_row_reaches_training_from_at_or_after_the_cut(times: list[datetime], marks: list[datetime]) -> None:
    start, validation, holdout, end = sorted(marks)
    split = TimeSplit(by="time", column="t", start=start, validation_from=validation, holdout_from=holdout, end=end)
    times += marks  # the borders themselves
    codes = assign(split, pa.table({"t": pa.array(times, pa.timestamp("us"))}))
    for time, code in zip(times, codes, strict=True):
        expected = (
            EXCLUDED if time < start or time >= end
            else TRAIN if time < validation
            else VALIDATION if time < holdout
            else HOLDOUT
        )  # fmt: skip
        assert code == expected


def test_marks_with_a_zone_are_compared_in_utc() -> None:
    berlin = timezone(timedelta(hours=2))
    split = TimeSplit(
        by="time",
        column="t",
        validation_from=datetime(2030, 1, 1, 2, tzinfo=berlin),
        holdout_from=datetime(2030, 1, 2, tzinfo=UTC),
    )
    times = pa.array([datetime(2029, 12, 31, 23, 59, 59), datetime(2030, 1, 1), datetime(2030, 1, 2)])
    assert assign(split, pa.table({"t": times})).tolist() == [TRAIN, VALIDATION, HOLDOUT]


def test_a_row_without_time_is_never_dealt() -> None:
    split = TimeSplit(by="time", column="t", validation_from=datetime(2030, 1, 1), holdout_from=datetime(2030, 1, 2))
    with pytest.raises(DataError, match="1 of 2 rows have no 't'"):
        assign(split, pa.table({"t": pa.array([None, datetime(2030, 1, 1)], pa.timestamp("us"))}))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_all_rows_of_a_key_share_a_part_in_any_layout(keys: list[int], random: object) -> None:
    split = HashSplit(by="hash", key="k", validation=0.3, holdout=0.3)
    whole = assign(split, pa.table({"k": keys}))
    part_of = dict(zip(keys, whole.tolist(), strict=True))
    assert [part_of[key] for key in keys] == whole.tolist()
    as_floats = pa.table({"k": [float(key) for key in reversed(keys)], "other": range(len(keys))})
    pieces = np.concatenate([assign(split, as_floats.slice(at, 7)) for at in range(0, len(keys), 7)])
    assert [part_of[key] for key in reversed(keys)] == pieces.tolist()


def test_shares_come_out_as_configured_and_salt_deals_anew() -> None:
    table = pa.table({"k": np.arange(20_000)})
    split = HashSplit(by="hash", key=["k"], validation=0.1, holdout=0.2)
    codes = assign(split, table)
    assert abs((codes == HOLDOUT).mean() - 0.2) < 0.01
    assert abs((codes == VALIDATION).mean() - 0.1) < 0.01
    assert not np.array_equal(codes, assign(split.model_copy(update={"salt": "other"}), table))
