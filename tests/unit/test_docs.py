"""Nothing in README.md and docs/ is wrong: every block is parsed, validated or run, every key and link is looked up."""

from __future__ import annotations

import re
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_origin

import numpy as np
import pytest
import torch
import typer
import yaml
from docs_cases import PAGES, ROOT, Block, blocks
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from raymlops.cli import app
from raymlops.config import Config, base, data, features, gate, labels, monitoring, retraining, rollout, serving, tree
from raymlops.config import training as training_config
from raymlops.config.loading import parse_config
from raymlops.data.contract import Contract
from raymlops.features.state import ArraySpec
from raymlops.imports import resolve, user_functions
from raymlops.training.models import build_model
from raymlops.training.objective import ValidationMetric
from raymlops.training.space import check_space

BASE = yaml.safe_load(next(b.text for b in blocks("yaml", [ROOT / "docs/configuration.md"])))
NODES: dict[str, type[BaseModel]] = {
    name: node
    for module in (tree, data, features, gate, training_config, serving, rollout, labels, monitoring, retraining)
    for name, node in vars(module).items()
    if isinstance(node, type) and issubclass(node, base.Node) and node is not base.Node
}


def overlay(under: Any, over: Any) -> Any:
    """`over` on top of `under`; sections that choose a variant replace what was there."""
    if not isinstance(under, dict) or not isinstance(over, dict) or {"kind", "by"} & over.keys():
        return over
    return {key: overlay(under.get(key), over[key]) if key in over else under[key] for key in {**under, **over}}


def complete(block: Block) -> Config:
    part = yaml.safe_load(block.text)
    if "name" in part:
        return parse_config(part)
    raw = overlay(BASE, part)
    if "features" in part:  # features and data of an example belong together
        raw["features"] = part["features"]
    if "data" in part:
        raw["data"] = part["data"]
        raw["task"] = part.get("task", "regression" if part["data"]["target"] == "amount" else "binary")
    if raw["task"] == "regression":
        raw["gate"] = part.get("gate", {})
    if raw.get("model", {}).get("kind") == "factory":
        raw["search"] = part.get("search", {})
    return parse_config(raw)


def is_contract(block: Block) -> bool:
    return "columns" in yaml.safe_load(block.text)


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if not is_contract(b)], ids=str)
def test_configurations_are_valid(block: Block) -> None:
    check_space(complete(block))


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if is_contract(b)], ids=str)
def test_contracts_are_valid(block: Block) -> None:
    contract = Contract.from_yaml(block.text, str(block))
    assert Contract.from_yaml(contract.to_yaml(), "again") == contract


def key_tables() -> list[tuple[str, dict[str, str]]]:
    text = (ROOT / "docs/configuration.md").read_text()
    found = re.findall(r"<!-- keys: (\w+) -->\n\|.*\n\|[- |]+\n((?:\|.*\n)+)", text)
    return [(node, dict(re.findall(r"^\| `([^`]+)` \| (.*?) \|", rows, re.M))) for node, rows in found]


