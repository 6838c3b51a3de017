"""`data:` where rows come from, what they must look like, and how they are split."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymlops.config.base import ImportPath, Node


class ParquetSource(Node):
    kind: Literal["parquet"]
    path: str | list[str]
    """File, directory, or list of them; a local path (relative to the configuration file) or a pyarrow/fsspec URI."""


class CsvSource(Node):
    kind: Literal["csv"]
    path: str | list[str]
    """File, directory, or list of them; a local path (relative to the configuration file) or a pyarrow/fsspec URI."""
    delimiter: str = ","
    null_values: list[str] = ["", "NA", "NaN", "null"]
    """Cells that mean "missing"."""


class DeltaSource(Node):
    kind: Literal["delta"]
    path: str
    """Root of the Delta Lake table."""
    version: int | None = Field(default=None, ge=0)
    """Table version to read; the latest when absent. The version read is recorded in the snapshot either way."""
    timestamp: datetime | None = None
    """Read the table as it was at this time instead of by version."""

    @model_validator(mode="after")
    def _one_of_version_and_timestamp(self) -> DeltaSource:
        if self.version is not None and self.timestamp is not None:
            raise ValueError("give version or timestamp, not both")
        return self


class SqlSource(Node):
    kind: Literal["sql"]
    query: str
    connection: ImportPath
    """Function without arguments that returns a DB-API 2 connection; secrets stay in that function's environment."""


class FunctionSource(Node):
    kind: Literal["function"]
    function: ImportPath
    """Returns a `ray.data.Dataset`; called with `params` as keyword arguments."""
    params: dict[str, Any] = {}


Source = Annotated[
    ParquetSource | CsvSource | DeltaSource | SqlSource | FunctionSource,
    Field(discriminator="kind"),
]


class TimeSplit(Node):
    """Rows are dealt by their time: `[start, validation_from)` trains, then validation, then holdout up to `end`."""

    by: Literal["time"]
    column: str
    start: datetime | None = None
    """Rows before this are left out (and counted)."""
    validation_from: datetime
    holdout_from: datetime
    end: datetime | None = None
    """Rows at or after this are left out (and counted)."""

    @model_validator(mode="after")
    def _ordered(self) -> TimeSplit:
        marks = [self.start, self.validation_from, self.holdout_from, self.end]
        known = [m.replace(tzinfo=None) for m in marks if m is not None]
        if any(a >= b for a, b in itertools.pairwise(known)):
            raise ValueError("expected start < validation_from < holdout_from < end")
        return self


class HashSplit(Node):
    """Rows are dealt by a hash of `key`: all rows of one key land in the same part, on every machine, in every run."""

    by: Literal["hash"]
    key: str | list[str]
    validation: float = Field(default=0.1, gt=0, lt=1)
    holdout: float = Field(default=0.2, gt=0, lt=1)
    salt: str = "raymlops"

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> HashSplit:
        if self.validation + self.holdout >= 0.95:
            raise ValueError("validation + holdout must stay below 0.95 so that training rows remain")
        return self


class ContractConfig(Node):
    """What data must look like: inferred from the first snapshot into an editable YAML file, checked from then on."""

    path: str | None = None
    """The contract file, relative to the configuration file; `STORAGE/contracts/NAME.yaml` when absent."""
    action: Literal["stop", "quarantine"] = "stop"
    """`stop` ends the run (exit code 3) at the first violation; `quarantine` moves offending rows aside."""
    max_quarantined: float = Field(default=0.01, ge=0, le=1)
    """Largest share of rows that may be moved aside before the run is stopped all the same."""
    keys: list[str] = []
    """Columns that together identify a row; written into the inferred contract as a uniqueness check."""
    max_age: timedelta | None = None
    """Largest age of the newest row, measured on the run's clock; written into the inferred contract."""
    range_slack: float = Field(default=0.5, ge=0)
    """Inferred ranges are widened by this share of the observed span on both sides."""


class DataConfig(Node):
    source: Source
    columns: list[str] | None = None
    """Columns to keep; all when absent. Columns that the configuration names elsewhere must be among them."""
    target: str
    """The label column."""
    time_column: str | None = None
    """Event time; used for the snapshot's time range and freshness. The split's column when splitting by time."""
    split: Annotated[TimeSplit | HashSplit, Field(discriminator="by")]
    contract: ContractConfig = ContractConfig()
    in_memory_share: float = Field(default=0.3, ge=0, le=0.9)
    """Encoded data up to this share of the object store is put there once and read zero-copy; larger data is streamed
    from shards. 0 always streams."""
    shard_rows: int = Field(default=131_072, ge=1)
    """Rows per stored shard. Part of the snapshot's identity, because batch order is drawn shard by shard."""
