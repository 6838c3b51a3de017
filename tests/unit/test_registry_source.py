from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raymlops.errors import RaymlopsError
from raymlops.registry.requirements import pinned_requirements
from raymlops.registry.source import PackagedSource, collect_source


def write(base: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(text)
    return base


def test_collects_what_a_module_imports_beside_itself_and_nothing_else(tmp_path: Path) -> None:
    base = write(
        tmp_path,
        {
            "model.py": "import os\nimport numpy as np\nfrom layers import Block\n\ndef build(): ...\n",
            "layers.py": "def f():\n    import late\n\nclass Block: ...\n",
            "late.py": "from parts import inner\n",
            "parts/inner.py": "",
            "parts/unused.py": "",
            "unrelated.py": "raise RuntimeError('never imported')\n",
        },
    )
    found = collect_source(["model:build"], base)
    assert sorted(found.files) == ["late.py", "layers.py", "model.py", "parts/inner.py"]
    assert found.imports == {"numpy"}
    assert "model" not in sys.modules  # looking is not importing


def test_a_package_travels_whole_without_generated_or_hidden_files(tmp_path: Path) -> None:
    base = write(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/sub/__init__.py": "",
            "pkg/sub/net.py": "from ..tools import helper\nfrom . import other\n\nbuild = helper\n",
            "pkg/sub/other.py": "",
            "pkg/tools.py": "import beside\n\ndef helper():\n    return beside.VALUE\n",
            "pkg/.hidden/x.py": "",
            "pkg/data.txt": "",
            "beside.py": "VALUE = 7\n",
        },
    )
    files = collect_source(["pkg.sub.net:build"], base).files
    assert sorted(files) == [
        "beside.py",
        "pkg/__init__.py",
        "pkg/sub/__init__.py",
        "pkg/sub/net.py",
        "pkg/sub/other.py",
        "pkg/tools.py",
    ]
    assert PackagedSource(files).resolve("pkg.sub.net:build", "model.factory")() == 7


def test_installed_modules_are_requirements_not_source(tmp_path: Path) -> None:
    found = collect_source(["torch.nn:Linear", "raymlops.training.models:Mlp", "math:log1p"], tmp_path)
    assert found.files == {}
    assert found.imports == {"torch"}
    assert PackagedSource({}).resolve("math:log1p", "features.derived.x.function")(0) == 0


def test_requirements_are_pinned_to_public_versions(tmp_path: Path) -> None:
    pinned = pinned_requirements({"sklearn", "not_installed_anywhere"})
    assert all("==" in line and "+" not in line for line in pinned)
    names = {line.partition("==")[0] for line in pinned}
    assert {"scikit-learn", "torch", "mlflow", "safetensors"} <= names
    assert "ray" not in names


@pytest.mark.parametrize(
    "statement",
    [
        "import pkg.inner\nVALUE = pkg.inner.VALUE",
        "import pkg.inner as short\nVALUE = short.VALUE",
        "from pkg import inner\nVALUE = inner.VALUE",
        "from pkg.inner import VALUE",
        "from pkg.inner import *",
    ],
)
def test_every_form_of_import_finds_the_packaged_module(tmp_path: Path, statement: str) -> None:
    files = {
        "top.py": f"{statement}\n\ndef get():\n    return VALUE\n".encode(),
        "pkg/__init__.py": b"",
        "pkg/inner.py": b"VALUE = 41\n",
    }
    assert PackagedSource(files).resolve("top:get", "model.factory")() == 41


def test_packaged_modules_win_over_installed_and_loaded_ones() -> None:
    one = PackagedSource({"json.py": b"NAME = 'one'\n", "m.py": b"import json\n\ndef get():\n    return json.NAME\n"})
    two = PackagedSource({"json.py": b"NAME = 'two'\n", "m.py": b"import json\n\ndef get():\n    return json.NAME\n"})
    assert one.resolve("m:get", "f")() == "one"
    assert two.resolve("m:get", "f")() == "two"
    import json

    assert json.loads("1") == 1


def test_errors_name_the_field_and_the_user_s_own_module_name() -> None:
    broken = PackagedSource({"m.py": b"raise ValueError('no weights today')\n"})
    with pytest.raises(RaymlopsError, match=r"model\.factory: cannot import 'm' \(ValueError: no weights today\)"):
        broken.resolve("m:build", "model.factory")
    with pytest.raises(RaymlopsError, match=r"model\.factory: 'n' has no 'build'; it has other"):
        PackagedSource({"n.py": b"def other(): ...\n"}).resolve("n:build", "model.factory")


def test_tracebacks_show_the_packaged_source() -> None:
    import traceback

    source = PackagedSource({"m.py": b"def fail():\n    raise KeyError('inside the package')\n"})
    with pytest.raises(KeyError) as caught:
        source.resolve("m:fail", "f")()
    assert "raise KeyError('inside the package')" in "".join(traceback.format_exception(caught.value))