@pytest.mark.parametrize(("node", "rows"), key_tables(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_key_is_described_with_its_default(node: str, rows: dict[str, str]) -> None:
    described = {f.alias or name: f for name, f in NODES[node].model_fields.items()}
    fields = {name: f for name, f in described.items() if not _names_the_variant(name, f)}
    assert list(rows) == list(fields)
    for key, shown in rows.items():
        field = fields[key]
        if field.is_required():
            assert shown == "required", key
            continue
        default = field.get_default(call_default_factory=True)
        plain = {"kind": "mlp"} if isinstance(default, training_config.MlpModel) else _plain(default)
        assert yaml.safe_load(shown.strip("`")) == plain, key


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, timedelta):
        return TypeAdapter(timedelta).dump_python(value, mode="json")
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value


def _names_the_variant(name: str, field: FieldInfo) -> bool:
    return name in ("kind", "by") and get_origin(field.annotation) is Literal


def test_every_section_is_described() -> None:
    assert sorted(node for node, _ in key_tables()) == sorted(NODES)


def commands() -> list[tuple[Block, list[str]]]:
    lines = [(block, line) for block in blocks("shell") for line in block.text.splitlines()]
    return [(block, shlex.split(line, comments=True)) for block, line in lines if shlex.split(line, comments=True)]


def parses(command: Any, arguments: list[str]) -> None:
    """Let click read the arguments without running anything."""
    context = command.make_context(command.name, list(arguments), resilient_parsing=False)
    rest = [*getattr(context, "_protected_args", []), *context.args]
    if hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, f"no such command: {name}"
        parses(command.commands[name], rest)


@pytest.mark.parametrize(("block", "words"), commands(), ids=lambda v: str(v) if isinstance(v, Block) else v[0])
def test_shell_commands_are_real(block: Block, words: list[str]) -> None:
    program, *arguments = words
    if ">" in arguments:
        arguments = arguments[: arguments.index(">")]
    if program == "raymlops":
        parses(typer.main.get_command(app), arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
    elif program == "python" and arguments[0] != "-c":
        assert (ROOT / arguments[0]).is_file()
    elif program == "ray":
        from ray.dashboard.modules.job.cli import job_cli_group

        parses(job_cli_group, arguments[1:])
    else:
        assert program == "cd" or block.runs
    for word in arguments:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file()


def test_parsing_refuses_what_does_not_exist() -> None:
    group = typer.main.get_command(app)
    for wrong in (["run", "a.yaml", "--sett", "x=1"], ["report"]):
        with pytest.raises(Exception, match=r"[Nn]o such option|[Mm]issing"):
            parses(group, wrong)
    with pytest.raises(AssertionError):
        parses(group, ["nonsense"])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """extending.md as a project: its Python blocks are one module beside its configuration."""
    page = [ROOT / "docs/extending.md"]
    (tmp_path / "shop.py").write_text("\n\n".join(block.text for block in blocks("python", page)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    [block] = blocks("yaml", page)
    return complete(block)


def test_the_code_in_extending_fits_its_configuration(shop: Config) -> None:
    found = {field: resolve(path, field) for field, path in user_functions(shop).items()}
    assert set(found) == {
        "data.source.function",
        "features.derived.basket_value.function",
        "model.factory",
        "train.loss",
        "train.metric",
    }
    values = found["features.derived.basket_value.function"](np.array([2.0, 3.0]), np.array([5.0, 7.0]))
    assert values.tolist() == [10.0, 21.0]
    model = build_model(shop.model, ArraySpec(2, (), {}, 1), found["model.factory"])
    out = model({"numeric": torch.randn(5, 2)})
    assert out.shape == (5,)
    found["train.loss"](out, torch.zeros(5)).backward()
    metric = ValidationMetric.resolve(shop.train.metric, shop.task, found["train.metric"])
    assert metric.mode == "max"
    assert metric(np.array([100.0, 100.0]), np.array([105.0, 150.0])) == 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_every_page_can_be_found() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert f"docs/{page.name}" in readme


def options(command: Any) -> set[str]:
    return {name for p in command.params for name in p.opts if name.startswith("--")} - {"--help"}


def test_the_page_of_commands_has_every_command_with_its_options() -> None:
    group: Any = typer.main.get_command(app)
    real = {}
    for name, one in group.commands.items():
        inner = {f"{name} {n}": c for n, c in one.commands.items()} if hasattr(one, "commands") else {name: one}
        real |= {full: options(command) for full, command in inner.items()}
    page = (ROOT / "docs/commands.md").read_text()
    rows = re.findall(r"^\| `raymlops ([a-z ]*[a-z])[^`]*` \| (.*?) \|", page, re.M)
    assert {name: set(re.findall(r"--[a-z-]+", named)) for name, named in rows} == real
    assert len(rows) == len(real)


RESULT = re.compile(r"^\| .+ \| (.+) \| (.+) \| (yes|NO) \| \[.+\]\(benchmarks/results/(\w+)\.md\) \|$", re.M)
TARGET = re.compile(r"^\| .+? \| +(\S+) \| (\S \S+) +\| (yes|NO) +\|$", re.M)


def test_the_results_in_the_readme_are_those_measured_and_no_miss_is_left_out() -> None:
    rows = RESULT.findall((ROOT / "README.md").read_text())
    shown = [(page, (found, target, met)) for found, target, met, page in rows]
    assert len(shown) >= 10
    for result in sorted(ROOT.glob("benchmarks/results/*.md")):
        measured = TARGET.findall(result.read_text())
        quoted = [row for page, row in shown if page == result.stem]
        assert measured and set(quoted) <= set(measured), result.name
        assert {row for row in measured if row[2] == "NO"} <= set(quoted), result.name


def test_the_data_is_what_its_page_says() -> None:
    import pyarrow.parquet as pq

    page = (ROOT / "configs/data/README.md").read_text()
    file = pq.ParquetFile(ROOT / "configs/data/flights.parquet")
    assert f"{file.metadata.num_rows:,} rows" in page
    described = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, re.M)
    assert sorted(name for cell in described for name in re.findall(r"\w+", cell)) == sorted(file.schema_arrow.names)
    script = (ROOT / "configs/data/build_flights.py").read_text()
    [digest] = re.findall(r"[0-9a-f]{64}", page)
    assert digest in script
