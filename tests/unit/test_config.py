"""The configuration file: what is refused, and how it is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_cases import minimal
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.config import Config, load_config
from raymlops.config.loading import parse_config
from raymlops.errors import ConfigError

ROOT = Path(__file__).parents[2]


def write(folder: Path, content: Any) -> Path:
    path = folder / "c.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def problem(folder: Path, content: Any, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, content), overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", ["flights.yaml", "digits.yaml"])
def test_shipped_configurations_are_valid(name: str) -> None:
    assert load_config(ROOT / "configs" / name).name


def test_unknown_key_suggests_the_nearest_known_one(tmp_path: Path) -> None:
    raw = minimal() | {"train": {"learning_rat": 0.1}}
    assert problem(tmp_path, raw) == "train.learning_rat: unknown key; did you mean 'learning_rate'?"


def test_unknown_key_inside_a_source_is_compared_with_that_sources_keys(tmp_path: Path) -> None:
    raw = minimal()
    raw["data"]["source"] = {"kind": "csv", "path": "a.csv", "delimeter": ";"}
    assert problem(tmp_path, raw) == "data.source.delimeter: unknown key; did you mean 'delimiter'?"


def test_every_problem_is_listed_with_path_value_and_what_is_allowed(tmp_path: Path) -> None:
    raw = minimal() | {"seed": -1, "train": {"batch_size": "many", "device": "tpu"}}
    message = problem(tmp_path, raw)
    assert "seed: found -1; input should be greater than or equal to 0" in message
    assert "train.batch_size: found 'many'; input should be a valid integer" in message
    assert "train.device: found 'tpu'; input should be 'auto', 'cpu' or 'cuda'" in message


def test_missing_key_and_wrong_variant(tmp_path: Path) -> None:
    raw = minimal()
    del raw["data"]["target"]
    raw["data"]["source"]["kind"] = "xml"
    message = problem(tmp_path, raw)
    assert "data.target: required, but not given" in message
    assert "data.source: found 'xml', expected one of 'parquet', 'csv', 'delta', 'sql', 'function'" in message


def test_list_elements_are_named_by_index(tmp_path: Path) -> None:
    raw = minimal() | {
        "gate": {"behaviours": [{"kind": "direction", "column": "x", "by": "far", "expect": "increase"}]}
    }
    assert problem(tmp_path, raw).startswith("gate.behaviours[0].by: found 'far'")


def test_the_label_may_not_be_a_feature(tmp_path: Path) -> None:
    raw = minimal()
    raw["features"]["numeric"]["y"] = {}
    assert "leak" in problem(tmp_path, raw)


def test_metric_of_another_task(tmp_path: Path) -> None:
    raw = minimal() | {"gate": {"thresholds": {"auc": {"min": 0.9}}}}
    assert "'auc' does not belong to task regression; allowed: mae, rmse" in problem(tmp_path, raw)


def test_overrides_reach_nested_keys_and_space_keys_with_dots(tmp_path: Path) -> None:
    overrides = [
        "train.epochs=3",
        "search.space.train.learning_rate={loguniform: [0.1, 1]}",
        "features.numeric.x.clip=null",
    ]
    config = load_config(write(tmp_path, minimal()), overrides)
    assert config.train.epochs == 3
    assert config.search.space["train.learning_rate"].loguniform == (0.1, 1.0)
    assert config.features.numeric["x"].clip is None


@pytest.mark.parametrize("override", ["train.epochs", "=3", "a..b=1", "name.deeper=1"])
def test_malformed_overrides(tmp_path: Path, override: str) -> None:
    assert "--set" in problem(tmp_path, minimal(), override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("name: a\nname: b", "'name' is given twice"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problem(tmp_path, text)


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot read"):
        load_config(Path("nowhere.yaml"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(Config.model_fields)), json_values)
def test_any_value_anywhere_gives_a_configuration_or_a_named_problem(key: str, value: Any) -> None:
    try:
        config = parse_config(minimal() | {key: value})
    except ConfigError as error:
        assert error.problems
        assert all(line.strip() for line in error.problems)
    else:
        assert parse_config(config.model_dump(by_alias=True)) == config


def test_schema_describes_every_key_for_editors() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raymlops", "config", "schema"], capture_output=True, text=True, check=True
    )
    schema = json.loads(done.stdout)
    assert schema["additionalProperties"] is False
    assert "descri" in json.dumps(schema["$defs"]["TrainConfig"]["properties"]["batch_size"])
    assert set(schema["$defs"]["Dimension"]["properties"]) == {"uniform", "loguniform", "int", "choice", "grid"}
