"""How good is the flights model? Its holdout error beside scikit-learn's gradient boosting on the very same rows.

`python -m benchmarks.flights_reference [--storage .raymlops]` after `raymlops run configs/flights.yaml`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.common import ROOT, Report, Table, Target, run
from raymlops.config.loading import load_config
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.imports import add_user_directory, resolve

CONFIG = ROOT / "configs" / "flights.yaml"
LIMIT = 1.03
"""The model's error may be this multiple of the reference's."""


def measure(storage: str) -> Report:
    """Compare the newest flights run with HistGradientBoostingRegressor(loss="absolute_error")."""
    import pandas as pd

    from raymlops.data.snapshot import Snapshot
    from raymlops.registry.catalog import list_runs
    from raymlops.store import Store

    config = load_config(CONFIG)
    runs = [row for row in list_runs(storage, None, config.name) if "mae" in row.metrics and row.snapshot]
    if not runs:
        raise RaymlopsError(
            f"no judged run of {config.name} in {storage}; run `raymlops run configs/flights.yaml` first"
        )
    job = runs[0]
    snapshot = Snapshot.open(Store.at(storage), job.snapshot)
    training = pd.concat([snapshot.table(part).to_pandas() for part in ("train", "validation")], ignore_index=True)
    holdout = snapshot.table("holdout").to_pandas()
    raw, derived = columns(config)
    found = {
        "raw": reference(*frames(config, training, holdout, raw), training, holdout, config.data.target),
        "derived": reference(*frames(config, training, holdout, raw + derived), training, holdout, config.data.target),
    }
    ours = job.metrics["mae"]
    name = f"{config.name} version {job.version} ({job.alias})" if job.version else f"{config.name} ({job.verdict})"
    rows = [
        [f"raymlops: {name}", ours, ours / ours],
        ["HGB, schedule columns", found["raw"], ours / found["raw"]],
        ["HGB, schedule and derived columns", found["derived"], ours / found["derived"]],
    ]
    notes = [
        'HGB is scikit-learn\'s HistGradientBoostingRegressor(loss="absolute_error", random_state=0), else defaults; '
        f"fitted on all {len(training):,} training and validation rows, judged on the same {len(holdout):,} holdout "
        "rows as raymlops.",
        f"Schedule columns: {', '.join(raw)}. Derived columns, by the configuration's own functions: "
        f"{', '.join(derived)}.",
        f"The last column should be at most {LIMIT}. Snapshot {job.snapshot[:12]}, run {job.run_id[:12]}.",
    ]
    return Report(
        "flights_reference",
        "Air time of flights: holdout error against gradient boosting",
        "",
        [Table("Mean absolute error on the holdout", ("model", "minutes", "raymlops / this"), rows, notes)],
        [
            Target("raymlops / HGB on schedule columns", ours / found["raw"], LIMIT, True),
            Target("raymlops / HGB on schedule and derived columns", ours / found["derived"], LIMIT, True),
        ],
        {"raymlops_mae": ours, "hgb_mae": found, "snapshot": job.snapshot, "run_id": job.run_id},
    )


def columns(config: Config) -> tuple[list[str], list[str]]:
    """Names of the raw and of the derived columns. A timestamp enters through derived columns only: trees cannot follow
    time beyond the training rows, so it would harm the reference."""
    features = config.features
    derived = list(features.derived)
    raw = [name for name in features.raw_columns() if name != config.time_column]
    return raw, derived


def frames(config: Config, training: Any, holdout: Any, names: list[str]) -> tuple[Any, Any]:
    """Columns `names` of both parts, categories as pandas categories known from the training rows."""
    import pandas as pd

    def select(frame: Any) -> dict[str, Any]:
        taken = {}
        for name in names:
            if name in config.features.derived:
                derived = config.features.derived[name]
                function = resolve(derived.function, f"features.derived.{name}")
                inputs = [frame[column].to_numpy() for column in derived.inputs]
                taken[name] = pd.Series(function(*inputs, **derived.params))
            else:
                taken[name] = frame[name]
        return taken

    fitted, judged = select(training), select(holdout)
    for name in set(names) & set(config.features.categorical):
        known = pd.CategoricalDtype(sorted(fitted[name].unique()))
        fitted[name], judged[name] = fitted[name].astype(known), judged[name].astype(known)
    return pd.DataFrame(fitted), pd.DataFrame(judged)


def reference(fitted: Any, judged: Any, training: Any, holdout: Any, target: str) -> float:
    """Holdout MAE of gradient boosting fitted on `fitted`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(loss="absolute_error", random_state=0)
    model.fit(fitted, training[target])
    return float(abs(model.predict(judged) - holdout[target].to_numpy()).mean())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--storage", default=".raymlops", help="where the run was stored (default: %(default)s)")
    options, _ = parser.parse_known_args(argv)
    add_user_directory(CONFIG.parent)
    try:
        return run("flights_reference", lambda quick: measure(options.storage), argv, [parser], brief=True)
    except RaymlopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
