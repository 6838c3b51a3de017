"""The command line as a user meets it: exit codes, messages, JSON on the last line, and a help that answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from raymlops import __version__
from raymlops.cli import app, main

SINGLE = ["run", "runs", "models", "report", "predict", "init", "doctor", "serve", "trace", "replay", "monitor"]
SINGLE += ["lineage", "diff", "reproduce", "gc"]
GROUPS = {
    "config": ["check", "schema"],
    "labels": ["join", "status"],
    "loop": ["explain", "history", "run", "status", "trigger"],
    "rollout": ["abort", "history", "pause", "plan", "promote", "resume", "start", "status", "verify"],
}
COMMANDS = [*SINGLE, *GROUPS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)]
HEAVY = ["ray", "torch", "mlflow", "pandas", "numpy", "pyarrow", "matplotlib", "pydantic"]

CONFIG = """\
name: small
task: regression
data:
  source: {kind: csv, path: rows.csv}
  target: y
  split: {by: hash, key: id}
features:
  numeric: {x: {}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("id,x,y\n1,2,3\n")
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def last(self) -> dict[str, object]:
        found = json.loads(self.out.splitlines()[-1])
        assert isinstance(found, dict)
        return found


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["raymlops", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Result(stop.value.code or 0, *capfd.readouterr())

    return call


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom raymlops.cli import main\nsys.argv = ['raymlops', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(cli, command: str) -> None:
    shown = cli(*command.split(), "--help")
    assert shown.code == 0
    assert "Usage: raymlops" in shown.out


def test_the_commands_are_these() -> None:
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {n: sorted(c.commands) for n, c in commands.items() if hasattr(c, "commands")} == GROUPS
    assert sorted(n for n, c in commands.items() if not hasattr(c, "commands")) == sorted(SINGLE)


def test_version(cli) -> None:
    shown = cli("--version")
    assert (shown.code, shown.out) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["run"], ["run", "a.yaml", "--sett", "x=1"], ["runs", "--limit", "0"], ["predict", "m"], ["init"]],
)
def test_wrong_arguments_exit_2(cli, arguments: list[str]) -> None:
    shown = cli(*arguments)
    assert shown.code == 2
    assert "Usage:" in shown.err
    assert "Traceback" not in shown.err


def test_config_check_accepts(cli, config: Path) -> None:
    shown = cli("config", "check", str(config))
    assert shown.code == 0
    assert "valid" in shown.out
    found = cli("config", "check", str(config), "--json", "--set", "search.trials=3").last
    assert (found["ok"], found["model"], found["trials"]) == (True, "small", 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.epoch=3", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("train.epochs=none", "train.epochs: found 'none'"),
        ("train.epochs", "expected a.b.c=value"),
        ("data.source.path=other.csv", "no such file or directory"),
        ("model={kind: factory, factory: 'nowhere:build'}", "model.factory: cannot import 'nowhere'"),
        ("search.space={train.nonsense: {choice: [1]}}", "search.space.train.nonsense"),
        ("train.cpus_per_worker=4096", "one trial needs 1 worker(s) of 4096 CPU"),
    ],
)
def test_config_check_refuses_with_exit_2(cli, config: Path, change: str, words: str) -> None:
    shown = cli("config", "check", str(config), "--set", change, "--json")
    assert shown.code == 2
    assert shown.last["exit_code"] == 2
    assert words in str(shown.last["error"])
    assert shown.err.startswith("error: ")
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_all_problems_are_listed_below_each_other(cli, config: Path) -> None:
    shown = cli("config", "check", str(config), "--set", "train.epochs=0", "--set", "seed=-1")
    first, second = shown.err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("       ")
    assert {"train.epochs", "seed"} == {line.removeprefix("error:").split(":")[0].strip() for line in (first, second)}


def test_missing_configuration(cli) -> None:
    for command in (["run"], ["config", "check"]):
        shown = cli(*command, "absent.yaml")
        assert shown.code == 2
        assert "absent.yaml: cannot read the configuration file (No such file or directory)" in shown.err


def test_schema_is_json(cli) -> None:
    shown = cli("config", "schema")
    schema = json.loads(shown.out)
    assert shown.code == 0
    assert {"name", "data", "features", "search", "gate"} <= schema["properties"].keys()


def test_lists_are_empty_before_the_first_run(cli, tmp_path: Path) -> None:
    assert "no runs here yet" in cli("runs").out
    assert "no registered models" in cli("models").out
    assert cli("runs", "--json").last == {"runs": []}
    assert cli("models", "--json").last == {"models": []}
    assert not (tmp_path / ".raymlops").exists()


def test_what_is_not_there_exits_1(cli, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x\n1\n")
    for arguments, words in (
        (["report", "abc"], "run 'abc': no such run"),
        (["models", "nobody"], "model 'nobody': nothing registered"),
        (["predict", "nobody", "--input", "rows.csv", "--output", "out"], "model 'nobody' is not registered"),
    ):
        shown = cli(*arguments, "--json")
        assert shown.code == 1
        assert words in str(shown.last["error"])
        assert words in shown.err
        assert "Traceback" not in shown.err


def test_predictions_are_never_overwritten(cli, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x\n1\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.parquet").write_text("")
    shown = cli("predict", "small", "--input", "rows.csv", "--output", "out")
    assert shown.code == 1
    assert "out exists and is not empty" in shown.err


def test_a_defect_is_one_line_and_a_file(cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("raymlops.checks.check_config", broken)
    shown = cli("config", "check", str(config))
    assert shown.code == 1
    assert shown.err.startswith("error: unexpected ZeroDivisionError: division by zero; the details are in ")
    log = Path(shown.err.rpartition(" ")[2].strip())
    assert "Traceback" in log.read_text()
    log.unlink()
