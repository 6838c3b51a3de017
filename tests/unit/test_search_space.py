"""The search space and the number of trials that fit a cluster."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from config_cases import smallest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.config.loading import parse_config
from raymlops.config.training import SearchConfig, TrainConfig
from raymlops.config.tree import Config
from raymlops.errors import ConfigError, ResourceError
from raymlops.training.resources import concurrent_trials
from raymlops.training.space import check_space, decode, encode, most_epochs, trial_count, with_values


def config(space: dict[str, Any], **search: Any) -> Config:
    return smallest(search={"space": space, **search})


def test_drawn_values_become_a_configuration() -> None:
    start = config({"model.hidden": {"choice": [32, 64]}, "train.learning_rate": {"loguniform": [0.001, 0.1]}})
    values = decode(start.search.space, {"model.hidden": 1, "train.learning_rate": 0.01})
    assert values == {"model.hidden": 64, "train.learning_rate": 0.01}
    changed = with_values(start, values)
    assert changed.model.hidden == 64  # type: ignore[union-attr]
    assert changed.train.learning_rate == 0.01


def test_values_find_their_way_back_to_what_was_drawn() -> None:
    space = config(
        {
            "train.early_stopping": {"choice": [None, {"patience": 3}]},
            "model.hidden": {"grid": [8, 16]},
            "train.learning_rate": {"uniform": [0.001, 0.1]},
        }
    ).search.space
    drawn = {"train.early_stopping": 1, "model.hidden": 0, "train.learning_rate": 0.1 + 1e-17}
    assert encode(space, json.loads(json.dumps(decode(space, drawn)))) == drawn


def test_choices_may_be_any_value() -> None:
    start = config({"train.early_stopping": {"choice": [None, {"patience": 3}]}})
    check_space(start)
    assert with_values(start, decode(start.search.space, {"train.early_stopping": 1})).train.early_stopping is not None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"data.target": {"choice": ["z"]}}, "search.space.data.target: expected a path below train or model"),
        ({"train.learning_rat": {"uniform": [0.1, 1]}}, "did you mean 'learning_rate'"),
        ({"model.dropout": {"uniform": [0.1, 1.5]}}, "search.space.model.dropout: model.dropout: found 1.5"),
        ({"model.hidden": {"choice": [8, "wide"]}}, "model.hidden: found 'wide'"),
    ],
)
def test_dimensions_that_no_trial_could_take_are_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.space") as caught:
        check_space(config(space))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "dimension",
    [
        {},
        {"uniform": [1, 0]},
        {"loguniform": [0, 1]},
        {"choice": []},
        {"uniform": [0, 1], "choice": [1]},
        {"int": [3, 3]},
    ],
)
def test_malformed_dimensions(dimension: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"search\.space\.train\.learning_rate"):
        config({"train.learning_rate": dimension})


def test_grid_multiplies_and_needs_the_random_searcher() -> None:
    space = {"model.hidden": {"grid": [8, 16, 32]}, "train.epochs": {"int": [2, 9]}}
    assert trial_count(config(space, trials=2)) == 6
    assert most_epochs(config(space)) == 9
    with pytest.raises(ConfigError, match=r"grid dimensions \(model.hidden\) need searcher: random"):
        config(space, searcher="optuna")


def test_trials_are_packed_onto_nodes() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]
    assert concurrent_trials(nodes, TrainConfig(), SearchConfig()) == 7
    assert concurrent_trials(nodes, TrainConfig(), SearchConfig(max_concurrent=3)) == 3
    assert concurrent_trials(nodes, TrainConfig(gpus_per_worker=0.5), SearchConfig()) == 2
    assert concurrent_trials(nodes, TrainConfig(cpus_per_worker=2), SearchConfig()) == 3  # 2 + 1: none spans nodes


def test_a_trial_whose_workers_may_change_needs_room_for_the_fewest() -> None:
    elastic = TrainConfig.model_validate({"workers": {"min": 2, "max": 8}})
    assert concurrent_trials([{"CPU": 5.0}], elastic, SearchConfig()) == 2
    with pytest.raises(ResourceError, match=r"needs 2 worker\(s\)"):
        concurrent_trials([{"CPU": 1.0}], elastic, SearchConfig())


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (0, r"^train.workers: found 0; input should be greater than or equal to 1$"),
        ("many", "^train.workers: found 'many'; input should be a valid integer"),
        ({"min": 1}, "^train.workers.max: required, but not given$"),
        ({"min": 2, "max": 2}, "^train.workers: min must be less than max, found min 2 and max 2$"),
        ({"min": 1, "maxi": 2}, r"train.workers.maxi: unknown key; did you mean 'max'"),
    ],
)
def test_a_wrong_number_of_workers_is_named_once(workers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.compile(message, re.M)) as caught:
        parse_config({**config({}).model_dump(by_alias=True, mode="json"), "train": {"workers": workers}})
    assert "int" not in re.findall(r"train.workers\.(\w+)", str(caught.value))


def test_workers_survive_a_round_trip() -> None:
    for workers in (3, {"min": 1, "max": 4}):
        plain = {**config({}).model_dump(by_alias=True, mode="json"), "train": {"workers": workers}}
        assert parse_config(parse_config(plain).model_dump(by_alias=True, mode="json")) == parse_config(plain)


def test_what_does_not_fit_is_refused_with_both_sizes() -> None:
    with pytest.raises(ResourceError) as caught:
        concurrent_trials([{"CPU": 2.0}], TrainConfig(workers=3), SearchConfig())
    assert "needs 3 worker(s) of 1 CPU and 0 GPU, but the cluster has 2 CPU, 0 GPU" in str(caught.value)
    assert caught.value.exit_code == 2


sizes = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 16).map(float), "GPU": st.integers(0, 4).map(float)}),
    min_size=1,
    max_size=5,
)


@given(sizes, st.integers(1, 4), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_never_more_trials_than_the_cluster_can_hold(
    nodes: list[dict[str, float]], workers: int, cpus: float, gpus: float
) -> None:
    train = TrainConfig(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus)
    try:
        fitting = concurrent_trials(nodes, train, SearchConfig())
    except ResourceError:
        return
    assert fitting * workers * cpus <= sum(node["CPU"] for node in nodes)
    assert fitting * workers * gpus <= sum(node["GPU"] for node in nodes)
