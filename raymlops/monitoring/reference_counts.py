"""Counts that the drift of a version is judged against: its training rows, and its answers to its holdout."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.errors import DataError
from raymlops.features.rows import Rows
from raymlops.monitoring.building import layout_of_rows
from raymlops.monitoring.cells import Layout
from raymlops.monitoring.counts import Counts
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.references import answer_name, clock_column

CELL_ROWS = 200_000
"""Rows of a snapshot that cells are chosen from; they are in random order. All rows are counted in them."""
_WHOLE = "reference"


class InputCounts:
    """Filled a shard at a time: `answered`, `choose_cells`, `fitted`, and then it is a `reference`."""

    def __init__(self, config: Config, columns: list[str]) -> None:
        self._config, self._columns, self.answer = config, columns, answer_name(columns)
        self._answers: list[tuple[pa.Table, np.ndarray | None]] = []
        """Of the holdout, with their times."""
        self._layout: Layout | None = None
        self._inputs: Layout | None = None
        self._said: Layout | None = None

    def answered(self, table: pa.Table, answers: Any) -> None:
        """Rows of the holdout, and what was said to them, (n,)."""
        self._answers.append((self._said_to(answers), self._times(table)))

    def choose_cells(self, tables: Iterable[pa.Table], notes: list[str]) -> None:
        """From as many training rows as it takes, and all answers to the holdout."""
        sample: list[pa.Table] = []
        rows = 0
        for table in tables:
            sample.append(table.slice(0, CELL_ROWS - rows))
            rows += sample[-1].num_rows
            if rows >= CELL_ROWS:
                break
        known = pa.concat_tables(sample)
        if clock_column(self._config, known) is None and not self._config.monitoring.drift.independent:
            notes.append("drift is not judged: training rows have no time; name `data.time_column`")
            return
        said = pa.concat_tables([table for table, _ in self._answers]) if self._answers else None
        try:
            layout = layout_of_rows(known, self._columns, said)
        except DataError as error:
            notes.append(f"drift is not judged: {error}")
            return
        self._layout = layout
        self._inputs = _part([cells for cells in layout.features if cells.name != self.answer])
        self._said = _part([cells for cells in layout.features if cells.name == self.answer])
        self._counts, self._alike = Counts(layout), Counts(layout)
        for table, times in self._answers:
            self._add(self._counts, self._said, table, times)
        self._answers.clear()

    def fitted(self, table: pa.Table, answers: Any, inputs: bool) -> None:
        """Rows that the version was fitted on; `inputs` says whether they are what its inputs are compared with."""
        if self._layout is None:
            return
        times = self._times(table)
        if inputs:
            self._add(self._counts, self._inputs, table, times)
        if times is not None:
            self._add(self._alike, self._said, self._said_to(answers), times)

    def reference(self, notes: list[str]) -> Reference | None:
        """What was counted; None, with a note, when drift cannot be judged against it."""
        if self._layout is None:
            return None
        chosen = self._config.monitoring.drift
        made = partial(Reference.of_counts, self._counts, epsilon=chosen.epsilon, independent=chosen.independent)
        try:
            if self._counts.windows == [_WHOLE]:
                return made()
            return made(chosen.strata, alike=self._alike)
        except DataError as error:
            notes.append(f"drift is not judged: {error}")
            return None

    def _add(self, into: Counts, layout: Layout | None, table: pa.Table, times: np.ndarray | None) -> None:
        if layout is None:
            return
        if times is None:
            into.merge(Counts.of(layout, table, _WHOLE).placed(into.layout))
            return
        known = ~np.isnat(times)
        rows = table if known.all() else table.filter(pa.array(known))
        counts = Counts.by_day(layout, rows, times[known], self._config.monitoring.drift.strata)
        into.merge(counts.placed(into.layout))

    def _times(self, table: pa.Table) -> np.ndarray | None:
        clock = clock_column(self._config, table)
        return None if clock is None else Rows.of(table).times(clock)

    def _said_to(self, answers: Any) -> pa.Table:
        return pa.table({self.answer: pa.array(answers)})


def _part(features: list[Any]) -> Layout | None:
    return Layout(tuple(features)) if features else None
