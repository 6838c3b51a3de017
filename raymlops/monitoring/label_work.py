"""The two steps of a label join that look at the log, over independent pieces of it: here, or as a Ray Data job."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raymlops.config.tree import Config
from raymlops.data.ray_errors import user_error
from raymlops.errors import StoreError
from raymlops.monitoring.label_match import FOUND, latest, match
from raymlops.monitoring.label_shape import INPUT, shape
from raymlops.monitoring.label_units import answered, prediction_units
from raymlops.monitoring.labelled import labelled_path
from raymlops.serving.prediction_reader import prediction_parts, read_part
from raymlops.serving.prediction_table import unify
from raymlops.serving.prediction_writer import encode
from raymlops.store import Store

if TYPE_CHECKING:
    import ray

GONE = -1
"""Number in `FOUND` that says: a part was merged away before it was read."""
_KEYS = ["time", "prediction_id", "row", "key_hash", "status", "output.prediction"]

Work = Callable[[Any, pa.Table], pa.Table]
Spread = Callable[[Work, Sequence[Any], pa.Table], list[pa.Table]]
"""Applies work to every item, which JSON can spell, and to the table that all share; the results in any order."""


@dataclass(frozen=True)
class Search:
    """Finds the predictions that labels belong to, in some parts of the log."""

    store: Store
    entities: tuple[tuple[str, ...], ...]
    times: tuple[str, ...]

    def __call__(self, parts: Sequence[str], labels: pa.Table) -> pa.Table:
        columns = list(dict.fromkeys([*_KEYS, *(INPUT + name for names in self.entities for name in names)]))
        found = []
        for path in parts:
            try:
                predictions = answered(read_part(self.store, path, columns))
            except FileNotFoundError:
                gone: list[list[Any]] = [[GONE], [None], [None], [None], [path]]
                return pa.table([pa.array(value, f.type) for value, f in zip(gone, FOUND, strict=True)], schema=FOUND)
            units = prediction_units(predictions, self.entities, self.times)
            found.append(match(labels, predictions, units, path))
        return latest(found)


@dataclass(frozen=True)
class Write:
    """Writes labelled rows of one day as one file."""

    store: Store
    config: Config
    kinds: Mapping[str, str]
    run: int

    def __call__(self, span: tuple[int, int], settled: pa.Table) -> pa.Table:
        """`settled` is `FOUND` with label, labelled_at and received; `span` the first of its rows and how many. Returns
        one row: how many rows were written."""
        joined = settled.slice(*span)
        wanted = joined.select(["prediction_id", "row", "label", "labelled_at", "received"])
        rows = self._rows(joined).join(wanted, ["prediction_id", "row"], join_type="inner", use_threads=False)
        day = f"{labelled_path(self.config.name)}/date={joined.column('time')[0].as_py():%Y-%m-%d}"
        order = [("time", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")]
        data = encode(shape(rows.sort_by(order), self.config, self.kinds))
        for number in count():  # names that a run which died has used are taken
            if self.store.create(f"{day}/join-{self.run:06d}-{number:02d}.parquet", data):
                return pa.table({"rows": [rows.num_rows]})
        raise AssertionError

    def _rows(self, joined: pa.Table) -> pa.Table:
        """The rows of the log, each once."""
        try:
            found = self._among(joined, joined.column("part").unique().to_pylist())
        except FileNotFoundError:  # merged meanwhile: their rows are in other parts of the day
            moment: datetime = joined.column("time")[0].as_py()
            start = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            listed = prediction_parts(self.store, self.config.name, start, start + timedelta(days=1))
            found = self._among(joined, listed)
        if found.num_rows < joined.num_rows:
            raise StoreError(f"the prediction log lost {joined.num_rows - found.num_rows} rows while it was read")
        return found

    def _among(self, joined: pa.Table, parts: Sequence[str]) -> pa.Table:
        wanted = joined.select(["prediction_id", "row"])
        ids = wanted.column("prediction_id").combine_chunks().unique()
        tables = []
        for path in parts:
            table = answered(read_part(self.store, path))
            tables.append(table.filter(pc.is_in(table.column("prediction_id"), value_set=ids)))
        table = unify(tables)
        table = table.append_column("position", pa.array(range(table.num_rows), pa.int64()))
        keys = table.select(["prediction_id", "row", "position"]).join(
            wanted, ["prediction_id", "row"], join_type="inner"
        )
        first = keys.group_by(["prediction_id", "row"], use_threads=False).aggregate([("position", "min")])
        return table.take(first.column("position_min")).drop_columns(["position"])


def here(work: Work, items: Sequence[Any], shared: pa.Table) -> list[pa.Table]:
    return [work(item, shared) for item in items]


def on_ray(work: Work, items: Sequence[Any], shared: pa.Table) -> list[pa.Table]:
    """The same as a Ray Data job, a task per item. Needs a connection to Ray."""
    import ray
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    packed = [{"item": json.dumps(item)} for item in items]
    dataset = ray.data.from_items(packed, override_num_blocks=len(items))
    done = dataset.map_batches(_Each(work), batch_format="pyarrow", batch_size=1, fn_args=(ray.put(shared),))
    try:
        return [table for table in ray.get(done.to_arrow_refs()) if table.num_columns]
    except Exception as error:
        raise user_error(error, "labels: the join failed") from error


@dataclass(frozen=True)
class _Each:
    work: Work

    def __call__(self, batch: pa.Table, shared: ray.ObjectRef[pa.Table]) -> pa.Table:
        import ray

        [item] = batch.column("item").to_pylist()
        return self.work(json.loads(item), ray.get(shared))
