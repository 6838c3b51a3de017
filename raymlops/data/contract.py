"""The contract: what data must look like, inferred from the first snapshot, edited by people, checked ever after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import Field, ValidationError

from raymlops.config.base import Node
from raymlops.config.tree import Config
from raymlops.data.profile import ColumnProfile, Profile, widest
from raymlops.errors import ConfigError, Refused

MAX_CATEGORIES = 100
EXAMPLES = 3

HEADER = """\
# What this model's data must look like. Inferred from the first snapshot; edit it, it will not be overwritten.
# kind: integer, number, boolean, string, timestamp or tensor.  nullable: false refuses any missing value.
# max_null_fraction: largest share of missing values.  min, max: allowed range.
# categories: values seen. They are only information until closed: true makes any other value a violation.
# keys: columns that together identify a row.  min_rows: fewer rows are refused.
# max_age: largest age of the newest row, in seconds or as ISO 8601 (P2D is two days).
"""


class ColumnContract(Node):
    kind: Literal["integer", "number", "boolean", "string", "timestamp", "tensor"]
    nullable: bool = True
    max_null_fraction: float | None = Field(default=None, ge=0, le=1)
    min: float | None = None
    max: float | None = None
    categories: list[str] | None = None
    closed: bool = False


class Contract(Node):
    version: Literal[1] = 1
    columns: dict[str, ColumnContract]
    keys: list[str] = []
    min_rows: int = Field(default=1, ge=1)
    time_column: str | None = None
    max_age: timedelta | None = None

    def to_yaml(self) -> str:
        plain = self.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
        for column in plain["columns"].values():
            if "categories" not in column:
                column.pop("closed")
        return HEADER + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def from_yaml(cls, text: str, where: str) -> Contract:
        """Raises ConfigError naming the file, the key path and what is wrong."""
        try:
            return cls.model_validate(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
        except ValidationError as error:
            problems = [
                f"{where}: {'.'.join(map(str, e['loc']))}: found {e['input']!r}; {e['msg'][0].lower()}{e['msg'][1:]}"
                for e in error.errors(include_url=False)
            ]
            raise ConfigError(problems) from None


@dataclass(frozen=True)
class Violation:
    """One broken promise."""

    column: str
    check: str
    threshold: str
    observed: str
    examples: tuple[Any, ...] = ()

    def __str__(self) -> str:
        shown = f"; for example {', '.join(map(str, self.examples))}" if self.examples else ""
        return f"{self.column}: {self.check}: allowed {self.threshold}, observed {self.observed}{shown}"


class ContractViolated(Refused):
    """The data breaks its contract; nothing was stored or trained."""

    def __init__(self, violations: list[Violation], where: str) -> None:
        self.violations = violations
        lines = "\n".join(f"  {violation}" for violation in violations)
        super().__init__(f"the data breaks the contract {where}:\n{lines}")


def infer(profile: Profile, config: Config) -> Contract:
    """A contract that the profiled data keeps, with slack for what later data may reasonably do."""
    slack = config.data.contract.range_slack
    columns = {name: _infer_column(c, slack, name == config.data.target) for name, c in profile.columns.items()}
    return Contract(
        columns=columns,
        keys=config.data.contract.keys,
        min_rows=max(1, profile.rows // 10),
        time_column=config.time_column,
        max_age=config.data.contract.max_age,
    )


def _infer_column(column: ColumnProfile, slack: float, is_label: bool) -> ColumnContract:
    kind = "string" if column.kind == "null" else column.kind
    found: dict[str, Any] = {"kind": kind, "nullable": column.nulls > 0 and not is_label}
    if column.nulls and not is_label:
        found["max_null_fraction"] = round(min(1.0, 2 * column.nulls / column.rows + 0.01), 4)
    if kind in ("integer", "number") and isinstance(column.minimum, float) and isinstance(column.maximum, float):
        span = (column.maximum - column.minimum) or abs(column.maximum) or 1.0
        if np.isfinite(span):
            low, high = column.minimum - slack * span, column.maximum + slack * span
            # Quantities that were never negative rarely become so by chance.
            found |= {"min": _rounded(0.0 if low < 0 <= column.minimum else low), "max": _rounded(high)}
    if kind == "string" and 0 < column.distinct <= MAX_CATEGORIES:
        every = column.top.get_frequent_items(_no_false_negatives())
        found["categories"] = sorted(item[0] for item in every)
    return ColumnContract.model_validate(found)


def row_checks(contract: Contract, table: pa.Table) -> dict[tuple[str, str], np.ndarray]:
    """(column, check) to a boolean mask of offending rows, only for checks that some row fails.

    Columns that are missing or of another kind are the business of `schema_violations`.
    """
    masks: dict[tuple[str, str], np.ndarray] = {}
    for name, rule in contract.columns.items():
        if name not in table.column_names:
            continue
        column = table.column(name)
        failed: dict[str, pa.ChunkedArray] = {}
        if not rule.nullable:
            failed["null"] = pc.is_null(column, nan_is_null=True)
        if rule.kind in ("integer", "number") and (rule.min is not None or rule.max is not None):
            numbers = column.cast(pa.float64(), safe=False)
            if rule.min is not None:
                failed["min"] = pc.less(numbers, rule.min)
            if rule.max is not None:
                failed["max"] = pc.greater(numbers, rule.max)
        if rule.closed and rule.categories is not None:
            known = pc.is_in(column.cast(pa.string()), pa.array(rule.categories, pa.string()))
            failed["category"] = pc.and_(pc.invert(known), pc.is_valid(column))
        for check, mask in failed.items():
            array = mask.fill_null(False).to_numpy()
            if array.any():
                masks[name, check] = array
    return masks


def threshold(contract: Contract, column: str, check: str) -> str:
    """What a check allows, in words."""
    rule = contract.columns[column]
    if check == "category":
        return f"one of {', '.join((rule.categories or [])[:10])}"
    return {"null": "no missing values", "min": f">= {rule.min:g}" if rule.min is not None else "",
            "max": f"<= {rule.max:g}" if rule.max is not None else ""}[check]  # fmt: skip


def schema_violations(contract: Contract, kinds: dict[str, str]) -> list[Violation]:
    """Missing columns and changed kinds. Extra columns are allowed."""
    found = []
    for name, rule in contract.columns.items():
        if name not in kinds:
            found.append(Violation(name, "schema", f"a column of kind {rule.kind}", "no such column"))
        elif widest(rule.kind, kinds[name]) != rule.kind:
            found.append(Violation(name, "schema", f"kind {rule.kind}", f"kind {kinds[name]}"))
    return found


def set_violations(contract: Contract, profile: Profile, newest: datetime | None, now: datetime) -> list[Violation]:
    """Checks on the data as a whole: null fractions, volume and freshness."""
    found = []
    for name, rule in contract.columns.items():
        column = profile.columns.get(name)
        if column is None or rule.max_null_fraction is None or not column.rows:
            continue
        share = column.nulls / column.rows
        if share > rule.max_null_fraction:
            observed = f"{share:.4f} ({column.nulls} of {column.rows} rows)"
            found.append(Violation(name, "null_fraction", f"<= {rule.max_null_fraction:g}", observed))
    if profile.rows < contract.min_rows:
        found.append(Violation("(rows)", "volume", f">= {contract.min_rows} rows", f"{profile.rows} rows"))
    if contract.max_age is not None and newest is not None:
        age = now.astimezone(UTC).replace(tzinfo=None) - newest
        if age > contract.max_age:
            column_name = contract.time_column or "(time)"
            allowed = f"newest row at most {contract.max_age} old"
            found.append(Violation(column_name, "freshness", allowed, f"{age} old (newest {newest.isoformat()})"))
    return found


def new_categories(contract: Contract, profile: Profile) -> dict[str, list[str]]:
    """Values of open category columns that the contract does not list: reported, not refused."""
    found = {}
    for name, rule in contract.columns.items():
        if rule.categories is None or rule.closed or name not in profile.columns:
            continue
        seen = {item[0] for item in profile.columns[name].top.get_frequent_items(_no_false_negatives())}
        fresh = sorted(seen - set(rule.categories))
        if fresh:
            found[name] = fresh
    return found


def _no_false_negatives() -> Any:
    import datasketches

    return datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
