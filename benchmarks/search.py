"""What a search costs beside the training itself: raymlops, Tune's defaults, a TorchTrainer per trial, Optuna."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.common import Report, Table, Target, in_child, run
from benchmarks.searchers import WORKERS, optuna, prepare, raymlops, trainer_per_trial, tune_defaults

OURS, TUNE, TRAINER = "raymlops", "Tune, defaults", "TorchTrainer per trial"
SINGLE, DOUBLE, OWN = "Optuna, 1 × 2 threads", "Optuna, 2 × 1 thread", "Optuna, its own pruner, 1 × 2"
WHAT = """\
A search over the flights data: the same snapshot, configurations, model, optimiser, schedule and number of epochs for
everyone, two cores each, every contender in a process of its own. Per-trial overhead is (search seconds × trials at a
time − seconds spent inside epochs) / trials, where an epoch includes its validation."""


def measure(quick: bool) -> Report:
    """Per-trial overhead and total time of a hyperparameter search, four ways."""
    trials, repeats, trainer_trials = (4, 1, 2) if quick else (32, 2, 2)
    with tempfile.TemporaryDirectory(prefix="raymlops-benchmark-") as work:
        digest = in_child(prepare, work=work)["digest"]

        def both(contender: Callable[..., dict[str, Any]], count: int, **more: Any) -> dict[str, Any]:
            shared = {"work": work, "digest": digest, "trials": count, **more}
            return {kind: in_child(contender, tiny=kind == "tiny", **shared) for kind in ("full", "tiny")}

        found: dict[str, list[dict[str, Any]]] = {OURS: [], SINGLE: [], DOUBLE: [], OWN: []}
        for _ in range(repeats):  # interleaved, so that a slow minute of the machine hits all of them
            found[OURS].append(both(raymlops, trials))
            drawn = {kind: found[OURS][0][kind]["values"] for kind in ("full", "tiny")}
            found[SINGLE].append(_drawn(optuna, work, digest, drawn, trials, jobs=1))
            found[DOUBLE].append(_drawn(optuna, work, digest, drawn, trials, jobs=2))
            found[OWN].append(_drawn(optuna, work, digest, drawn, trials, jobs=1, own_pruner=True))
        found[TUNE] = [_drawn(tune_defaults, work, digest, drawn, trials)]
        found[TRAINER] = [_drawn(trainer_per_trial, work, digest, drawn, trainer_trials)]
    return _report(found, trials, trainer_trials, repeats, quick)


def _drawn(
    contender: Callable[..., dict[str, Any]], work: str, digest: str, drawn: dict[str, Any], count: int, **more: Any
) -> dict[str, Any]:
    """A contender that tries the configurations which raymlops drew."""
    return {
        kind: in_child(contender, work=work, digest=digest, values=drawn[kind][:count], tiny=kind == "tiny", **more)
        for kind in ("full", "tiny")
    }


def _report(
    found: dict[str, list[dict[str, Any]]], trials: int, trainer_trials: int, repeats: int, quick: bool
) -> Report:
    def median(name: str, kind: str, value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(sample[kind]) for sample in found[name])

    def row(name: str, kind: str) -> list[Any]:
        def get(key: str) -> float:
            return median(name, kind, lambda result: result[key])

        each = overhead[kind][name]
        ours = overhead[kind][OURS]
        times = [get(key) for key in ("startup", "wall", "worker_start", "search", "training")]
        return [name, int(get("trials")), int(get("epochs")), *times, each, each / ours]

    names = [OURS, TUNE, TRAINER, SINGLE, DOUBLE, OWN]
    overhead = {kind: {name: median(name, kind, _overhead) for name in names} for kind in ("full", "tiny")}
    peer = min((SINGLE, DOUBLE), key=lambda name: median(name, "full", lambda result: result["search"]))
    searches = {name: median(name, "full", lambda result: result["search"]) for name in names}
    header = (
        *("contender", "trials", "epochs", "start-up s", "wall s", "worker start s", "search s", "in epochs s"),
        *("overhead s/trial", "÷ raymlops"),
    )
    notes = [
        "start-up: importing the libraries in the calling process and starting Ray; apart from everything else.",
        "wall: from the call until the best trial is known, reading and sharing the encoded data included.",
        f"worker start: what starting {WORKERS} Ray actors that import torch and the training code takes, measured "
        "just before. Every search on a fresh Ray has to do it once; search = wall − worker start is what is compared. "
        "Actors that are started anew for later trials are not taken off.",
        "Pruning: asynchronous successive halving by one rule for all but the last row, that of Tune's ASHAScheduler: "
        "at epochs 2 and 6 of at most 16 a trial ends when it is worse than the best third of those before it. Who was "
        "before whom depends on timing, so the number of epochs trained is shown. Optuna's own "
        "SuccessiveHalvingPruner lets fewer pass while few have been there, and so trains fewer epochs.",
        "raymlops writes a checkpoint at every best epoch; the others write none.",
        "Tune, defaults: a function trainable, data by with_parameters, default loggers, no actor reuse.",
        f"TorchTrainer per trial: a Tune trial drives one TorchTrainer with one worker, {WORKERS} at a time; only "
        f"{trainer_trials} trials were run, unpruned, so compare its overhead per trial, not its totals.",
        "Optuna: one process; n_jobs=1 with two torch threads, or n_jobs=2 with one each. Data are tensors in memory.",
        f"Medians of {repeats} interleaved run(s) for raymlops and Optuna, one run for the rest.",
    ]
    tables = [
        Table(f"{trials} trials of up to 16 epochs", header, [row(name, "full") for name in names], notes),
        Table("Near-empty trials: one optimiser step each", header, [row(name, "tiny") for name in names]),
    ]
    targets = [Target("raymlops: overhead per trial, s", overhead["full"][OURS], 0.3, True)]
    for kind, label in (("full", "full trials"), ("tiny", "near-empty trials")):
        times = overhead[kind]
        targets += [
            Target(f"Tune defaults / raymlops, overhead, {label}", times[TUNE] / times[OURS], 8, False),
            Target(f"TorchTrainer / raymlops, overhead, {label}", times[TRAINER] / times[OURS], 30, False),
        ]
    targets.append(Target(f"raymlops / {peer}, search of {trials} trials", searches[OURS] / searches[peer], 1.0, True))
    return Report("search", "Searching: overhead per trial", WHAT, tables, targets, dict(found), quick)


def _overhead(result: dict[str, Any]) -> float:
    return float((result["search"] * result["at_once"] - result["training"]) / result["trials"])


if __name__ == "__main__":
    sys.exit(run("search", measure))
