"""Registered versions of one small model, made in a second each, that behave badly while a flag file exists."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from registry_cases import config_of, example, judge, make_package, rows

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config
from raymlops.registry import publishing
from raymlops.registry.package import ModelPackage
from raymlops.registry.tracking import Tracker
from raymlops.store import Store

NAME = "trips"
BEHAVIOURS = ("good", "raises", "hangs", "garbage", "slow", "worse", "leaks", "moody")
"""`moody` is what its flag's text says."""
NETS = textwrap.dedent('''
    """A model that does what its flag says. While there is no flag it is good, so that it passes every check."""
    import time
    from pathlib import Path

    import torch

    HELD = []


    class Net(torch.nn.Module):
        def __init__(self, spec, behaviour, flag, bias):
            super().__init__()
            self.layer = torch.nn.Linear(spec.numeric + 4, 1)
            self.behaviour, self.flag, self.bias = behaviour, Path(flag), bias

        def mood(self):
            if self.behaviour == "good":
                return "good"
            try:
                return self.flag.read_text() or self.behaviour
            except FileNotFoundError:
                return "good"

        def forward(self, inputs):
            joined = torch.cat([inputs["numeric"], inputs["pixels"].flatten(1)], 1)
            out = self.layer(joined).squeeze(1) + self.bias
            mood = self.mood()
            if mood == "raises":
                raise RuntimeError("told to raise")
            if mood == "garbage":
                return out * float("nan")
            if mood == "slow":
                time.sleep(0.02)
            if mood == "leaks":
                HELD.append(torch.ones(2_000_000))
            while mood == "hangs" and self.flag.exists():
                time.sleep(0.01)
            return out + 3.0 if mood == "worse" else out


    def build(spec, behaviour="good", flag="/nowhere", bias=0.0):
        return Net(spec, behaviour, flag, bias)
''')


def flag_path(root: Path, behaviour: str) -> Path:
    """While it exists, versions with this behaviour behave so."""
    return root / "flags" / behaviour


def endpoint_config(root: Path, behaviour: str = "good", bias: float = 0.0, **sections: Any) -> Config:
    """Configuration of the endpoint and of one of its models; `sections` are `serving`, `rollout` and so on."""
    raw = config_of("regression", root / "storage", name=NAME).model_dump(mode="json", by_alias=True)
    params = {"behaviour": behaviour, "flag": str(flag_path(root, behaviour)), "bias": bias}
    raw["model"] = {"kind": "factory", "factory": "nets:build", "params": params}
    return parse_config({**raw, **sections})


def register(root: Path, behaviour: str = "good", seed: int = 0, bias: float = 0.0, **sections: Any) -> str:
    """Register one more version, the first as champion; returns its number. `seed` and `bias` decide its answers,
    `sections` its configuration."""
    assert behaviour in BEHAVIOURS
    user = root / "user"
    user.mkdir(parents=True, exist_ok=True)
    flag_path(root, behaviour).parent.mkdir(exist_ok=True)
    (user / "nets.py").write_text(NETS)
    config = endpoint_config(root, behaviour, bias, **sections)
    directory = root / "built" / str(len(list(root.glob("built/*"))))
    package = make_package(directory, config, user, seed=seed)
    with Tracker(config, Store(str(root / "storage")), user, datetime.now(UTC)) as job:
        evaluation, verdict = judge(config, package)
        logged = publishing.log_package(job, directory, package, example(package))
        blessed = replace(verdict, blessed=True)
        return publishing.register(job, logged, blessed, evaluation.metrics, "ab", None).version


def json_rows(n: int, seed: int = 9) -> list[dict[str, Any]]:
    """Raw rows as a client has them."""
    frame = rows(n, seed=seed).drop(columns=["minutes", "late", "band"])
    frame["leaves"] = frame["leaves"].dt.strftime("%Y-%m-%dT%H:%M:%S")
    return [
        {name: None if not isinstance(value, list) and pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def champion_package(root: Path) -> ModelPackage:
    """The champion, loaded as any other program would."""
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import find_version

    return find_version(tracking(None, Store(str(root / "storage"))), NAME).load()
