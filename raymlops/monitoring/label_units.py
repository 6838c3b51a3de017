"""How labels and predictions are named alike: the units of `label_match`, from feedback, tables and the log."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymlops.config.labels import LabelSource
from raymlops.errors import DataError
from raymlops.features.rows import Rows
from raymlops.features.values import text
from raymlops.monitoring.label_match import LABELS, TIME
from raymlops.monitoring.label_shape import INPUT, canonical, readable
from raymlops.rollout.evidence import unit_hash
from raymlops.serving.prediction_table import key_text

_SEPARATOR = "\x1f"
ANSWERED = ["ok", "fallback", "timeout"]
"""Statuses of rows that somebody got as an answer, if they have one; copies for a shadow are nobody's."""


def answered(predictions: pa.Table) -> pa.Table:
    """The rows of a part of the log that have an answer which was given."""
    if "output.prediction" not in predictions.column_names:
        return predictions.slice(0, 0)
    given = pc.is_in(predictions.column("status"), value_set=pa.array(ANSWERED))
    return predictions.filter(pc.and_(given, pc.is_valid(predictions.column("output.prediction"))))


def prediction_units(
    predictions: pa.Table, entities: Sequence[tuple[str, ...]], times: Collection[str]
) -> list[pa.ChunkedArray]:
    """Units of rows of the log: by id and row, by key (of the request's first row), and by each set of input columns
    in `entities`. Columns in `times` are compared as times."""
    row, kind = predictions.column("row"), pa.string()
    ids = pc.binary_join_element_wise("id", predictions.column("prediction_id"), row.cast(kind), " ")
    keyed = pc.if_else(pc.equal(row, 0), predictions.column("key_hash"), pa.scalar(None, kind))
    units = [ids, pc.binary_join_element_wise("key", keyed, " ")]
    for names in entities:
        if all(INPUT + name in predictions.column_names for name in names):
            columns = [predictions.column(INPUT + name) for name in names]
            units.append(_entity_units(names, columns, predictions.num_rows, times))
    return units


def feedback_labels(rows: pa.Table, fresh_from: datetime, task: str) -> tuple[pa.Table, int]:
    """Labels from rows of feedback files, and how many fresh ones do not fit the task."""
    kind = pa.string()
    by_id = pc.binary_join_element_wise("id", rows.column("prediction_id"), "0", " ")
    by_key = pc.binary_join_element_wise("key", rows.column("key_hash"), " ")
    values = [json.loads(label) for label in rows.column("label").to_pylist()]
    table = pa.table(
        {
            "unit": pc.coalesce(by_id, by_key),
            "as_of": pc.is_null(rows.column("prediction_id")),
            "label": pa.array(canonical("label", values, len(values)), kind),
            "at": pc.coalesce(rows.column("at"), rows.column("received")),
            "received": rows.column("received"),
            "fresh": pc.greater_equal(rows.column("received"), pa.scalar(fresh_from, TIME)),
        }
    )
    return _fitting(table, task)


