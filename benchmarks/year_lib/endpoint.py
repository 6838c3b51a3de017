"""An endpoint that answers whole days at once: what it logs and is told lies in the store where a real one's would."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pandas as pd

from raymlops.config.tree import Config
from raymlops.serving.label_files import LabelRow, LabelWriter
from raymlops.serving.labels import label_text
from raymlops.serving.prediction_table import Record
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store


class Endpoint:
    """Writes by the prediction log's own writer and by that of labels."""

    def __init__(self, config: Config, store: Store) -> None:
        self.columns = list(config.features.raw_columns())
        self.target = config.data.target
        self._log = PartWriter(store, config.name, "replay", frozenset())
        self._labels = LabelWriter(store, config.name)

    def log(self, rows: pd.DataFrame, outputs: np.ndarray, version: str) -> None:
        """Answers to requests of one flight each, at the scheduled hours of departure."""
        records = list(self._records(rows, outputs, version))
        parts, lost = self._log.encode(records)
        assert not lost, self._log.last_error
        for _, part in parts:
            self._log.write(part)

    def label(self, rows: pd.DataFrame, received: datetime) -> None:
        """The flights' times in the air, as feedback on their predictions."""
        at = received.timestamp()
        values = rows[self.target].to_numpy(float)
        made = [LabelRow(_name(n), None, label_text(y), y, round(at * 1e6), at)
                for n, y in zip(rows.index, values, strict=True)]  # fmt: skip
        self._labels.write(made)

    def _records(self, rows: pd.DataFrame, outputs: np.ndarray, version: str) -> Iterator[Record]:
        times = rows["time_hour"].to_numpy("datetime64[s]").astype(float)
        inputs = [rows[name].tolist() for name in self.columns]
        for n, time, output, *values in zip(rows.index, times, outputs.tolist(), *inputs, strict=True):
            given = {name: [value] for name, value in zip(self.columns, values, strict=True)}
            answer = {OUTPUT: [output]}
            yield Record(float(time), _name(n), version, "champion", 1.0, None, given, answer, 1, 0.001, "ok")


OUTPUT = "prediction"


def _name(number: int) -> str:
    return f"flight-{number}"
