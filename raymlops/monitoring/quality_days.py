"""What is wrong with a day's rows: rules of the contract, train/serve skew, volume and freshness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.data.checks import Violation
from raymlops.data.contract import Contract
from raymlops.monitoring.day_rows import clock, inputs_of, start_of
from raymlops.monitoring.label_shape import INPUT, as_kind
from raymlops.monitoring.quality import QualityCounts, QualityLimits, quality_violations, volume_violations
from raymlops.store import Store


class DayQuality:
    """The contract and skew are about the rows of the version, volume and freshness about all answers of the endpoint:
    a candidate that is tried on a part of them makes no outage."""

    def __init__(self, config: Config, store: Store, contract: Contract | None) -> None:
        self._config, self._store, self._contract = config, store, contract
        chosen = config.monitoring.quality
        rows = None if chosen.min_rows is None and chosen.max_rows is None else (chosen.min_rows or 0, chosen.max_rows)
        self._limits = QualityLimits(chosen.max_share, chosen.max_age, rows)

    @property
    def judges_silence(self) -> bool:
        """Whether a day without any answer can be wrong."""
        return self._config.monitoring.quality.enabled and judges_silence(self._limits)

    def problems(self, day: str, rows: int, mine: pa.Table, newest: datetime | None) -> list[str]:
        """Of a closed day with so many answered `rows`, those of the version among them. `newest` is the time of the
        endpoint's last answer until the day's end."""
        end = start_of(day) + timedelta(days=1)
        found = volume_violations(rows, newest, self._limits, end)
        if self._contract is not None and mine.num_rows:
            columns = [
                name for name in self._config.features.raw_columns() if name not in self._config.serving.log.redact
            ]
            counts = QualityCounts.of(self._contract, inputs_of(typed(self._contract, mine)), columns, None)
            of_rows = QualityLimits(self._limits.max_share)
            found = [*quality_violations(counts, self._contract, of_rows, end), *found]
        return [*map(_told, found), *self._skew(mine)]

    def _skew(self, mine: pa.Table) -> list[str]:
        from raymlops.monitoring.replay import replay_skew

        most = self._config.monitoring.quality.skew_rows
        if not most or not mine.num_rows:
            return []
        skew = replay_skew(self._store, self._config, mine.slice(0, most))
        if not skew.different:
            return []
        why = skew.reason or f"by up to {skew.largest:.4g}, such as {', '.join(skew.examples)}"
        return [f"train/serve skew: {skew.different} of {skew.rows} rows differ ({why})"]


def judges_silence(limits: QualityLimits) -> bool:
    return limits.max_age is not None or (limits.rows is not None and limits.rows[0] > 0)


def newest_of(config: Config, table: pa.Table) -> datetime | None:
    """The latest time of some rows; None when none has one."""
    times = clock(config, table) if table.num_rows else np.zeros(0, "datetime64[us]")
    known = times[~np.isnat(times)]
    if not len(known):
        return None
    newest: datetime = known.max().astype("datetime64[us]").item().replace(tzinfo=UTC)
    return newest


def typed(contract: Contract | None, table: pa.Table) -> pa.Table:
    """Rows of the log, inputs in the kinds of the contract: a client that sends "3" for 3 has not changed the data."""
    for name, rule in () if contract is None else contract.columns.items():
        if INPUT + name in table.column_names:
            at = table.column_names.index(INPUT + name)
            table = table.set_column(at, INPUT + name, as_kind(name, table.column(at), rule.kind))
    return table


def _told(row: Violation) -> str:
    return f"{row.column}: {row.check}: {row.observed}, expected {row.threshold}"
