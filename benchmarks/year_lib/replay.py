"""One policy's year: every morning labels come and the loop has its round, then the champion predicts the day."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.year_lib.endpoint import Endpoint
from benchmarks.year_lib.flights import BEGIN, CONFIG, DELAY, configuration, known, midnight, write_source
from benchmarks.year_lib.policies import Policy
from raymlops.config.tree import Config
from raymlops.registry.backend import tracking
from raymlops.registry.package import ModelPackage
from raymlops.registry.versions import find_version
from raymlops.retraining.loop import Loop, Round
from raymlops.retraining.pipeline import run_job
from raymlops.retraining.watch import Silent
from raymlops.store import Store

MORNING = timedelta(minutes=10)
"""After midnight: the day before is closed, and the labels of the day before that have come."""


def replay(policy: Policy, rows: pd.DataFrame, until: date, folder: Path, trials: int) -> dict[str, Any]:
    """Days with their mean absolute error and version, retrainings and alarms of a policy from `BEGIN` to the day
    before `until`. Ray is connected already."""
    name = f"flights-{policy.name}"
    source = folder / "source" / policy.name
    write_source(known(rows, BEGIN), source, str(BEGIN))
    config = configuration(name, folder / "storage", source, trials, policy.retraining, policy.watches)
    store = Store.at(config.storage)
    first = run_job(config, CONFIG.parent, Silent(), midnight(BEGIN))
    if first.version is None:
        raise RuntimeError(f"the gate refused the first model: {'; '.join(first.reasons)}")
    loop, endpoint = Loop(config, CONFIG.parent, store), Endpoint(config, store)
    models: dict[str, ModelPackage] = {}
    days, rounds, written, version, unfinished = [], [], BEGIN, first.version, False
    for today, flown in _days(rows, until):
        came = known(rows, today)
        if policy.watches:
            endpoint.label(came[came["day"] == today - DELAY - timedelta(days=1)], midnight(today))
        if policy.due(today) or unfinished or (today == BEGIN and policy.retraining):  # the first opens the ledger
            if today > written:
                write_source(came[came["day"] >= written - DELAY], source, str(today))
            written = today
            found = loop.round(midnight(today) + MORNING)
            unfinished = found.retraining is not None and found.retraining.ended is None
            rounds.append(_told(today, found))
            version = _champion(config, store)
            _progress(policy, today, rounds[-1])
        if version not in models:
            models[version] = find_version(tracking(None, store), f"{name}/{version}").load()
        outputs = np.asarray(models[version].scores(flown), float).reshape(-1)
        if policy.watches:
            endpoint.log(flown, outputs, version)
        errors = np.abs(outputs - flown[config.data.target].to_numpy(float))
        days.append({"day": str(today), "rows": len(flown), "error": float(errors.mean()), "version": version})
    return {"policy": policy.name, "shown": policy.shown, "days": days, **summary(days, rounds)}


def summary(days: list[dict[str, Any]], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Error over all flights, what was retrained with what outcome, and each alarm once."""
    rows = np.array([day["rows"] for day in days])
    error = float((rows * np.array([day["error"] for day in days])).sum() / rows.sum())
    alarms = {alarm["incident"]: alarm for each in reversed(rounds) for alarm in each["alarms"]}
    retrainings = {each["retraining"]["id"]: each["retraining"] | {"day": each["day"]}
                   for each in rounds if each["retraining"]}  # fmt: skip
    first = list(reversed(alarms.values()))
    return {"mae": error, "retrainings": list(retrainings.values()), "alarms": first}


def _days(rows: pd.DataFrame, until: date) -> Iterator[tuple[date, pd.DataFrame]]:
    wanted = rows[(rows["day"] >= BEGIN) & (rows["day"] < until)]
    for today, flown in wanted.groupby("day", sort=True):
        assert isinstance(today, date)
        yield today, flown


def _told(today: date, found: Round) -> dict[str, Any]:
    alarms = [
        {"kind": s.kind, "incident": s.incident, "day": str(today), "since": s.since, "reason": s.reason}
        for s in found.observation.alarms
    ]
    made = found.retraining
    about = None if made is None else {"id": made.id, "outcome": made.phase, "cause": found.decision.cause}
    return {"day": str(today), "decision": found.decision.reason, "alarms": alarms, "retraining": about}


def _champion(config: Config, store: Store) -> str:
    return find_version(tracking(None, store), config.name).version


def _progress(policy: Policy, today: date, told: dict[str, Any]) -> None:
    if told["retraining"] or today.day == 1:
        print(f"... {policy.name} {today}: {told['decision']}"[:150], file=sys.stderr, flush=True)
