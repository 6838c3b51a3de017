"""What the model takes and answers, as requests are checked against it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from raymlops.config.serving import AssignmentKey, Limits

if TYPE_CHECKING:
    from raymlops.features.state import FeatureState
    from raymlops.registry.package import ModelPackage, PackageConfig

NUMBER, TEXT, TIME, TENSOR, MIXED = "number", "text", "time", "tensor", "mixed"
DATATYPES = {NUMBER: "FP64", TEXT: "BYTES", TIME: "BYTES", TENSOR: "FP32"}
LEAST_VALUES = 8
"""Per row: as many as a label has in feedback, whatever the model reads."""


@dataclass(frozen=True)
class Column:
    """A raw column. `kinds` are the ways in which features read it: number, text, time or tensor."""

    name: str
    kinds: frozenset[str]
    shape: tuple[int, ...] = ()
    """Of one row's array, for tensors."""
    required: bool = True
    nan_is_missing: bool = False
    """Whether NaN stands for a missing value in requests, as null always does."""
    kind: str = field(init=False)
    """The one way, or `mixed`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", next(iter(self.kinds)) if len(self.kinds) == 1 else MIXED)

    def takes(self, other: Column) -> bool:
        """Whether every value that may stand in `other` may stand here. Numbers and times are texts as well."""
        also = other.kinds | ({TEXT} if other.kinds & {NUMBER, TIME} else set())
        return self.kinds <= also and (TENSOR not in self.kinds or self.shape == other.shape)

    @property
    def described(self) -> str:
        shape = f" of shape {list(self.shape)}" if self.shape else ""
        return " and ".join(sorted(self.kinds)) + shape

    @property
    def datatype(self) -> str:
        """The datatype that the metadata name; others that say the same are taken too."""
        if self.kind != MIXED:
            return DATATYPES[self.kind]
        return "FP32" if TENSOR in self.kinds else "BYTES" if TIME in self.kinds else "FP64"


@dataclass(frozen=True)
class ModelSchema:
    """Columns in, `prediction` and `probability_CLASS` out."""

    name: str
    versions: tuple[str, ...]
    """The champion's first."""
    task: str
    columns: Mapping[str, Column]
    classes: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(init=False)
    """Name → datatype, in the order of replies."""
    required: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        outputs = {"prediction": "BYTES" if self.classes else "FP64"}
        outputs |= {f"probability_{label}": "FP64" for label in self.classes}
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "required", frozenset(c.name for c in self.columns.values() if c.required))

    @classmethod
    def of(cls, package: ModelPackage, name: str, versions: Sequence[str]) -> ModelSchema:
        """Of a loaded package; `versions` are the registered ones that the endpoint answers with."""
        return cls.of_parts(package.config, package.transform.state, name, versions)

    @classmethod
    def of_parts(cls, config: PackageConfig, state: FeatureState, name: str, versions: Sequence[str]) -> ModelSchema:
        """Of a package's configuration and of what its features learned; the weights do not matter."""
        features, inputs = config.features, state.inputs
        kinds: dict[str, set[str]] = {column: set() for column in features.raw_columns()}
        for kind, names in (
            (NUMBER, features.numeric),
            (TEXT, features.categorical),
            (TIME, features.dates),
            (TENSOR, features.tensor),
        ):
            for column in names:
                if column not in features.derived:
                    kinds[column].add(kind)
        for derived in features.derived.values():
            for column in derived.inputs:
                kinds[column].add(inputs[column])
        columns = {
            column: Column(column, frozenset(found), tuple(features.tensor[column].shape) if TENSOR in found else ())
            for column, found in kinds.items()
        }
        classes = () if config.task == "regression" else tuple(state.target["classes"])
        return cls(name, tuple(versions), config.task, columns, classes)

    def accepting(self, other: ModelSchema) -> ModelSchema:
        """This schema, plus optional columns that only `other` (a candidate) reads, and its ways to read the others.
        Whatever this one takes is taken: a way that would refuse some of it is left out, and `other` fails there."""
        columns = dict(self.columns)
        for name, column in other.columns.items():
            mine = columns.get(name)
            if mine is None:
                columns[name] = replace(column, required=False)
            elif mine.kinds != column.kinds and column.takes(mine):
                columns[name] = replace(mine, kinds=mine.kinds | column.kinds, shape=mine.shape or column.shape)
        versions = (*self.versions, *(version for version in other.versions if version not in self.versions))
        return replace(self, columns=columns, versions=versions)

    def not_taken_by(self, other: ModelSchema) -> list[str]:
        """Why requests as this model takes them would not do for `other`, a phrase a column; empty when all do."""
        new, gone = other.columns.keys() - self.columns.keys(), self.columns.keys() - other.columns.keys()
        found = [f"it needs the column {name!r}, which requests need not have now" for name in sorted(new)]
        found += [f"it does not know the column {name!r}, which requests have now" for name in sorted(gone)]
        for name in sorted(self.columns.keys() & other.columns.keys()):
            mine, theirs = self.columns[name], other.columns[name]
            if not theirs.takes(mine):
                found.append(f"it reads the column {name!r} as {theirs.described}, which is {mine.described} now")
        return found

    def with_versions(self, versions: Sequence[str]) -> ModelSchema:
        return replace(self, versions=tuple(versions))


@dataclass(frozen=True)
class Rules:
    """Everything a request is checked against. Immutable: a new champion brings new rules."""

    schema: ModelSchema
    limits: Limits = field(default_factory=Limits)
    key: AssignmentKey = field(default_factory=AssignmentKey)
    nan_is_missing: bool = False
    columns: Mapping[str, Column] = field(init=False)
    """Of the model, and the column of the key when the model has none of that name."""
    key_header: str = field(init=False)
    """In lower case."""
    foreign_key: str | None = field(init=False)
    """That column: accepted, and not passed on."""
    containers: int = field(init=False)
    """Most lists and objects that a sensible body has. Each takes 30 times the memory of its two brackets."""
    values: int = field(init=False)
    """Most commas between values that a sensible body has."""

    def __post_init__(self) -> None:
        columns, foreign = dict(self.schema.columns), None
        name = self.key.column
        if name is not None and name not in columns:
            columns[name], foreign = Column(name, frozenset((TEXT,)), required=False), name
        if self.nan_is_missing:
            columns = {name: replace(column, nan_is_missing=True) for name, column in columns.items()}
        inner = sum(math.prod(column.shape[:-1]) * 2 for column in columns.values() if column.shape)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "foreign_key", foreign)
        object.__setattr__(self, "key_header", self.key.header.lower())
        per_row = 2 + 2 * len(columns) + inner
        object.__setattr__(self, "containers", 256 + 8 * len(columns) + per_row * self.limits.rows)
        per_row = max(LEAST_VALUES, len(columns) + sum(math.prod(column.shape) for column in columns.values()))
        object.__setattr__(self, "values", 256 + 8 * len(columns) + per_row * self.limits.rows)
