from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymlops.data.identity import path_digest, source_digest

MAIN = """
import numpy as np
from helper_mod import scale

FACTOR = 3

def _inner(x):
    return x * FACTOR

def feature(x):
    return scale(_inner(x))

def unrelated(x):
    return x
"""
HELPER = """
def scale(x):
    return x * OFFSET + 1

OFFSET = 2
"""


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(main: str = MAIN, helper: str = HELPER) -> str:
        (tmp_path / "main_mod.py").write_text(main)
        (tmp_path / "helper_mod.py").write_text(helper)
        for name in ("main_mod", "helper_mod"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        function: Any = importlib.import_module("main_mod").feature
        return source_digest(function)

    yield write
    for name in ("main_mod", "helper_mod"):
        sys.modules.pop(name, None)


def test_formatting_comments_and_unrelated_code_do_not_matter(digest: Callable[..., str]) -> None:
    expected = digest()
    assert (
        digest(MAIN.replace("    return x * FACTOR", "    # three times\n\n    return (x *\n        FACTOR)"))
        == expected
    )
    assert digest(MAIN.replace("    return x\n", "    return x + 1\n")) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale(_inner(x))", "scale(_inner(x)) + 1"),
        ("x * FACTOR", "x / FACTOR"),
        ("FACTOR = 3", "FACTOR = 4"),
        ("x * OFFSET + 1", "x * OFFSET - 1"),
        ("OFFSET = 2", "OFFSET = 5"),
    ],
)
def test_everything_that_the_function_uses_matters(digest: Callable[..., str], old: str, new: str) -> None:
    assert digest(MAIN.replace(old, new), HELPER.replace(old, new)) != digest()


def test_functions_without_source_are_known_by_name() -> None:
    assert source_digest(np.log1p) == source_digest(np.log1p) != source_digest(np.exp)
    assert source_digest(abs) != source_digest(round)


def test_a_path_is_as_good_as_the_function_and_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "never_run"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "maths.py").write_text("from .units import HOUR\n\ndef late(x):\n    return x > HOUR\n")
    (package / "units.py").write_text("HOUR = 60  # minutes\n")
    importlib.invalidate_caches()
    before = path_digest("never_run.maths:late")
    (package / "units.py").write_text("HOUR = (60)\n")
    assert path_digest("never_run.maths:late") == before
    (package / "units.py").write_text("HOUR = 61\n")
    assert path_digest("never_run.maths:late") != before
    assert "never_run" not in sys.modules


def test_path_and_function_agree(digest: Callable[..., str]) -> None:
    assert digest() == path_digest("main_mod:feature")
