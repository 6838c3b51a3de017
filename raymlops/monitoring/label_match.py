"""Which label belongs to which prediction: the pure half of the label join, on Arrow tables.

A label names its prediction by a *unit*: a prediction's id and row, or, as of a time, the hash of a key or the values
of entity columns. By id there is one prediction; as of a time it is the latest one of the unit at or before that time.
What one part of the log says (`match`) is merged over parts by `latest`, in any order; `settle` then gives every
prediction at most one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TIME = pa.timestamp("us", "UTC")
LABELS = pa.schema(
    [
        ("unit", pa.string()),
        ("as_of", pa.bool_()),
        ("label", pa.string()),  # canonical text of the value
        ("at", TIME),  # when the outcome was known
        ("received", TIME),  # when it came
        ("fresh", pa.bool_()),  # no earlier join has counted it
    ]
)
"""Labels on their way to a prediction. No column has nulls."""
FOUND = pa.schema(
    [
        ("number", pa.int64()),  # position in the table of labels
        ("time", TIME),
        ("prediction_id", pa.string()),
        ("row", pa.int32()),
        ("part", pa.string()),
    ]
)
"""Predictions that labels were matched with."""
KNOWN = pa.schema(
    [("prediction_id", pa.string()), ("row", pa.int32()), ("known_label", pa.string()), ("known_received", TIME)]
)
"""Predictions that have a label already."""
_PREDICTION = ["prediction_id", "row"]


def match(labels: pa.Table, predictions: pa.Table, units: Sequence[pa.Array], part: str = "") -> pa.Table:
    """For every label the latest prediction of its unit, as `FOUND`; labels without one are left out.

    `predictions` has time, prediction_id and row; `units` are their units, one array per way to name them (null:
    none). A label as of a time is matched with nothing after it; of equal times the largest id and row is the latest.
    """
    wanted = labels.column("unit").combine_chunks().unique()
    pieces = []
    for array in units:
        coded = predictions.select(["time", *_PREDICTION]).append_column("code", pc.index_in(array, value_set=wanted))
        pieces.append(coded.filter(pc.is_valid(coded.column("code"))))
    named = pa.concat_tables(pieces) if pieces else predictions.slice(0, 0)
    if not named.num_rows:
        return FOUND.empty_table()
    named = named.sort_by([(name, "ascending") for name in ("code", "time", *_PREDICTION)])
    asked = pc.index_in(labels.column("unit"), value_set=wanted).to_numpy()
    as_of = labels.column("as_of").to_numpy()
    limit = np.where(as_of, micros(labels.column("at")), np.iinfo(np.int64).max)
    last = _last_up_to(named.column("code").to_numpy(), micros(named.column("time")), asked, limit)
    number = np.flatnonzero(last >= 0)
    chosen = named.take(pa.array(last[number]))
    columns = [pa.array(number, pa.int64()), *(chosen.column(name) for name in ("time", *_PREDICTION))]
    return pa.table([*columns, pa.repeat(part, len(number))], schema=FOUND)


def latest(found: Sequence[pa.Table]) -> pa.Table:
    """The latest match of every label over all parts, by number. The order of `found` does not matter."""
    if not found:
        return FOUND.empty_table()
    table = pa.concat_tables(found).sort_by(
        [(name, "ascending") for name in ("number", "time", *_PREDICTION)]  # parts repeat a row when they are merged
    )
    number = table.column("number").to_numpy()
    return table.filter(pa.array(np.append(number[1:] != number[:-1], np.ones(min(1, len(number)), np.bool_))))


@dataclass(frozen=True)
class Settled:
    """What became of labels that found their prediction. `joined` is `FOUND`, one row per prediction."""

    joined: pa.Table
    duplicates: int
    """Fresh labels that say what the prediction's label says."""
    conflicts: int
    """Fresh labels that say something else than the prediction's label, which stays."""
    late: int


def settle(labels: pa.Table, found: pa.Table, known: pa.Table, max_delay: timedelta) -> Settled:
    """One label per prediction: the one it has (`known`), else the one received first (then by `at`, then by text).

    `found` as `latest` gives it. Labels later than `max_delay` after their prediction are counted and join nothing.
    """
    own = labels.take(found.column("number"))
    table = pa.table(
        {name: found.column(name) for name in FOUND.names} | {name: own.column(name) for name in own.schema.names}
    )
    delay = micros(table.column("at")) - micros(table.column("time"))
    late = delay > max_delay // timedelta(microseconds=1)
    fresh = table.column("fresh").to_numpy()
    counted_late = int((late & fresh).sum())
    table = table.filter(pa.array(~late)).join(known, _PREDICTION, join_type="left outer", use_threads=False)
    table = table.sort_by([(name, "ascending") for name in (*_PREDICTION, "received", "at", "label", "number")])
    first = _changes(table, _PREDICTION)
    has_one = pc.is_valid(table.column("known_label")).to_numpy()
    wins = first & ~has_one
    winner = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    standing = pc.coalesce(table.column("known_label"), table.column("label").take(pa.array(winner)))
    alike = pc.equal(table.column("label"), standing).to_numpy()
    again = pc.fill_null(pc.equal(table.column("received"), table.column("known_received")), False).to_numpy()
    losing = table.column("fresh").to_numpy() & ~wins & ~(alike & again)  # not the label that was joined, seen again
    return Settled(
        joined=table.filter(pa.array(wins)).select(FOUND.names),
        duplicates=int((losing & alike).sum()),
        conflicts=int((losing & ~alike).sum()),
        late=counted_late,
    )


def distinct(labels: pa.Table) -> pa.Table:
    """Each label once, fresh if any of its copies is."""
    names = [name for name in LABELS.names if name != "fresh"]
    grouped = labels.group_by(names, use_threads=False).aggregate([("fresh", "max")])
    return grouped.rename_columns([*names, "fresh"]).select(LABELS.names).cast(LABELS)


def micros(column: pa.ChunkedArray) -> np.ndarray:
    """int64 microseconds since 1970."""
    return np.asarray(column.cast(TIME).cast(pa.int64()).to_numpy())


def _last_up_to(code: np.ndarray, moment: np.ndarray, wanted: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Position of the last of the sorted pairs (code, moment) with the wanted code and a moment up to the limit; −1
    where there is none."""
    _, ranks = np.unique(np.concatenate([moment, limit]), return_inverse=True)
    width = len(ranks) + 1
    pairs = code.astype(np.int64) * width + ranks[: len(moment)]
    last = np.searchsorted(pairs, wanted.astype(np.int64) * width + ranks[len(moment) :], side="right") - 1
    return np.where((last >= 0) & (code[last] == wanted), last, -1)


def _changes(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Where a row differs from the row before in one of the columns."""
    changes = np.zeros(table.num_rows, np.bool_)
    changes[:1] = True
    for name in names:
        column = table.column(name).combine_chunks()
        changes[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return changes
