"""Planning: numbers that agree with the yardsticks, refusals that help, and the command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from raymlops.errors import ConfigError, Refused
from raymlops.rollout.plan import PlanInput, make_plan, require_decisive
from raymlops.rollout.plan_text import render
from raymlops.rollout_cli import app

USUAL = {"rps": 3.0, "baseline_errors": 0.01}


def test_a_plan_agrees_with_simulated_yardsticks():
    plan = make_plan(PlanInput(**USUAL, weight=0.1))
    assert plan.can_decide and not plan.advice
    assert plan.rollback.requests == pytest.approx(4_723, rel=0.15)
    assert plan.rollback.seconds == pytest.approx(plan.rollback.requests / 3.0)
    half = make_plan(PlanInput(**USUAL))
    assert half.rollback.requests == pytest.approx(1_900, rel=0.15)
    assert half.promotion.requests == pytest.approx(7_500, rel=0.2)
    assert make_plan(PlanInput(**USUAL)) == half


def test_few_keys_run_out_and_the_plan_says_what_would_help():
    plan = make_plan(PlanInput(**USUAL, weight=0.1, keys=5000))
    assert plan.rollback.power > 0.95 and plan.promotion.power < 0.2 and not plan.can_decide
    assert any(line.startswith("larger margin") for line in plan.advice)
    assert any(line.startswith("fresh salts") for line in plan.advice)
    with pytest.raises(Refused, match="larger margin"):
        require_decisive(plan)


def test_a_deadline_that_is_too_short_is_answered_with_one_that_is_not():
    plan = make_plan(PlanInput(**USUAL, deadline_seconds=1200.0))
    assert not plan.can_decide
    assert any(line.startswith("longer: a deadline of") for line in plan.advice)
    assert "not expected to decide" in render(plan)
    shorter, longer = plan.promotion.power, make_plan(PlanInput(**USUAL, deadline_seconds=12_000.0)).promotion.power
    assert shorter < 0.8 < longer


def test_wrong_numbers_are_named():
    with pytest.raises(ConfigError) as caught:
        PlanInput(rps=0.0, baseline_errors=1.5, effect=1.0)
    assert [p.split(":")[0] for p in caught.value.problems] == ["baseline_errors", "rps", "effect"]
    with pytest.raises(ConfigError, match="nothing for control"):
        PlanInput(**USUAL, weight=0.5, candidates=2)


def test_the_command_prints_a_plan_and_its_exit_code_says_whether_it_can_decide():
    runner = CliRunner()
    asked = ["plan", "--rps", "3", "--baseline-errors", "0.01", "--weight", "0.1", "--effect", "3x"]
    done = runner.invoke(app, asked)
    assert done.exit_code == 0 and "rollback of 3x" in done.stdout
    refused = runner.invoke(app, [*asked, "--deadline", "10m", "--json"])
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["can_decide"] is False


@pytest.mark.parametrize("wrong", [["--effect", "three"], ["--deadline", "soon"], ["--weight", "2"]])
def test_wrong_arguments_are_usage_errors(wrong):
    done = CliRunner().invoke(app, ["plan", "--rps", "3", "--baseline-errors", "0.01", *wrong])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.exit_code == 2
    assert wrong[0].removeprefix("--") in str(done.exception)
