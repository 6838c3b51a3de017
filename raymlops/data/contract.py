"""The contract: what data must look like, inferred from the first snapshot, edited by people, checked ever after."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from raymlops.config.base import Node
from raymlops.config.loading import parse_node
from raymlops.config.tree import Config
from raymlops.data.profile import ColumnProfile, Profile

MAX_CATEGORIES = 100

HEADER = """\
# What this model's data must look like, inferred from its first snapshot. Edit it: it is never overwritten.
# For each column (columns that are not listed are not checked):
#   kind               integer, number, boolean, string, timestamp or tensor
#   required           false: the column may be absent (default true)
#   nullable           false: not a single value may be missing (default true)
#   max_null_fraction  largest share of missing values; NaN and infinity count as missing
#   min, max           allowed range, both ends included
#   categories         values seen in the first snapshot; other values are only reported, until closed: true
# keys: columns that together identify a row. min_rows, max_rows: allowed number of rows.
# max_age: largest age of the newest row in time_column, in seconds or as ISO 8601 (P2D is two days).
"""


class ColumnContract(Node):
    kind: Literal["integer", "number", "boolean", "string", "timestamp", "tensor"]
    required: bool = True
    nullable: bool = True
    max_null_fraction: float | None = Field(default=None, ge=0, le=1)
    min: float | None = None
    max: float | None = None
    categories: list[str] | None = None
    closed: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> ColumnContract:
        if (self.min is not None or self.max is not None) and self.kind not in ("integer", "number"):
            raise ValueError(f"min and max are for kinds integer and number, found kind {self.kind}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"found min {self.min:g} > max {self.max:g}")
        if self.categories is not None and self.kind != "string":
            raise ValueError(f"categories are for kind string, found kind {self.kind}")
        if self.closed and not self.categories:
            raise ValueError("closed: true needs the categories that are allowed")
        return self


class Contract(Node):
    version: Literal[1] = 1
    columns: dict[str, ColumnContract]
    keys: list[str] = []
    min_rows: int = Field(default=1, ge=1)
    max_rows: int | None = Field(default=None, ge=1)
    time_column: str | None = None
    max_age: timedelta | None = None

    def to_yaml(self) -> str:
        """Text that `from_yaml` reads back, one column per line, defaults left out."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        columns = plain.pop("columns")
        lines = [HEADER, _yaml({"version": self.version, **plain}), "columns:\n"]
        for name, rule in columns.items():
            text = _yaml({key: _short(value) for key, value in rule.items()}, default_flow_style=True)
            lines.append(f"  {_key(name)}: " + text.strip().replace("\n", "\n    ") + "\n")
        return "".join(lines)

    @classmethod
    def from_yaml(cls, text: str, where: str) -> Contract:
        """Raises ConfigError naming the file, the key path, the value found and what is allowed."""
        return parse_node(cls, text, where)


def infer(profile: Profile, config: Config) -> Contract:
    """A contract that the profiled data keeps, with slack for what later data may reasonably do.

    The label and the keys may never be missing; other columns may lose twice the share they lose now, plus 1 %. Ranges
    are for columns that the model takes as numbers and for the label; the rest (identifiers, years) grow by nature.
    Columns without a single value are left out: nothing is known about them.
    """
    features, data = config.features, config.data
    never_missing = {*always_present(config), *data.contract.keys}
    as_numbers = {data.target, *features.numeric, *(c for d in features.derived.values() for c in d.inputs)}
    columns = {}
    for name, column in profile.columns.items():
        if column.kind == "null":
            continue
        rule: dict[str, Any] = {"kind": column.kind}
        if name in never_missing and not column.nulls:
            rule["nullable"] = False
        else:
            rule["max_null_fraction"] = round(min(1.0, 2 * column.nulls / column.rows + 0.01), 4)
        if name in as_numbers:
            rule |= _range(column, data.contract.range_slack)
        if column.kind == "string" and 0 < column.distinct <= MAX_CATEGORIES:
            rule["categories"] = sorted(value for value, _ in column.counted_values())
        columns[name] = ColumnContract.model_validate(rule)
    return Contract(
        columns=columns,
        keys=data.contract.keys,
        min_rows=max(1, profile.rows // 2),
        max_rows=profile.rows * 10,
        time_column=config.time_column,
        max_age=data.contract.max_age,
    )


def always_present(config: Config) -> list[str]:
    """Columns without which a row is of no use, contract or not: the label, and the time it is dealt by."""
    split = config.data.split
    return [config.data.target, *([split.column] if split.by == "time" else [])]


def _range(column: ColumnProfile, slack: float) -> dict[str, float]:
    low, high = column.minimum, column.maximum
    if column.kind not in ("integer", "number") or not isinstance(low, float) or not isinstance(high, float):
        return {}
    margin = slack * ((high - low) or abs(high) or 1.0)
    bounds = {"min": _rounded(low - margin, math.floor), "max": _rounded(high + margin, math.ceil)}
    return bounds if all(map(math.isfinite, bounds.values())) else {}


def _rounded(value: float, outwards: Any) -> float:
    """Four significant digits, away from the data, so that people can read the bound."""
    if value == 0 or not math.isfinite(value):
        return value
    digits = 3 - math.floor(math.log10(abs(value)))
    if not -300 < digits < 300:
        return value
    scaled = outwards(value * 10.0**digits)
    return float(scaled / 10**digits if digits >= 0 else scaled * 10**-digits)


def _yaml(value: Any, **options: Any) -> str:
    # Left unescaped, some line separators would be written by PyYAML in a form that it reads back as a space.
    readable = json.dumps(value, ensure_ascii=False).isprintable()
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=readable, **{"width": 110, **options}))


def _key(name: str) -> str:
    """The name as a key on one line, quoted only where it must be."""
    text = _yaml(name, width=math.inf).removesuffix("...\n").rstrip("\n")
    return text if "\n" not in text else _yaml(name, width=math.inf, default_style='"').rstrip("\n")


def _short(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
