"""The one pass over the data: what happens to each block, on whatever worker holds it."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.config.data import TimeSplit
from raymlops.config.tree import Config
from raymlops.data.checks import EXAMPLES, compatible, row_checks
from raymlops.data.contract import Contract, always_present
from raymlops.data.files import PATH
from raymlops.data.hashing import ContentHash, key_hashes, row_ids, table_codes
from raymlops.data.kinds import kind_of, normalise
from raymlops.data.profile import Profile
from raymlops.data.split import EXCLUDED, PARTS, TRAIN, assign
from raymlops.errors import DataError
from raymlops.features.derive import Functions
from raymlops.features.fit import FitPartial
from raymlops.store import Store

ROW_ID = "__row_id"
ROWS_PER_GROUP = 16_384
"""Rows per row group of a staged piece; a shard reads only the groups whose ids it needs."""


@dataclass
class BlockResult:
    """What one block contributes; small enough to travel to the driver."""

    path: str = ""
    """File of the block's rows, where the source has files."""
    kinds: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """Column to (kind, an example value of text columns)."""
    error: str | None = None
    """Why the block could not be used. The driver first looks whether blocks contradict each other, which says more."""
    rows: int = 0
    content: ContentHash = field(default_factory=ContentHash)
    profile: Profile | None = None
    fit: FitPartial | None = None
    pieces: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Part to (staged file, rows)."""
    excluded: int = 0
    quarantined: int = 0
    quarantine_file: str | None = None
    violations: dict[tuple[str, str], tuple[int, list[dict[str, Any]]]] = field(default_factory=dict)
    """(column, check) to (offending rows, examples)."""
    times: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Part to its first and last time; `all` includes rows outside the split's window."""
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

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
        """All of the work on one block. Problems with its data are in `error`; StoreError is raised."""
        path, table = _without_path(block)
        if self.config.data.columns is not None:
            table = table.select([name for name in self.config.data.columns if name in table.column_names])
        result = BlockResult(path, kinds=_kinds(table, self._times()), rows=table.num_rows)
        if table.num_rows == 0 or not self._fits_schema(result.kinds):
            return result
        try:
            self._process(table, result)
        except DataError as error:
            result.error = f"{error} (in {path})" if path else str(error)
        return result

    def _times(self) -> set[str]:
        """Columns that are read as times however they are stored."""
        split = self.config.data.split
        named = {*self.config.features.dates, self.config.time_column}
        return {name for name in named if name} | ({split.column} if isinstance(split, TimeSplit) else set())

    def _fits_schema(self, kinds: dict[str, tuple[str, Any]]) -> bool:
        """False when the driver is going to refuse the columns; going on would only fail in odd ways."""
        if any(name not in kinds for name in self.config.used_columns()):
            return False
        rules = self.contract.columns if self.contract is not None else {}
        return all(compatible(rule.kind, kinds[name][0]) for name, rule in rules.items() if name in kinds)

    def _process(self, table: pa.Table, result: BlockResult) -> None:
        config = self.config
        self._check_uses(result.kinds)
        shapes = {name: tensor.shape for name, tensor in config.features.tensor.items()}
        table = normalise(table, self._times(), shapes)
        if config.time_column is not None:
            result.times |= _span("all", table, config.time_column)
        table = self._set_aside(table, result, self._timeless(table))
        codes = assign(config.data.split, table)
        inside = codes != EXCLUDED
        result.excluded = int((~inside).sum())
        table, codes = table.filter(pa.array(inside)), codes[inside]
        bad = row_checks(self.contract, table, always_present(config))
        keep = ~np.logical_or.reduce(list(bad.values())) if bad else np.ones(table.num_rows, dtype=bool)
        table, codes = self._set_aside(table, result, bad), codes[keep]
        if table.num_rows == 0:
            return
        hashed = table_codes(table)
        first, second = row_ids(hashed)
        result.content = ContentHash.of(first, second)
        result.profile = Profile.of(table, hashed)
        keys = self.contract.keys if self.contract is not None else config.data.contract.keys
        if keys and all(key in hashed for key in keys):
            result.keys = key_hashes(hashed, keys)
        training = codes == TRAIN
        if training.any():
            chosen = table.filter(pa.array(training))
            target = config.data.target
            result.fit = FitPartial.from_batch(
                config.features, config.task, target, self.functions, chosen, first[training]
            )
        self._write_pieces(table, codes, first, result)

    def _check_uses(self, kinds: dict[str, tuple[str, Any]]) -> None:
        numbers = {name: f"features.numeric.{name}" for name in self.config.features.numeric}
        if self.config.task == "regression":
            numbers[self.config.data.target] = "data.target"
        for name, where in numbers.items():
            kind, example = kinds.get(name, ("null", None))
            if kind in ("string", "timestamp", "tensor"):
                shown = f" (such as {example!r})" if example is not None else ""
                raise DataError(f"{where}: column {name!r} is {kind}{shown}, expected numbers")

    def _timeless(self, table: pa.Table) -> dict[tuple[str, str], np.ndarray]:
        """Rows without the time that they would be dealt by: found before the split, which cannot place them."""
        split = self.config.data.split
        if not isinstance(split, TimeSplit) or not table.column(split.column).null_count:
            return {}
        return {(split.column, "missing"): table.column(split.column).is_null().to_numpy()}

    def _set_aside(self, table: pa.Table, result: BlockResult, masks: dict[tuple[str, str], np.ndarray]) -> pa.Table:
        """The table without offending rows, which are counted and, if so configured, kept in the quarantine."""
        if not masks:
            return table
        for (column, check), mask in masks.items():
            known, shown = result.violations.get((column, check), (0, []))
            examples = table.filter(pa.array(mask)).slice(0, EXAMPLES).select(self._shown(column)).to_pylist()
            if result.path:
                examples = [{**example, "file": result.path} for example in examples]
            result.violations[column, check] = (known + int(mask.sum()), (shown + examples)[:EXAMPLES])
        stacked = np.stack(list(masks.values()))
        bad = stacked.any(axis=0)
        if self.config.data.contract.action == "quarantine":
            names = np.array([f"{column}: {check}" for column, check in masks], dtype=object)
            why = pa.array(["; ".join(names[stacked[:, i]]) for i in np.flatnonzero(bad)])
            aside = table.filter(pa.array(bad)).append_column("_violation", why)
            self._keep(aside, result)
        return table.filter(pa.array(~bad))

    def _keep(self, aside: pa.Table, result: BlockResult) -> None:
        if result.quarantine_file is not None:  # rows without a time came first
            earlier = pq.read_table(io.BytesIO(self.store.read(result.quarantine_file)))
            aside = pa.concat_tables([earlier, aside.cast(earlier.schema)])
        else:
            result.quarantine_file = f"{self.quarantine}/part-{uuid.uuid4().hex[:12]}.parquet"
        self.store.write(result.quarantine_file, parquet_bytes(aside))
        result.quarantined = aside.num_rows

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
            piece = table.take(pa.array(order)).add_column(0, ROW_ID, pa.array(ids[order]))
            name = f"{self.staging}/{part}-{uuid.uuid4().hex[:12]}.parquet"
            self.store.write(name, parquet_bytes(piece, ROWS_PER_GROUP), sync=False)
            result.pieces[part] = (name, len(order))
            if time is not None:
                result.times |= _span(part, piece, time)


