"""The flights of 2013 by day, the stationary years made of them, and the configuration that all policies begin with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import ROOT
from raymlops.config.loading import parse_config
from raymlops.config.tree import Config

CONFIG = ROOT / "configs" / "flights.yaml"
DATA = ROOT / "configs" / "data" / "flights.parquet"
BEGIN, END = date(2013, 3, 1), date(2014, 1, 1)
"""First day that is predicted, and the day after the last."""
DELAY = timedelta(days=1)
"""Labels of a day come so long after its end."""
VALIDATION, HOLDOUT, DAYS = 7, 7, 28
"""Days that pick epochs, days that judge, and days of a retraining's window, or the fewest of one since a change."""


def flights(path: Path = DATA, every: int = 1) -> pd.DataFrame:
    """All flights (or every n-th) with their `day`, in order of time."""
    frame = pd.read_parquet(path).iloc[::every]
    frame = frame.astype({name: str for name in frame.columns if isinstance(frame[name].dtype, pd.CategoricalDtype)})
    return with_days(frame)


def with_days(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(day=frame["time_hour"].dt.date).sort_values("time_hour", kind="stable").reset_index(drop=True)


def permuted(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same days in random order: each day's flights, all together and with their hours, on another day's date."""
    days = sorted(frame["day"].unique())
    shuffled = np.random.default_rng(seed).permutation(len(days))
    shift = {day: days[to] - day for day, to in zip(days, shuffled, strict=True)}
    moved = frame.assign(time_hour=frame["time_hour"] + pd.to_timedelta(frame["day"].map(shift)))
    return with_days(moved)


def known(frame: pd.DataFrame, today: date) -> pd.DataFrame:
    """Flights whose labels have come when `today` begins."""
    return frame[frame["day"] < today - DELAY]


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def write_source(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """A file of the directory that `data.source` names. Columns that say how a flight went are not in the data."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.drop(columns="day").to_parquet(folder / f"{name}.parquet", index=False)


def configuration(
    name: str, storage: Path, source: Path, trials: int, retraining: Mapping[str, Any], watched: bool = True
) -> Config:
    """configs/flights.yaml as of 1 March 2013, with rows of the last days whose labels are known; no fixed threshold of
    the error, which has seasons of its own. Without `watched` nothing is monitored."""
    import yaml

    raw = yaml.safe_load(CONFIG.read_text())
    holdout = BEGIN - DELAY - timedelta(days=HOLDOUT)
    marks = {"validation_from": holdout - timedelta(days=VALIDATION), "holdout_from": holdout, "end": BEGIN - DELAY}
    raw |= {"name": name, "storage": str(storage)}
    raw["data"]["source"] = {"kind": "parquet", "path": str(source)}
    raw["data"]["split"] = {"by": "time", "column": "time_hour", **{key: str(day) for key, day in marks.items()}}
    raw["search"]["trials"] = trials
    raw["gate"] |= {"thresholds": {}, "behaviours": []}
    window = {"days": DAYS, "validation_days": VALIDATION, "holdout_days": HOLDOUT}
    raw["retraining"] = {"train": "refit", "rollout": "alias", **retraining}
    raw["retraining"]["window"] = window | raw["retraining"].get("window", {})
    raw["monitoring"] = {kind: {"enabled": watched} for kind in ("drift", "performance", "quality")}
    return parse_config(raw)
