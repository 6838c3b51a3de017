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

from raymlops.data.hashing import Codes
from raymlops.data.kinds import kind_of, widest
from raymlops.errors import IntegrityError

KLL_K, HLL_LG_K, TOP_LG_K = 200, 12, 10
EXACT_TOP = 3 * 2**TOP_LG_K // 4
"""Up to this many distinct values, their counts are exact."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TOP = 10


@dataclass
class ColumnProfile:
    """One column. Extremes are numbers, or ISO text for times; moments and quantiles exist only for numbers.

    NaN and infinities count as missing, as they do for the features.
    """

    kind: str
    rows: int = 0
    nulls: int = 0
    minimum: float | str | None = None
    maximum: float | str | None = None
    mean: float = 0.0
    m2: float = 0.0
    """Sum of squared deviations from the mean."""
    fractions: int = 0
    """Values that are not whole numbers."""
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

    def counted_values(self) -> list[tuple[str, int]]:
        """Every value the sketch knows, most frequent first: all of them with exact counts when they are few."""
        found = self.top.get_frequent_items(ds.frequent_items_error_type.NO_FALSE_NEGATIVES)
        return [(item[0], int(item[1])) for item in sorted(found, key=lambda i: (-i[1], i[0]))]

    def merge(self, other: ColumnProfile) -> ColumnProfile:
        n, m = self.known, other.known
        if m:
            share, delta = m / (n + m), other.mean - self.mean
            self.mean = self.mean * (1 - share) + other.mean * share  # no overflow, unlike mean + delta · share
            self.m2 += other.m2 + (delta * delta * n * share if n else 0.0)
        self.rows, self.nulls = self.rows + other.rows, self.nulls + other.nulls
        self.fractions += other.fractions
        self.minimum, self.maximum = _least(self.minimum, other.minimum), _most(self.maximum, other.maximum)
        self.kind = widest(self.kind, other.kind)
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
            "mean": _finite(self.mean) if numeric else None,
            "variance": _finite(self.variance) if numeric else None,
            "quantiles": self.quantiles(),
            "top": [list(item) for item in self.counted_values()[:TOP]],
        }


@dataclass
class Profile:
    """All columns of a table."""

    columns: dict[str, ColumnProfile]
    rows: int = 0

    @classmethod
    def of(cls, table: pa.Table, codes: Codes) -> Profile:
        """Profile one normalised block; `codes` are its columns' value codes."""
        columns = {name: _column(table.column(name), codes[name]) for name in table.column_names}
        return cls(columns, table.num_rows)

    def merge(self, other: Profile) -> Profile:
        """Fold another block with the same columns in."""
        for name, column in other.columns.items():
            self.columns[name].merge(column)
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
            moments = {"mean": column.mean, "m2": _finite(column.m2), "fractions": column.fractions}
            content["columns"][name] |= {"sketches": index, "moments": moments}
        return json.dumps(content, indent=1, sort_keys=True).encode(), b"".join(blobs)

    @classmethod
    def from_bytes(cls, text: bytes, sketches: bytes) -> Profile:
        """Raises IntegrityError when the two do not belong together."""
        try:
            content = json.loads(text)
            columns = {name: _read_column(c, sketches) for name, c in content["columns"].items()}
            return cls(columns, content["rows"])
        except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
            raise IntegrityError(f"profile: cannot be read ({type(error).__name__}: {error})") from error


def _read_column(c: dict[str, Any], sketches: bytes) -> ColumnProfile:
    part = {name: sketches[at : at + length] for name, (at, length) in c["sketches"].items()}
    moments = c["moments"]
    return ColumnProfile(
        kind=c["kind"],
        rows=c["rows"],
        nulls=c["nulls"],
        minimum=c["min"],
        maximum=c["max"],
        mean=moments["mean"],
        m2=math.inf if moments["m2"] is None else moments["m2"],
        fractions=moments["fractions"],
        kll=ds.kll_doubles_sketch.deserialize(part["kll"]),
        hll=ds.hll_sketch.deserialize(part["hll"]),
        top=ds.frequent_strings_sketch.deserialize(part["top"]),
    )


def _column(values: pa.ChunkedArray, codes: np.ndarray) -> ColumnProfile:
    kind = kind_of(values.type)
    profile = ColumnProfile(kind, rows=len(values), nulls=values.null_count)
    if kind in ("null", "tensor") or not profile.known:
        return profile
    known = values.is_valid().to_numpy()
    if kind in ("integer", "number"):
        numbers = values.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
        known = np.isfinite(numbers)
        numbers = numbers[known]
        profile.nulls = len(values) - len(numbers)
        if not len(numbers):
            return profile
        profile.minimum, profile.maximum = float(numbers.min()), float(numbers.max())
        with np.errstate(over="ignore"):
            profile.mean = float((numbers / len(numbers)).sum())
            profile.m2 = float(np.square(numbers - profile.mean).sum())
        profile.fractions = int(np.count_nonzero(numbers != np.floor(numbers)))
        profile.kll.update(numbers)
    elif kind == "timestamp":
        low, high = pc.min_max(values).as_py().values()
        profile.minimum, profile.maximum = low.isoformat(), high.isoformat()
    for code in _distinct(codes[known]).view(np.int64).tolist():
        profile.hll.update(code)
    if kind in ("string", "boolean", "integer"):
        _count(values.drop_null(), profile)
    return profile


def _distinct(codes: np.ndarray) -> np.ndarray:
    ordered = np.sort(codes)  # np.unique hashes its values, which takes ten times as long when most are distinct
    return np.asarray(ordered[np.append(True, ordered[1:] != ordered[:-1])])


def _count(values: pa.ChunkedArray, profile: ColumnProfile) -> None:
    """Offer a block's values to the frequent-items sketch; of very many distinct ones only the most frequent."""
    counted = pc.value_counts(values)
    items, counts = counted.field("values"), counted.field("counts").to_numpy()
    if len(counts) > 4 * EXACT_TOP:
        chosen = np.argpartition(-counts, EXACT_TOP)[:EXACT_TOP]
        items, counts = items.take(pa.array(chosen)), counts[chosen]
    for item, count in zip(items.to_pylist(), counts.tolist(), strict=True):
        profile.top.update(_text(item), count)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _least(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else min(a, b)


def _most(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else max(a, b)
