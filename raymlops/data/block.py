"""The one pass over the data: what happens to each block, on whatever worker holds it."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.config.tree import Config
from raymlops.data.contract import EXAMPLES, Contract, row_checks
from raymlops.data.hashing import ContentHash, key_hashes, row_ids
from raymlops.data.profile import Profile, kind_of
from raymlops.data.sources import PATH
from raymlops.data.split import EXCLUDED, PARTS, TRAIN, assign
from raymlops.errors import DataError
from raymlops.features.derive import Functions
from raymlops.features.fit import FitPartial
from raymlops.features.rows import Rows
from raymlops.store import Store

ROW_ID = "__row_id"


@dataclass
class BlockResult:
    """What one block contributes; small enough to travel to the driver."""

    kinds: dict[str, tuple[str, str, Any]]
    """Column to (kind, file or "", example value)."""
    content: ContentHash = field(default_factory=ContentHash)
    profile: Profile | None = None
    fit: FitPartial | None = None
    pieces: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Part to (staged file, rows)."""
    excluded: int = 0
    quarantined: int = 0
    violations: dict[tuple[str, str], tuple[int, list[Any]]] = field(default_factory=dict)
    times: dict[str, tuple[str, str]] = field(default_factory=dict)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    missing_labels: int = 0

    def pack(self) -> bytes:
        """Bytes for the way to the driver. Never stored, so Ray's own serialisation is good enough."""
        from ray import cloudpickle

        profile = None if self.profile is None else self.profile.to_bytes()
        fit = None if self.fit is None else self.fit.to_bytes()
        return cloudpickle.dumps({**vars(self), "profile": profile, "fit": fit})  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls, data: bytes) -> BlockResult:
        from ray import cloudpickle

        values = cloudpickle.loads(data)
        if values["profile"] is not None:
            values["profile"] = Profile.from_bytes(*values["profile"])
        if values["fit"] is not None:
            values["fit"] = FitPartial.from_bytes(values["fit"])
        return cls(**values)


@dataclass(frozen=True)
class BlockPass:
    """The function that Ray Data maps over blocks. Holds only what a worker needs."""

    config: Config
    functions: Functions
    contract: Contract | None
    store: Store
    staging: str
    quarantine: str

    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.table({"result": pa.array([self.run(block).pack()], pa.large_binary())})

    def run(self, block: pa.Table) -> BlockResult:
        path, table = _without_path(block)
        result = BlockResult(kinds=_kinds(table, path))
        table = normalise(table, self.config, path)
        if table.num_rows == 0:
            return result
        if self.contract is not None and any(
            kind_of(table.schema.field(n).type) not in (c.kind, "null", "integer")
            for n, c in self.contract.columns.items()
            if n in table.column_names
        ):
            return result  # the driver will refuse the schema; checks and fits would only fail in odd ways
        split = self.config.data.split
        codes = assign(split, table)
        result.excluded = int((codes == EXCLUDED).sum())
        keep = codes != EXCLUDED
        if result.excluded:
            table, codes = table.filter(pa.array(keep)), codes[keep]
        table, codes = self._check(table, codes, result)
        if table.num_rows == 0:
            return result
        label = table.column(self.config.data.target)
        result.missing_labels = label.null_count
        result.profile = Profile.of(table)
        first, second = row_ids(table)
        result.content = ContentHash.of(first, second)
        keys = self.contract.keys if self.contract is not None else self.config.data.contract.keys
        if keys:
            result.keys = key_hashes(table, keys)
        training = codes == TRAIN
        if training.any():
            chosen = table.filter(pa.array(training))
            config = self.config
            result.fit = FitPartial.from_batch(
                config.features, config.task, config.data.target, self.functions, chosen, first[training]
            )
        self._write_pieces(table, codes, first, result)
        return result

    def _check(self, table: pa.Table, codes: np.ndarray, result: BlockResult) -> tuple[pa.Table, np.ndarray]:
        if self.contract is None:
            return table, codes
        masks = row_checks(self.contract, table)
        bad = np.zeros(table.num_rows, dtype=bool)
        for (column, check), mask in masks.items():
            examples = table.filter(pa.array(mask)).slice(0, EXAMPLES).select(self._shown(column)).to_pylist()
            result.violations[column, check] = (int(mask.sum()), [_plain(e) for e in examples])
            bad |= mask
        if not bad.any() or self.config.data.contract.action == "stop":
            return table, codes
        names = np.array([f"{column}: {check}" for column, check in masks], dtype=object)
        stacked = np.stack(list(masks.values()))
        why = pa.array(["; ".join(names[stacked[:, i]]) for i in np.flatnonzero(bad)])
        aside = table.filter(pa.array(bad)).append_column("_violation", why)
        self.store.write(f"{self.quarantine}/part-{uuid.uuid4().hex[:12]}.parquet", parquet_bytes(aside))
        result.quarantined = int(bad.sum())
        return table.filter(pa.array(~bad)), codes[~bad]

    def _shown(self, column: str) -> list[str]:
        """Columns that help to find an offending row: its keys, its time, the column itself."""
        wanted = [*self.config.data.contract.keys, self.config.time_column, column]
        return [name for name in dict.fromkeys(wanted) if name is not None]

    def _write_pieces(self, table: pa.Table, codes: np.ndarray, ids: np.ndarray, result: BlockResult) -> None:
        time = self.config.time_column
        for code, part in enumerate(PARTS):
            chosen = np.flatnonzero(codes == code)
            if not chosen.size:
                continue
            order = chosen[np.argsort(ids[chosen], kind="stable")]
            piece = table.take(pa.array(order)).append_column(ROW_ID, pa.array(ids[order]))
            name = f"{self.staging}/{part}-{uuid.uuid4().hex[:12]}.parquet"
            self.store.write(name, parquet_bytes(piece))
            result.pieces[part] = (name, len(order))
            if time is not None:
                stamps = Rows.of(piece.select([time])).times(time)
                known = stamps[~np.isnat(stamps)]
                if known.size:
                    result.times[part] = (str(known.min()), str(known.max()))


