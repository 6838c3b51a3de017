"""`features:` how raw columns become arrays."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raymlops.config.base import ImportPath, Node

DatePart = Literal["hour", "minute_of_day", "weekday", "day", "day_of_year", "month", "year"]


class NumericFeature(Node):
    """One float32 column (two with `missing_indicator`)."""

    impute: Literal["mean", "median", "constant"] = "median"
    fill: float = 0.0
    """The value for `impute: constant`."""
    transform: Literal["none", "log"] = "none"
    """`log` is sign(x)·log(1 + |x|), applied before scaling."""
    scale: Literal["none", "standard", "robust", "minmax"] = "standard"
    """`standard`: (x − mean) / std. `robust`: (x − median) / interquartile range. `minmax`: to [0, 1]."""
    clip: float | None = Field(default=10.0, gt=0)
    """Scaled values are clipped to ±clip; null switches it off."""
    missing_indicator: bool = False
    """Adds a 0/1 column that says where the value was missing."""


class CategoricalFeature(Node):
    """One int32 column: 0 missing, 1 rare or unseen in training, 2 and up the categories, most frequent first."""

    min_count: int = Field(default=1, ge=1)
    """Categories seen fewer times in training are rare."""
    max_categories: int = Field(default=1000, ge=1)
    """Categories beyond the most frequent ones are rare."""


class TensorFeature(Node):
    """A numeric array per row, passed through as float32."""

    shape: list[int] = Field(min_length=1)
    """Shape of one row's array; its product must equal the number of values in a row."""
    divide_by: float = Field(default=1.0, gt=0)


class DateFeature(Node):
    """Parts of a timestamp, each a pair of float32 columns (sine, cosine); `year` is one standardised column."""

    parts: list[DatePart] = Field(min_length=1)


class DerivedFeature(Node):
    """A column computed by your function before the other features; then declare it under numeric or categorical."""

    function: ImportPath
    """Takes the columns in `inputs` as NumPy arrays of length n (and `params`), returns an array of length n."""
    inputs: list[str] = Field(min_length=1)
    params: dict[str, Any] = {}


class FeaturesConfig(Node):
    numeric: dict[str, NumericFeature] = {}
    categorical: dict[str, CategoricalFeature] = {}
    tensor: dict[str, TensorFeature] = {}
    dates: dict[str, DateFeature] = {}
    derived: dict[str, DerivedFeature] = {}

    @model_validator(mode="after")
    def _consistent(self) -> FeaturesConfig:
        if not (self.numeric or self.categorical or self.tensor or self.dates):
            raise ValueError("declare at least one feature under numeric, categorical, tensor or dates")
        reserved = self.tensor.keys() & {"numeric", "categorical", "target"}
        if reserved:
            raise ValueError(
                f"tensor features cannot be named {', '.join(sorted(reserved))}: models get those keys already"
            )
        twice = self.numeric.keys() & self.categorical.keys()
        if twice:
            raise ValueError(f"declared both numeric and categorical: {', '.join(sorted(twice))}")
        unused = self.derived.keys() - self.numeric.keys() - self.categorical.keys()
        if unused:
            raise ValueError(f"derived but declared neither numeric nor categorical: {', '.join(sorted(unused))}")
        return self

    def raw_columns(self) -> list[str]:
        """Columns that must be present in a raw row, in a fixed order."""
        used = {*self.numeric, *self.categorical, *self.tensor, *self.dates} - self.derived.keys()
        for derived in self.derived.values():
            used.update(derived.inputs)
        return sorted(used)
