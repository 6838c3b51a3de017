"""Benchmarks: their arithmetic, their tables, and the hand-written loop that they compare with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import checkpoint, feeds, flights_reference, memory, search
from benchmarks.common import Report, Table, Target, in_child, machine, run
from benchmarks.plain import train_plainly
from raymlops.config.loading import load_config
from raymlops.features.state import ArraySpec
from raymlops.imports import add_user_directory


def report(value: float, quick: bool = False) -> Report:
    table = Table("Speed", ("who", "rows/s"), [["ours", 1234567], ["theirs", 0.25]], ["a note"])
    return Report("sample", "A title", "What it is.", [table], [Target("ratio", value, 0.9, False)], {"x": 1}, quick)


def test_a_report_names_the_machine_its_targets_and_how_to_repeat_it() -> None:
    text = report(0.95).markdown()
    assert "| ours   | 1,234,567 |" in text and "| theirs |      0.25 |" in text and "- a note" in text
    assert "| ratio |     0.95 | ≥ 0.9  | yes |" in text
    assert machine()["cpu"] in text and "python -m benchmarks.sample --record" in text
    assert "NO" in report(0.8).markdown()
    assert "Quick run" in report(0.95, quick=True).markdown()


@pytest.mark.parametrize(("value", "limit", "at_most", "met"), [(1, 1, True, True), (1.1, 1, True, False)])
def test_targets(value: float, limit: float, at_most: bool, met: bool) -> None:
    assert Target("", value, limit, at_most).met is met
    assert Target("", limit, value, not at_most).met is met


def test_exit_code_tells_a_missed_target_and_json_holds_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sample", lambda quick: report(0.95), ["--json", str(tmp_path / "r.json")]) == 0
    assert run("sample", lambda quick: report(0.5), []) == 1
    assert run("sample", lambda quick: report(0.5, quick), ["--quick"]) == 0
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["raw"] == {"x": 1} and saved["targets"][0]["met"] and saved["machine"]["cores"] >= 1
    assert "A title" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("sample", report, ["--quick", "--record"])


def test_a_child_returns_its_answer_or_shows_why_not(tmp_path: Path) -> None:
    in_child(feeds.generate, work=str(tmp_path), rows=120)
    files = sorted((tmp_path / "source").iterdir())
    assert len(files) == 12 and sum(len(pd.read_parquet(file)) for file in files) == 120
    with pytest.raises(RuntimeError, match="FileExistsError"):
        in_child(feeds.generate, work=str(tmp_path), rows=120)


def test_overhead_is_wall_time_of_all_places_less_training() -> None:
    times = {"wall": 13.0, "worker_start": 3.0, "search": 10.0, "training": 12.0, "startup": 3.0}
    found = {**times, "at_once": 2, "trials": 4, "epochs": 8}
    samples = {name: [{"full": found, "tiny": found}] for name in (search.OURS, search.TUNE, search.TRAINER)}
    peer = {**found, "search": 20.0, "at_once": 1}
    samples |= {search.SINGLE: [{"full": peer, "tiny": peer}], search.DOUBLE: [{"full": found, "tiny": found}]}
    samples[search.OWN] = samples[search.SINGLE]
    made = search._report(samples, 4, 4, 1, quick=False)
    [ours] = [row for row in made.tables[0].rows if row[0] == search.OURS]
    assert ours[8] == pytest.approx((10 * 2 - 12) / 4)
    [total] = [target for target in made.targets if "search of" in target.claim]
    assert search.DOUBLE in total.claim and total.value == pytest.approx(1.0)  # against the faster of the two


def test_the_cost_of_states_is_taken_from_neighbouring_blocks() -> None:
    drifting = [1.0, 1.1 * 1.02, 1.2, 1.3 * 1.02, 1.4]  # a machine that slows down, and blocks that cost 2 %
    assert checkpoint.costs(drifting) == pytest.approx([0.02, 0.02])
    assert checkpoint.noise(drifting) == pytest.approx(0.0, abs=1e-12)


def test_every_second_block_of_a_training_has_a_state() -> None:
    size = vars(checkpoint.QUICK) | {"block": 0.02}
    found = checkpoint.measure_training(1, size)
    assert len(found["seconds_per_step"]) == 7 and len(found["copies"]) == len(found["writes"]) == 3
    assert found["state_bytes"] > 3 * 4 * found["parameters"]  # weights and two moments of each


def test_peaks_see_memory_that_is_held() -> None:
    with memory.watched() as before:
        pass
    with memory.watched() as peaks:
        held = np.ones(8_000_000)
        peaks.see()
    assert peaks.driver - before.driver > 0.8 * held.nbytes and peaks.private >= peaks.driver


def test_the_plain_loop_learns_and_stops_when_told() -> None:
    add_user_directory(flights_reference.CONFIG.parent)
    config = load_config(flights_reference.CONFIG, ["train.epochs=6", "train.batch_size=64"])
    random = np.random.default_rng(0)

    def part(rows: int) -> dict[str, np.ndarray]:
        numeric = random.standard_normal((rows, 2)).astype(np.float32)
        codes = random.integers(0, 4, (rows, 1)).astype(np.int32)
        return {"numeric": numeric, "categorical": codes, "target": (numeric[:, 0] + codes[:, 0]).astype(np.float32)}

    seen: list[float] = []

    def report_epoch(epoch: int, error: float, spent: float) -> bool:
        seen.append(error)
        return epoch == 5

    spec = ArraySpec(2, (4,), {}, 1)
    parts = {"train": part(1000), "validation": part(200)}
    train_plainly(config, spec, {"train.learning_rate": 0.01}, parts, 10.0, report_epoch)
    assert len(seen) == 5 and seen[-1] < 0.5 * seen[0]


def test_flights_reference_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flights_reference.main(["--storage", str(tmp_path / "none")]) == 1
    assert "raymlops run configs/flights.yaml" in capsys.readouterr().err


def test_reference_frames_know_training_categories_only() -> None:
    add_user_directory(flights_reference.CONFIG.parent)
    config = load_config(flights_reference.CONFIG)
    raw, derived = flights_reference.columns(config)
    assert config.data.target not in raw + derived and config.time_column not in raw
    row = dict.fromkeys(["distance", "sched_dep_time", "sched_arr_time"], 900) | {"carrier": "AA", "origin": "JFK"}
    day = np.datetime64("2013-01-07T10:00", "ms")  # a Monday
    training = pd.DataFrame([{**row, "dest": "LAX", "time_hour": day}] * 2)
    holdout = pd.DataFrame([{**row, "dest": "SFO", "time_hour": day}])
    fitted, judged = flights_reference.frames(config, training, holdout, raw + derived)
    assert list(fitted.columns) == raw + derived
    assert judged["dest"].isna().all()
    assert fitted["departure_minute"].tolist() == [540, 540]
