"""What a table looks like, column by column: computed in one pass over blocks, merged in any order, constant memory.

Counts, nulls, minimum and maximum are exact; mean and variance follow Chan, Golub & LeVeque (1979); quantiles come
from a KLL sketch (Karnin, Lang & Liberty, FOCS 2016; rank error about 1.3 %), distinct counts from HyperLogLog (about
1.6 %), top values from a frequent-items sketch. The sketches are Apache DataSketches' own, in its portable format.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import datasketches as ds
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from raymlops.data.hashing import value_codes
from raymlops.errors import IntegrityError

KLL_K, HLL_LG_K, TOP_LG_K = 200, 12, 10
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TOP = 10


@dataclass
class ColumnProfile:
    """One column. Extremes are numbers, or ISO text for times; moments and quantiles exist only for numbers."""

    kind: str
    rows: int = 0
    nulls: int = 0
    minimum: float | str | None = None
    maximum: float | str | None = None
    mean: float = 0.0
    m2: float = 0.0
    kll: Any = field(default_factory=lambda: ds.kll_doubles_sketch(KLL_K))
    hll: Any = field(default_factory=lambda: ds.hll_sketch(HLL_LG_K))
    top: Any = field(default_factory=lambda: ds.frequent_strings_sketch(TOP_LG_K))

    @property
    def known(self) -> int:
        return self.rows - self.nulls

    @property
    def variance(self) -> float | None:
        """Population variance."""
        return self.m2 / self.known if self.known and self.kind in ("integer", "number") else None

    @property
    def distinct(self) -> int:
        """Estimated number of distinct values, never more than the values there are."""
        return min(self.known, round(float(self.hll.get_estimate())))

    def quantiles(self) -> dict[str, float]:
        if self.kll.is_empty():
            return {}
        values = self.kll.get_quantiles(list(QUANTILES))
        return {f"{q:g}": float(v) for q, v in zip(QUANTILES, values, strict=True)}

    def top_values(self) -> list[tuple[str, int]]:
        """Most frequent values with estimated counts, for text, booleans and integers."""
        found = self.top.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES)
        return [(item[0], int(item[1])) for item in sorted(found, key=lambda i: (-i[1], i[0]))[:TOP]]

    def merge(self, other: ColumnProfile) -> ColumnProfile:
        n, m = self.known, other.known
        delta = other.mean - self.mean
        self.mean += delta * m / (n + m) if n + m else 0.0
        self.m2 += other.m2 + (delta * delta * n * m / (n + m) if n + m else 0.0)
        self.rows, self.nulls = self.rows + other.rows, self.nulls + other.nulls
        self.minimum, self.maximum = _least(self.minimum, other.minimum), _most(self.maximum, other.maximum)
        self.kind = self.kind if other.kind in (self.kind, "null") else widest(self.kind, other.kind)
        self.kll.merge(other.kll)
        union = ds.hll_union(HLL_LG_K)
        union.update(self.hll)
        union.update(other.hll)
        self.hll = union.get_result(ds.tgt_hll_type.HLL_4)
        self.top.merge(other.top)
        return self

    def to_dict(self) -> dict[str, Any]:
        """For people and for JSON."""
        numeric = self.kind in ("integer", "number") and self.known
        return {
            "kind": self.kind,
            "rows": self.rows,
            "nulls": self.nulls,
            "distinct": self.distinct,
            "min": self.minimum,
            "max": self.maximum,
            "mean": self.mean if numeric else None,
            "variance": self.variance if numeric else None,
            "quantiles": self.quantiles(),
            "top": [list(item) for item in self.top_values()],
        }


@dataclass
class Profile:
    """All columns of a table."""

    columns: dict[str, ColumnProfile]
    rows: int = 0

    @classmethod
    def of(cls, table: pa.Table) -> Profile:
        """Profile one block; `table` is normalised (see `kind_of`)."""
        return cls({name: _column(table.column(name)) for name in table.column_names}, table.num_rows)

    def merge(self, other: Profile) -> Profile:
        """Fold another block in. Both have the same columns."""
        for name, column in other.columns.items():
            self.columns[name] = self.columns[name].merge(column) if name in self.columns else column
        self.rows += other.rows
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": {name: column.to_dict() for name, column in self.columns.items()}}

    def to_bytes(self) -> tuple[bytes, bytes]:
        """JSON text, and the sketches in one binary file that the JSON indexes by offset and length."""
        content, blobs, offset = self.to_dict(), [], 0
        for name, column in self.columns.items():
            index = {}
            sketches = {
                "kll": column.kll.serialize(),
                "hll": column.hll.serialize_compact(),
                "top": column.top.serialize(),
            }
            for sketch, data in sketches.items():
                index[sketch] = [offset, len(data)]
                blobs.append(bytes(data))
                offset += len(data)
            content["columns"][name] |= {"sketches": index, "m2": column.m2, "exact_mean": column.mean}
        return json.dumps(content, indent=1, sort_keys=True).encode(), b"".join(blobs)

    @classmethod
    def from_bytes(cls, text: bytes, sketches: bytes) -> Profile:
        """Raises IntegrityError when the two do not belong together."""
        try:
            content = json.loads(text)
            columns = {}
            for name, c in content["columns"].items():
                part = {k: sketches[at : at + length] for k, (at, length) in c["sketches"].items()}
                columns[name] = ColumnProfile(
                    c["kind"], c["rows"], c["nulls"], c["min"], c["max"], c["exact_mean"], c["m2"],
                    ds.kll_doubles_sketch.deserialize(part["kll"]),
                    ds.hll_sketch.deserialize(part["hll"]),
                    ds.frequent_strings_sketch.deserialize(part["top"]),
                )  # fmt: skip
            return cls(columns, content["rows"])
        except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
            raise IntegrityError(f"profile: cannot be read ({type(error).__name__}: {error})") from error


def kind_of(kind: pa.DataType) -> str:
    """integer, number, boolean, string, timestamp, tensor or null: the project's names for Arrow types."""
    if kinds.is_boolean(kind):
        return "boolean"
    if kinds.is_integer(kind):
        return "integer"
    if kinds.is_floating(kind) or kinds.is_decimal(kind):
        return "number"
    if kinds.is_timestamp(kind) or kinds.is_date(kind):
        return "timestamp"
    if kinds.is_null(kind):
        return "null"
    if kinds.is_list(kind) or kinds.is_fixed_size_list(kind) or kinds.is_large_list(kind) or _is_tensor(kind):
        return "tensor"
    return "string"