def table_labels(
    rows: pa.Table,
    source: LabelSource,
    field: str,
    *,
    target: str,
    endpoint: str,
    task: str,
    times: Collection[str],
    now: datetime,
    after: datetime | None,
) -> tuple[pa.Table, int, datetime | None]:
    """Labels from rows of a table; how many of them do not fit the task or lack their time; and the newest `received`,
    None without any. A time ahead of `now` is not the newest: it would hide what comes until then.

    Rows without a label or without what they are joined by say nothing and are left out; so are those received before
    `after`. Those of that very time may be new, or counted by an earlier join. Raises DataError naming `field` and the
    column that is missing or cannot be read.
    """
    n = rows.num_rows
    for name in (*source_columns(source, target),):
        if name not in rows.column_names:
            raise DataError(f"{field}: column {name!r} is missing; the source has {', '.join(rows.column_names[:20])}")
    label = canonical(field, rows.column(source.label or target), n)
    moments = None if source.time is None else _times(field, rows, source.time)
    received = pa.repeat(pa.scalar(now, TIME), n) if source.received is None else _times(field, rows, source.received)
    fresh, kept = pa.repeat(True, n), pa.repeat(True, n)
    if after is not None:
        fresh = pc.fill_null(pc.greater(received, pa.scalar(after, TIME)), True)
        kept = pc.fill_null(pc.greater_equal(received, pa.scalar(after, TIME)), True)
    table = pa.table(
        {
            "unit": _table_units(rows, source, field, endpoint, times),
            "as_of": pa.repeat(source.prediction_id is None, n),
            "label": pa.array(label, pa.string()),
            "at": received if moments is None else moments,
            "received": received,
            "fresh": fresh,
        }
    )
    table = table.filter(kept)
    table = table.filter(pc.and_(pc.is_valid(table.column("unit")), pc.is_valid(table.column("label"))))
    came = table.column("received")
    newest = pc.max(came.filter(pc.less_equal(came, pa.scalar(now, TIME)))).as_py()
    return *_fitting(table, task), newest


def source_columns(source: LabelSource, target: str) -> list[str]:
    """Columns that a source must have."""
    named = [source.prediction_id, source.row, source.key, *source.entity.values(), source.time, source.received]
    return list(dict.fromkeys([source.label or target, *(name for name in named if name)]))


def entity_names(source: LabelSource) -> tuple[str, ...]:
    """Input columns that name the entity, in the order in which units spell them."""
    return tuple(sorted(source.entity))


def _table_units(
    rows: pa.Table, source: LabelSource, field: str, endpoint: str, times: Collection[str]
) -> pa.Array | pa.ChunkedArray:
    n, kind = rows.num_rows, pa.string()
    if source.prediction_id is not None:
        ids = pa.array(canonical(field, rows.column(source.prediction_id), n), kind)
        row = pa.repeat("0", n)
        if source.row is not None:
            row = pa.array(canonical(field, rows.column(source.row), n), kind)
        return pc.binary_join_element_wise("id", ids, row, " ")
    if source.key is not None:
        keys = canonical(field, rows.column(source.key), n)
        hashes = {key: key_text(unit_hash(endpoint, key)) for key in set(keys) if key is not None}
        named = [hashes.get(key) if key is not None else None for key in keys]
        return pc.binary_join_element_wise("key", pa.array(named, kind), " ")
    names = entity_names(source)
    return _entity_units(names, [rows.column(source.entity[name]) for name in names], n, times)


def _entity_units(
    names: Sequence[str], columns: Sequence[Any], length: int, times: Collection[str]
) -> pa.ChunkedArray | pa.Array:
    texts = [
        pa.array(canonical(name, column, length, times), pa.string())
        for name, column in zip(names, columns, strict=True)
    ]
    return pc.binary_join_element_wise(f"entity {_SEPARATOR.join(names)}", *texts, _SEPARATOR)


def _times(field: str, rows: pa.Table, name: str) -> pa.Array:
    moments = Rows({f"{field}.{name}": rows.column(name)}, rows.num_rows).times(f"{field}.{name}")
    return pa.array(moments, pa.timestamp("us")).cast(pa.int64()).cast(TIME)


def _fitting(table: pa.Table, task: str) -> tuple[pa.Table, int]:
    labels = table.column("label").to_pylist()
    fits = readable(labels, task)
    if task == "regression":  # "7.50" and 7.5 are one label
        labels = [text(float(label)) if fit else label for label, fit in zip(labels, fits.tolist(), strict=True)]
        at = table.column_names.index("label")
        table = table.set_column(at, "label", pa.array(labels, pa.string()))
    fits &= pc.is_valid(table.column("at")).to_numpy() & pc.is_valid(table.column("received")).to_numpy()
    refused = int((~fits & table.column("fresh").to_numpy()).sum())
    return table.filter(pa.array(fits, pa.bool_())).cast(LABELS), refused
