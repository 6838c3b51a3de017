"""Predictions computed again from what was logged and what was registered.

`replay` asks for the same bits. A matrix product rounds by how many rows it has and which of them it looks at, and an
endpoint scores requests together that come at the same time; so the request is computed alone and, if that differs,
as part of batches of every size that the endpoint could have formed. No other model gives these bits by chance.
`replay_skew` asks whether batch scoring gives what the endpoint gave, up to that rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.config.features import FeaturesConfig
from raymlops.config.tree import Config
from raymlops.errors import DataError, RaymlopsError, StoreError
from raymlops.monitoring.label_shape import INPUT, OUTPUT, as_kind
from raymlops.monitoring.label_units import answered
from raymlops.serving.packages import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE
from raymlops.serving.parts import split_covered
from raymlops.serving.prediction_reader import predictions_path, read_part
from raymlops.serving.prediction_table import unify
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.backend import Tracking
    from raymlops.registry.package import ModelPackage

MOST_ROTATED = 32
"""Rows of a request up to which every place in a batch is tried."""
_EXAMPLES = 5
_TRIES = 20


def find_prediction(store: Store, endpoint: str, prediction_id: str) -> pa.Table:
    """The rows of a prediction in the log, by row; copies for a shadow after them. Newest days are searched first.

    Raises RaymlopsError when it is not there.
    """
    root = predictions_path(endpoint)
    for day in sorted(store.list(root), reverse=True):
        found = _on_day(store, f"{root}/{day}", prediction_id)
        if found.num_rows:
            found = found.append_column("copy", pc.equal(found.column("status"), "shadow"))
            order = [(name, "ascending") for name in ("copy", "version", "row")]
            return found.sort_by(order).drop_columns(["copy"])
    raise RaymlopsError(
        f"prediction {prediction_id!r}: not in the log of {endpoint!r} in {store.uri}; answers are there within "
        "`serving.log.flush_s`, unless `serving.log` is off, keeps a sample, or dropped it"
    )


def _on_day(store: Store, folder: str, prediction_id: str) -> pa.Table:
    for _ in range(_TRIES):
        found = []
        try:
            for name in split_covered(store.list(folder))[0]:
                ids = read_part(store, f"{folder}/{name}", ["prediction_id"]).column("prediction_id")
                if pc.any(pc.equal(ids, prediction_id)).as_py():
                    table = read_part(store, f"{folder}/{name}")
                    found.append(table.filter(pc.equal(table.column("prediction_id"), prediction_id)))
            return unify(found)
        except FileNotFoundError:  # merged between listing and reading: the next listing has its rows
            continue
    raise StoreError(f"{store.location(folder)} changes faster than it can be read")


@dataclass(frozen=True)
class Replay:
    """A prediction, computed again."""

    prediction_id: str
    version: str
    rows: int
    equal: bool
    """Every bit of every output, in a batch that the endpoint could have formed."""
    batch: int | None
    """Rows of that batch; None if there is none. The request's own rows when it was scored alone."""
    close: bool
    """Up to the rounding that machines differ by."""
    largest: float
    """Largest absolute difference of a number, scored alone."""
    logged: dict[str, list[Any]]
    replayed: dict[str, list[Any]]
    """Outputs by column; replayed in that batch, else alone."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def replay(
    store: Store, tracking: Tracking, endpoint: str, prediction_id: str, *, batch_rows: int = 256, threads: int = 1
) -> Replay:
    """Computes a prediction again with the registered version that answered it.

    `batch_rows` and `threads` are those of `serving:`. Raises RaymlopsError when the prediction is not in the log, has
    no answer, or its version is not registered any more; IntegrityError when a stored package was changed.
    """
    from raymlops.registry.versions import find_version

    given = answered(find_prediction(store, endpoint, prediction_id)).sort_by("row")
    if not given.num_rows:
        raise RaymlopsError(f"prediction {prediction_id!r}: was not answered, so there is nothing to compare with")
    version = given.column("version")[0].as_py()
    package = find_version(tracking, f"{endpoint}/{version}").load()
    n = given.num_rows
    logged = _logged(given)
    inputs = logged_inputs(given, package.config.features)
    with _threads(threads):
        alone = package.predict_columns(_columns(inputs), n)
        batch: int | None = n if _same_bits(alone, logged) else None
        replayed = alone
        if batch is None:
            for size, answer in _in_batches(package, inputs, batch_rows):
                if _same_bits(answer, logged):
                    batch, replayed = size, answer
                    break
    different, largest = _differences(logged, alone)
    return Replay(
        prediction_id,
        version,
        n,
        batch is not None,
        batch,
        not different.any(),
        largest,
        {name: values.tolist() for name, values in logged.items()},
        {name: replayed[name].tolist() for name in logged},
    )


@dataclass(frozen=True)
class SkewReport:
    """Logged rows through batch scoring, compared with what the endpoint answered."""

    rows: int
    """Answered rows that were replayed."""
    different: int
    """By more than rounding (relative 1e-5, absolute 1e-6), or another class."""
    largest: float
    """Largest absolute difference of a number."""
    examples: list[str]
    """Ids of up to five predictions that differ."""
    unknown: list[str]
    """Versions that are not registered any more, or that read columns which the log does not keep; their rows were not
    replayed."""
    reason: str | None
    """Why a version could not read rows that the endpoint had read; all of its rows count as different."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def replay_skew(store: Store, config: Config, table: pa.Table) -> SkewReport:
    """Train/serve skew of some rows of the log, as `read_predictions` gives them; unanswered rows are left out."""
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import find_version

    where = tracking(config.tracking.uri, store)
    given = answered(table)
    rows, different, largest = 0, 0, 0.0
    examples: list[str] = []
    unknown: list[str] = []
    reason = None
    for version in sorted(set(given.column("version").to_pylist()) if given.num_rows else ()):
        mine = given.filter(pc.equal(given.column("version"), version))
        try:
            package = find_version(where, f"{config.name}/{version}").load()
        except RaymlopsError:
            unknown.append(version)
            continue
        if not set(config.serving.log.redact).isdisjoint(package.config.features.raw_columns()):
            unknown.append(version)
            continue
        rows += mine.num_rows
        logged = _logged(mine)
        try:
            frame = logged_inputs(mine, package.config.features).to_pandas()
            answer = {str(name): column.to_numpy() for name, column in package.predict(frame).items()}
            differs, most = _differences(logged, answer)
        except DataError as error:
            reason = f"version {version}: {error}"
            differs, most = np.ones(mine.num_rows, np.bool_), 0.0
        different += int(differs.sum())
        largest = max(largest, most)
        ids = mine.column("prediction_id").filter(pa.array(differs)).to_pylist()
        examples += list(dict.fromkeys(ids))[: _EXAMPLES - len(examples)]
    return SkewReport(rows, different, largest, examples, unknown, reason)


