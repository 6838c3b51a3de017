"""Years without change: the same days in random order, one model, and the monitors. Every alarm is a false one."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.year_lib.endpoint import Endpoint
from benchmarks.year_lib.flights import BEGIN, CONFIG, configuration, known, midnight, permuted, write_source
from benchmarks.year_lib.replay import MORNING
from raymlops.monitoring.label_join import join_labels
from raymlops.monitoring.watch import observe
from raymlops.registry.backend import tracking
from raymlops.registry.versions import find_version
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.watch import Silent
from raymlops.store import Store

EVERY = 14
"""Days between two looks; each judges its days one after the other."""


def stationary(rows: pd.DataFrame, seed: int, until: date, folder: Path, trials: int) -> dict[str, Any]:
    """Alarms of a year whose days were permuted, and the error. Ray is connected already."""
    year = permuted(rows, seed)
    name = f"stationary-{seed}"
    source = folder / "source" / name
    write_source(known(year, BEGIN), source, str(BEGIN))
    config = configuration(name, folder / "storage", source, trials, {})
    store = Store.at(config.storage)
    made = run_job(config, CONFIG.parent, Silent(), midnight(BEGIN))
    if made.version is None:
        raise RuntimeError(f"the gate refused the model of seed {seed}: {'; '.join(made.reasons)}")
    model, endpoint = find_version(tracking(None, store), name).load(), Endpoint(config, store)
    flown = year[(year["day"] >= BEGIN) & (year["day"] < until)]
    outputs = np.asarray(model.scores(flown), float).reshape(-1)
    error = float(np.abs(outputs - flown[config.data.target].to_numpy(float)).mean())
    alarms: dict[str, dict[str, Any]] = {}
    looks = sorted({min(BEGIN + timedelta(days=n), until) for n in range(EVERY, (until - BEGIN).days + EVERY, EVERY)})
    start = BEGIN
    for end in looks:
        inside = ((flown["day"] >= start) & (flown["day"] < end)).to_numpy()
        endpoint.log(flown[inside], outputs[inside], made.version)
        received = midnight(end + timedelta(days=1))
        endpoint.label(flown[inside], received)
        now = received + MORNING
        join_labels(config, store, now=now, base=CONFIG.parent)
        for signal in observe(config, CONFIG.parent, store, now=now).alarms:
            alarms.setdefault(
                str(signal.incident), {"kind": signal.kind, "since": signal.since, "reason": signal.reason}
            )
        start = end
    return {"seed": seed, "days": (until - BEGIN).days, "mae": error, "alarms": list(alarms.values())}
