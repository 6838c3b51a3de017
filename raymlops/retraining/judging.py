"""From trained weights to a judged package, and to a registered version: what is judged is what would be registered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.config import Config
from raymlops.errors import DataError
from raymlops.registry.values import dump
from raymlops.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from raymlops.data.snapshot import BuiltSnapshot
    from raymlops.registry.backend import Tracking
    from raymlops.registry.package import ModelPackage
    from raymlops.registry.tracking import Tracker
    from raymlops.registry.versions import VersionRef
    from raymlops.training.evaluation import Evaluation
    from raymlops.training.gate import Verdict

EXAMPLE_ROWS = 5


@dataclass(frozen=True)
class Judged:
    """What the gate saw and said."""

    evaluation: Evaluation
    verdict: Verdict
    labels: np.ndarray
    scores: np.ndarray
    champion: VersionRef | None


def package_model(
    directory: Path,
    config: Config,
    store: Store,
    base: Path,
    built: BuiltSnapshot,
    weights_path: str,
    facts: Mapping[str, Any],
    now: datetime,
) -> ModelPackage:
    """Write the package and load it again. `config` has the values of the trial that won."""
    from raymlops.registry.package import load_package, write_package
    from raymlops.training.checkpoint import load_checkpoint

    weights, _ = load_checkpoint(store, weights_path)
    state = built.snapshot.state()
    write_package(directory, config=config, state=state, weights=weights, base=base, facts=facts, created=now)
    return load_package(directory)


def judge(
    config: Config, package: ModelPackage, built: BuiltSnapshot, champion: VersionRef | None, metric: str
) -> Judged:
    """The gate on the holdout, beside the champion if there is one."""
    from raymlops.training.evaluation import evaluate
    from raymlops.training.gate import decide

    frame = built.snapshot.table("holdout").to_pandas()
    labels = package.transform.raw_targets(frame[config.data.target])
    training = built.snapshot.table("train").column(config.data.target)
    evaluation = evaluate(
        config,
        frame,
        labels,
        package.scores,
        champion=champion_scores(champion, package.classes) if champion is not None else None,
        champion_version=champion.version if champion is not None else None,
        metric=metric,
        seed=config.seed,
        train_target=package.transform.raw_targets(training),
    )
    return Judged(evaluation, decide(config, evaluation), labels, package.scores(frame), champion)


def champion_scores(champion: VersionRef, classes: list[str]) -> Callable[[pd.DataFrame], np.ndarray]:
    """Scores of the champion, loaded when asked for: one that cannot be loaded is the gate's business."""

    def scores(frame: pd.DataFrame) -> np.ndarray:
        package = champion.load()
        if package.classes != classes:
            raise DataError(f"it knows the classes {package.classes}, this model {classes}")
        return package.scores(frame)

    return scores


def register(
    tracker: Tracker,
    directory: Path,
    package: ModelPackage,
    built: BuiltSnapshot,
    judged: Judged,
    fence: Callable[[], None],
) -> tuple[str, str | None, str | None]:
    """URI, version and alias; a refused model is stored without a version. `fence` raises when the job lost its right
    to register."""
    from raymlops.registry import publishing

    example = built.snapshot.table("holdout").slice(0, EXAMPLE_ROWS).to_pandas()
    logged = publishing.log_package(tracker, directory, package, example)
    publishing.log_evaluation(tracker, judged.evaluation, judged.verdict, logged)
    if not judged.verdict.blessed:
        publishing.refuse(tracker, logged, judged.verdict)
        return logged.uri, None, None
    fence()
    registered = publishing.register(
        tracker, logged, judged.verdict, judged.evaluation.metrics, built.snapshot.hash, judged.champion
    )
    return registered.uri, registered.version, registered.alias


def judged_output(judged: Judged, package: ModelPackage, path: str) -> dict[str, Any]:
    """What is recorded of a verdict: plain values, without scores, which the package kept at `path` gives again."""
    plain: dict[str, Any] = json.loads(
        dump({"evaluation": judged.evaluation.to_dict(), "verdict": asdict(judged.verdict)})
    )
    return {
        **plain,
        "package": path,
        "package_sha256": package.sha256,
        "weights_sha256": package.manifest["weights_sha256"],
        "champion": None if judged.champion is None else judged.champion.version,
    }


def judged_again(
    config: Config, package: ModelPackage, built: BuiltSnapshot, output: Mapping[str, Any], tracking: Tracking
) -> Judged:
    """A verdict as it was recorded."""
    from raymlops.registry.versions import VersionRef
    from raymlops.training.evaluation import Evaluation
    from raymlops.training.gate import Check, Verdict

    frame = built.snapshot.table("holdout").to_pandas()
    labels = package.transform.raw_targets(frame[config.data.target])
    verdict = output["verdict"]
    version = output["champion"]
    return Judged(
        Evaluation.from_dict(output["evaluation"]),
        Verdict(verdict["blessed"], verdict["reasons"], [Check(**check) for check in verdict["checks"]]),
        labels,
        package.scores(frame),
        None if version is None else VersionRef(tracking, config.name, version, None, {}),
    )


def keep_package(store: Store, path: str, directory: Path) -> None:
    """Store the package at `directory` below `path`, its manifest last."""
    from raymlops.registry.package import MANIFEST, read_files

    files = read_files(directory)
    for name in sorted(files, key=lambda name: name == MANIFEST):
        store.write(f"{path}/{name}", files[name])


def fetch_package(store: Store, path: str, directory: Path, sha256: str) -> ModelPackage:
    """The package kept below `path`, copied to `directory` and checked. Raises IntegrityError when it was changed."""
    from raymlops.registry.package import MANIFEST, load_package

    names = [MANIFEST, *json.loads(store.read(f"{path}/{MANIFEST}"))["files"]]
    for name in names:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(f"{path}/{name}"))
    return load_package(directory, sha256=sha256)