def normalise(table: pa.Table, config: Config, path: str) -> pa.Table:
    """Columns in canonical order and types: float64, int64, bool, string, timestamp[us], fixed-size lists.

    Raises DataError when a column that the configuration names is missing or cannot be what its use needs.
    """
    if config.data.columns is not None:
        table = table.select([name for name in config.data.columns if name in table.column_names])
    where = f" in {path}" if path else ""
    missing = [name for name in config.used_columns() if name not in table.column_names]
    if missing:
        what = "the label column" if missing[0] == config.data.target else "a column that the configuration uses"
        raise DataError(f"data: {missing[0]!r}, {what}, is missing{where}; there are {', '.join(table.column_names)}")
    times = {*config.features.dates, config.time_column}
    columns = {
        name: _canonical(table.column(name), name, name in times, config, where) for name in sorted(table.column_names)
    }
    return pa.table(columns)


def _canonical(column: pa.ChunkedArray, name: str, is_time: bool, config: Config, where: str) -> pa.ChunkedArray:
    kind = kind_of(column.type)
    if is_time and kind != "null":
        try:
            return pa.chunked_array([pa.array(Rows({name: column}, len(column)).times(name), pa.timestamp("us"))])
        except DataError as error:
            raise DataError(f"{error}{where}") from None
    if name in config.features.numeric and kind in ("string", "timestamp", "tensor"):
        example = next((v for v in column.to_pylist() if v is not None), None)
        raise DataError(f"features.numeric.{name}: found {column.type}{where} (such as {example!r}), expected numbers")
    if kind == "tensor":
        shape = config.features.tensor[name].shape if name in config.features.tensor else None
        return _flat_lists(column, name, shape)
    if kind == "number":
        return column.cast(pa.float64(), safe=False)
    if kind == "integer":
        return column.cast(pa.int64(), safe=False)
    if kind == "timestamp":
        return column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False).cast(pa.timestamp("us"))
    return column if kind in ("boolean", "null") else column.cast(pa.string())


def _flat_lists(column: pa.ChunkedArray, name: str, shape: list[int] | None) -> pa.ChunkedArray:
    if shape is None:
        first: Any = next((v for v in column.to_pylist() if v is not None), [])
        shape = [int(np.asarray(first).size)]
    values = Rows({name: column.to_numpy().tolist()}, len(column)).tensors(name, shape)
    size = int(np.prod(shape))
    return pa.chunked_array([pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)])


def _without_path(block: pa.Table) -> tuple[str, pa.Table]:
    if PATH not in block.column_names:
        return "", block
    path = block.column(PATH)[0].as_py() if block.num_rows else ""
    return path, block.drop_columns([PATH])


def _kinds(table: pa.Table, path: str) -> dict[str, tuple[str, str, Any]]:
    found = {}
    for name in table.column_names:
        column = table.column(name)
        kind = "null" if len(column) == column.null_count else kind_of(column.type)
        example = next((v.as_py() for v in column.slice(0, 1000) if v.is_valid), None) if kind == "string" else None
        found[name] = (kind, path, example)
    return found


def parquet_bytes(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _plain(row: dict[str, Any]) -> str:
    return json.dumps(
        {k: v if isinstance(v, int | float | str | None) else str(v) for k, v in row.items()}, ensure_ascii=False
    )