def parquet_bytes(table: pa.Table, rows_per_group: int | None = None) -> bytes:
    out = io.BytesIO()
    pq.write_table(table.combine_chunks(), out, compression="zstd", row_group_size=rows_per_group)
    return out.getvalue()


def _without_path(block: pa.Table) -> tuple[str, pa.Table]:
    if PATH not in block.column_names:
        return "", block
    path = block.column(PATH)[0].as_py() if block.num_rows else ""
    return path, block.drop_columns([PATH])


def _kinds(table: pa.Table, times: set[str]) -> dict[str, tuple[str, Any]]:
    found: dict[str, tuple[str, Any]] = {}
    for name in table.column_names:
        column = table.column(name)
        if len(column) == column.null_count:
            found[name] = ("null", None)
        elif name in times:
            found[name] = ("timestamp", None)
        else:
            kind = kind_of(column.type)
            known = (value.as_py() for value in column.slice(0, 1000) if value.is_valid)
            found[name] = (kind, next(known, None) if kind == "string" else None)
    return found


def _span(part: str, table: pa.Table, time: str) -> dict[str, tuple[str, str]]:
    column = table.column(time).drop_null()
    if not len(column):
        return {}
    stamps = column.to_numpy()
    return {part: (str(stamps.min()), str(stamps.max()))}
