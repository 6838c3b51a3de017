"""What README.md tells a newcomer to type, typed: from `raymlops init` to predictions, in one new project."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from docs_cases import ROOT, Block, blocks

README = [ROOT / "README.md"]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def shell(block: Block, directory: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def raymlops(project: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object on the last line of stdout, and stderr."""
    command = [sys.executable, "-m", "raymlops", *arguments, "--json"]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("newcomer")
    block = next(b for b in blocks("shell", README) if b.runs)
    return directory / "my-model", shell(block, directory)


@pytest.fixture(scope="module")
def project(first: tuple[Path, str]) -> Path:
    return first[0]


def test_the_first_commands_end_with_a_champion(first: tuple[Path, str]) -> None:
    project, output = first
    for words in ("model.yaml: valid", "blessed: models:/my-model/1 is now my-model@champion", "4 trials", "FINISHED"):
        assert words in output
    [log] = project.glob(".raymlops/runs/my-model/*/job.log")
    assert log.is_file()
    assert (project / ".raymlops/contracts/my-model.yaml").is_file()


def test_predictions_from_the_readme(project: Path) -> None:
    score = [b for b in blocks("shell", README) if b.runs][1]
    assert "1,000 rows scored with models:/my-model/1 into scored" in shell(score, project)
    scored = pq.read_table(project / "scored").to_pandas().sort_values("id")
    assert len(scored) == 1000
    premium = scored["district"].map({"centre": 120.0, "north": 40.0, "south": 0.0})
    known = 3.0 * scored["area"] - 0.8 * scored["age"].fillna(50.0) + premium  # how the scaffold invents its prices
    assert (scored["prediction"] - known).abs().mean() < 30
    [code] = [b for b in blocks("python", README) if b.runs]
    done = subprocess.run(
        [sys.executable, "-c", code.text], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "prediction" in done.stdout

    pq.write_table(pq.read_table(project / "scored").drop_columns(["prediction"]), project / "rows.parquet")
    code_, facts, _ = raymlops(project, "predict", "my-model@champion", "--input", "rows.parquet", "--output", "again")
    assert code_ == 0
    assert (facts["model"], facts["rows"]) == ("models:/my-model/1", 1000)
    again = pq.read_table(project / "again").to_pandas().sort_values("id")
    assert again["prediction"].tolist() == scored["prediction"].tolist()


def test_rows_that_cannot_be_scored_leave_nothing_behind(project: Path) -> None:
    (project / "lacking").mkdir()
    (project / "lacking" / "rows.csv").write_text("id,area\n1,50\n")
    code, failure, _ = raymlops(project, "predict", "my-model", "--input", "lacking", "--output", "none")
    assert code == 1
    assert failure["error"] == "column 'age': missing; the rows have area, id"
    assert not (project / "none").exists()


def test_what_was_run_can_be_looked_up(project: Path) -> None:
    code, listed, _ = raymlops(project, "runs", "my-model", "--limit", "1")
    [run] = listed["runs"]
    assert code == 0
    assert (run["status"], run["verdict"], run["name"]) == ("FINISHED", "blessed", "my-model")
    _, models, _ = raymlops(project, "models")
    assert models["models"][-1]["aliases"] == ["champion"]
    _, report, _ = raymlops(project, "report", run["run_id"][:8], "--output", "r.html")
    assert report == {"run_id": run["run_id"], "report": "r.html"}
    assert "<html" in (project / "r.html").read_text()


def test_lineage_and_retention_from_their_page(project: Path) -> None:
    page = [ROOT / "docs/reproducibility.md"]
    commands = {
        word: block for block in blocks("shell", page) for word in ("lineage", "gc") if f"raymlops {word}" in block.text
    }
    assert "models:/my-model/1: intact" in shell(commands["lineage"], project)
    assert "0 place(s) would be removed" in shell(commands["gc"], project)


def test_a_refused_model_exits_3(project: Path) -> None:
    changes = ["search.trials=1", "train.epochs=1", "search.refit=false", "gate.thresholds.mae.max=0.001"]
    code, result, _ = raymlops(project, "run", "model.yaml", *(a for c in changes for a in ("--set", c)))
    assert code == 3
    assert (result["verdict"], result["version"], result["alias"]) == ("refused", None, None)
    assert any("0.001" in reason for reason in result["reasons"])
    assert {"run_id", "name", "model", "metrics", "snapshot", "weights_sha256", "seconds"} <= result.keys()
    assert "total" in result["seconds"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_closed_and_says_so(project: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "raymlops", "run", "model.yaml", "--json"]
    command += ["--set", "train.epochs=100000", "--set", "search.scheduler=fifo"]
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `make test &` ignores it for all
    ) as job:
        assert job.stderr is not None
        assert job.stdout is not None
        run_id = ""
        for line in job.stderr:
            if line.startswith("  run "):
                run_id = line.split()[1]
            if line.startswith("search: "):
                job.send_signal(number)
                break
        rest = job.stderr.read()
        assert job.wait() == 1
        assert "error: interrupted; nothing was registered" in rest
        assert json.loads(job.stdout.read())["exit_code"] == 1
    _, listed, _ = raymlops(project, "runs")
    assert {run["run_id"]: run["status"] for run in listed["runs"]}[run_id] == "KILLED"


def test_the_endpoint_from_its_page(project: Path) -> None:
    """About a minute: it starts an endpoint, trains a second version and gives it traffic."""
    page = [ROOT / "docs/serving.md"]
    start, end = (block for block in blocks("shell", page) if block.runs)
    [code] = [block for block in blocks("python", page) if block.runs]
    assert "my-model: version 1 answers at http://127.0.0.1:8000" in shell(start, project)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", code.text], cwd=project, env=environment(), capture_output=True, text=True
        )
        assert asked.returncode == 0, asked.stderr
        predicted, label = asked.stdout.splitlines()
        assert predicted.endswith(" champion") and float(predicted.split()[0]) > 0
        assert "1" in label
        output = shell(end, project)
    except BaseException:
        raymlops(project, "serve", "my-model", "--stop")
        raise
    for words in ("has begun", "canary", "by order", "follow each other", "my-model: stopped"):
        assert words in output
    labels_from_their_page(project)


def labels_from_their_page(project: Path) -> None:
    """The prediction that the endpoint's page asked for has its label, and leads back to its model."""
    page = [ROOT / "docs/labels.md"]
    [join] = [block for block in blocks("shell", page) if block.runs]
    [lineage] = [block for block in blocks("shell", page) if not block.runs]
    [code] = [block for block in blocks("python", page) if block.runs]
    assert "1 new label(s): 1 joined, 0 duplicates" in shell(join, project)
    read = subprocess.run(
        [sys.executable, "-c", code.text], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert read.returncode == 0, read.stderr
    [row] = ast.literal_eval(read.stdout)
    assert (row["version"], row["price"]) == ("1", 231.5)
    output = shell(replace(lineage, text=lineage.text.replace("PREDICTION_ID", row["prediction_id"])), project)
    for words in ("models:/my-model/1", "equal bit for bit", "snapshots/", "231.5"):
        assert words in output
