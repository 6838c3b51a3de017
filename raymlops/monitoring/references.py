"""What a registered version is compared with in production: made once, and kept beside what is known of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.errors import IntegrityError
from raymlops.monitoring.losses import LossLevels
from raymlops.monitoring.margins import Array
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.row_losses import PREDICTION
from raymlops.store import Store

if TYPE_CHECKING:
    from raymlops.registry.versions import VersionRef

FORMAT = 2


@dataclass(frozen=True)
class References:
    """Of one version. `drift` and `levels` are None when they are not watched or cannot be; `notes` say why."""

    drift: Reference | None
    levels: LossLevels | None
    scale: float
    """Error of a row that is a loss of 1: absolute, or minus log-likelihood; 1 for wrong classes."""
    slices: dict[str, list[str]]
    """Column → values that are slices of their own."""
    notes: list[str]
    """What is not watched, and why."""
    answer: str = PREDICTION
    """What the drift monitor calls the prediction, beside the inputs."""

    def losses(self, errors: Array) -> Array:
        """Errors of rows, (n,), counted up to the scale, in [0, 1]."""
        return np.asarray(np.minimum(1.0, errors / self.scale))

    def watched(self, inputs: pa.Table, answers: Any) -> pa.Table:
        """Rows as the drift monitor counts them: the inputs that it watches, absent ones as missing, and what was
        predicted for them, (n,). Only with `drift`."""
        assert self.drift is not None
        return watched_rows([cells.name for cells in self.drift.layout.features], self.answer, inputs, answers)

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "drift": None if self.drift is None else json.loads(self.drift.to_json()),
                "levels": None if self.levels is None else self.levels.to_dict(),
                "scale": self.scale,
                "slices": self.slices,
                "notes": self.notes,
                "answer": self.answer,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> References:
        """Raises IntegrityError when it is not what `to_json` wrote."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, expected {FORMAT}")
            drift = None if data["drift"] is None else Reference.from_json(json.dumps(data["drift"]))
            levels = None if data["levels"] is None else LossLevels.from_dict(data["levels"])
            slices, notes, answer = dict(data["slices"]), list(data["notes"]), str(data["answer"])
            return cls(drift, levels, float(data["scale"]), slices, notes, answer)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"references: cannot be read ({type(error).__name__}: {error})") from error


def references_path(endpoint: str, version: str) -> str:
    return f"monitoring/{endpoint}/{version}/references.json"


def settings_digest(config: Config) -> str:
    """Of everything that references and detectors depend on: another one starts them afresh, and so does another form
    in which they are kept."""
    chosen = [config.monitoring.model_dump_json(), config.gate.slices, config.task, config.serving.log.redact]
    return hashlib.sha256(json.dumps([FORMAT, *chosen]).encode()).hexdigest()[:16]


def references_of(config: Config, store: Store, version: VersionRef) -> References:
    """Those that were written, unless settings have changed since; made and written otherwise.

    Making them reads the snapshot and scores it. Raises StoreError when the snapshot is gone, IntegrityError when
    something was changed.
    """
    from raymlops.monitoring.reference_making import make_references

    path, digest = references_path(config.name, version.version), settings_digest(config)
    try:
        written = json.loads(store.read(path)) if store.exists(path) else None
    except ValueError as error:
        raise IntegrityError(f"{store.location(path)}: is no JSON ({error})") from error
    if written is not None and written.get("settings") == digest:
        return References.from_json(json.dumps(written["references"]))
    made = make_references(config, store, version)
    content = {"settings": digest, "package": version.package_sha256, "references": json.loads(made.to_json())}
    store.write(path, json.dumps(content, separators=(",", ":")).encode())
    return made


def answer_name(inputs: Collection[str]) -> str:
    """What the prediction is called beside inputs: not what one of them is."""
    return PREDICTION if PREDICTION not in inputs else f"output.{PREDICTION}"


def watched_rows(names: Collection[str], answer: str, inputs: pa.Table, answers: Any) -> pa.Table:
    """The named columns of some rows, absent ones as missing, and what was predicted for them as `answer`."""
    present, found = set(inputs.column_names), dict[str, Any]()
    for name in names:
        if name != answer:
            found[name] = inputs.column(name) if name in present else pa.nulls(inputs.num_rows)
    return pa.table({**found, answer: pa.array(answers) if isinstance(answers, np.ndarray) else answers})


def clock_column(config: Config, table: pa.Table) -> str | None:
    """The column whose days the rows of a snapshot belong to; a retraining's rows have the time of the prediction."""
    chosen = None if config.monitoring.time == PREDICTION else config.monitoring.time
    ours = "time" in config.features.dates or "time" not in config.features.raw_columns()  # else it may be anything
    wanted = (chosen, config.time_column, "time" if ours else None)
    return next((name for name in wanted if name is not None and name in table.column_names), None)