def logged_inputs(rows: pa.Table, features: FeaturesConfig) -> pa.Table:
    """The raw columns that a model with these features reads, out of rows of the log, in the types it read."""
    columns = {}
    for name in features.raw_columns():
        if INPUT + name not in rows.column_names:
            raise DataError(
                f"column {name!r}: not in the log (`serving.log.redact`?), so nothing can be computed again"
            )
        column = rows.column(INPUT + name)
        if name in features.tensor:
            column = as_kind(name, column, "tensor")
        elif name in features.numeric and name not in features.categorical:
            column = as_kind(name, column, "number")
        columns[name] = column
    return pa.table(columns)


def _columns(inputs: pa.Table) -> dict[str, Any]:
    return {name: inputs.column(name) for name in inputs.column_names}


def _logged(rows: pa.Table) -> dict[str, np.ndarray]:
    """Outputs by column; those that no row of this version has are other versions'."""
    found = {}
    for name in rows.column_names:
        if name.startswith(OUTPUT) and rows.column(name).null_count < rows.num_rows:
            values = rows.column(name).to_numpy()
            found[name.removeprefix(OUTPUT)] = values if values.dtype.kind == "f" else values.astype(object)
    return found


def _in_batches(
    package: ModelPackage, inputs: pa.Table, batch_rows: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The request's answer at every place in batches of every size, filled with its own rows: what stands in other
    rows does not change a row."""
    n = inputs.num_rows
    for size in range(n + 1, batch_rows + 1):
        turns = []
        for turn in range(n if n <= MOST_ROTATED else 1):
            order = pa.array((np.arange(size) + turn) % n)
            turns.append(package.predict_columns(_columns(inputs.take(order)), size))
        for start in range(size - n + 1):
            turn = -start % n  # the turn in which the request's first row stands at `start`
            if turn < len(turns):
                yield size, {name: values[start : start + n] for name, values in turns[turn].items()}


def _same_bits(answer: dict[str, np.ndarray], logged: dict[str, np.ndarray]) -> bool:
    return all(name in answer and _equal(answer[name], values) for name, values in logged.items())


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return bool(np.array_equal(one.astype(np.float64).view(np.int64), other.astype(np.float64).view(np.int64)))
    return bool(one.tolist() == other.tolist())


def _differences(logged: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Which rows differ by more than rounding, and the largest absolute difference of a number."""
    n = len(next(iter(logged.values())))
    differs, largest = np.zeros(n, np.bool_), 0.0
    for name, values in logged.items():
        other = answer.get(name)
        if other is None:
            return np.ones(n, np.bool_), largest
        if values.dtype.kind == "f" and other.dtype.kind == "f":
            differs |= ~np.isclose(other, values, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE)
            largest = max(largest, float(np.abs(other - values).max(initial=0.0)))
        elif len(logged) == 1:  # else the probabilities say it: of two that are equal but for rounding, either is right
            differs |= np.array([str(a) != str(b) for a, b in zip(other, values, strict=True)], np.bool_)
    return differs, largest


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch adds up in another order with another number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