def widest(a: str, b: str) -> str:
    """The kind that holds values of both, or "mixed" when none does."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    return "number" if {a, b} == {"integer", "number"} else "mixed"


def _is_tensor(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and "tensor" in kind.extension_name.lower()


def _column(values: pa.ChunkedArray) -> ColumnProfile:
    kind = kind_of(values.type)
    profile = ColumnProfile(kind, rows=len(values), nulls=values.null_count)
    if kind in ("null", "tensor"):
        return profile
    if kind in ("integer", "number"):
        numbers = values.cast(pa.float64(), safe=False).drop_null().to_numpy()
        numbers = numbers[~np.isnan(numbers)]
        profile.nulls = len(values) - len(numbers)
        if len(numbers):
            profile.minimum, profile.maximum = float(numbers.min()), float(numbers.max())
            profile.mean = float(numbers.mean())
            profile.m2 = float(np.square(numbers - profile.mean).sum())
            if not math.isfinite(profile.m2):  # infinities are data too, but have no moments
                profile.mean, profile.m2 = math.nan, math.nan
            profile.kll.update(numbers)
    elif kind == "timestamp" and profile.known:
        low, high = pc.min_max(values.cast(pa.timestamp("us"), safe=False)).as_py().values()
        profile.minimum, profile.maximum = low.isoformat(), high.isoformat()
    for code in np.unique(value_codes(values.drop_null())).view(np.int64).tolist():
        profile.hll.update(code)
    if kind in ("string", "boolean", "integer"):
        for item in pc.value_counts(values.drop_null()).to_pylist():
            profile.top.update(_text(item["values"]), item["counts"])
    return profile


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _least(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else min(a, b)


def _most(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else max(a, b)
