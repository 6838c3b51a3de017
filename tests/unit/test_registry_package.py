from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from registry_cases import NOW, config_of, make_package, rows, user_files, with_user_code

from raymlops.errors import DataError, IntegrityError, RaymlopsError
from raymlops.registry.package import CHUNK_ROWS, load_package, open_package, read_files, write_package

TASKS = ("regression", "binary", "multiclass")


@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_package_scores_like_the_network_it_was_written_from(tmp_path: Path, task: str) -> None:
    package = make_package(tmp_path / "package", config_of(task))
    frame = rows(50, seed=1)
    inputs = {k: torch.from_numpy(v) for k, v in package.transform.batch(frame).items()}
    raw = package.module(inputs).detach().double().numpy()
    scores = package.scores(frame)
    if task == "regression":
        state = package.transform.state.target
        np.testing.assert_allclose(scores, raw * state["scale"] + state["mean"], rtol=1e-12)
    elif task == "binary":
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-raw)), rtol=1e-9)
    else:
        assert scores.shape == (50, 3)
        np.testing.assert_allclose(scores, np.exp(raw) / np.exp(raw).sum(1, keepdims=True), rtol=1e-9)


def test_columns_keep_their_declared_order_through_the_package(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", config_of())
    assert package.transform.spec.numeric_names[:3] == ("zeta", "alpha", "alpha:missing")


def test_predictions_name_classes_and_keep_the_index(tmp_path: Path) -> None:
    frame = rows(7, seed=2).set_index(pd.Index([f"r{i}" for i in range(7)]))
    found = make_package(tmp_path / "m", config_of("multiclass")).predict(frame)
    assert list(found.columns) == ["prediction", "probability_long", "probability_middle", "probability_short"]
    assert list(found.index) == list(frame.index)
    probabilities = found.filter(like="probability_")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert list(found["prediction"]) == list(probabilities.idxmax(axis=1).str.removeprefix("probability_"))
    binary = make_package(tmp_path / "b", config_of("binary"))
    np.testing.assert_allclose(binary.predict(frame)["probability_yes"], binary.scores(frame))


@pytest.mark.parametrize("task", TASKS)
def test_any_number_of_rows_and_none_influences_another(tmp_path: Path, task: str) -> None:
    package = make_package(tmp_path / "package", config_of(task))
    frame = rows(40, seed=3)
    together = package.scores(frame)
    alone = np.concatenate([package.scores(frame.iloc[[i]]) for i in range(len(frame))])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(package.scores(frame.iloc[:0])) == 0
    assert len(package.predict(frame.iloc[:0])) == 0


def test_frames_larger_than_a_chunk_come_back_in_order(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", config_of())
    frame = rows(100, seed=4)
    many = pd.concat([frame] * (CHUNK_ROWS // 100 + 2), ignore_index=True)
    np.testing.assert_allclose(package.scores(many)[-200:], np.tile(package.scores(frame), 2), rtol=1e-5)


def test_weights_hash_depends_on_the_weights_alone(tmp_path: Path) -> None:
    one = make_package(tmp_path / "one", config_of(), facts={"run_id": "1"})
    two = make_package(tmp_path / "two", config_of(name="other"), facts={"run_id": "2"})
    other = make_package(tmp_path / "other", config_of(), seed=1)
    assert one.manifest["weights_sha256"] == two.manifest["weights_sha256"] != other.manifest["weights_sha256"]
    weights = one.module.state_dict()
    backwards = {name: weights[name].t().contiguous().t() for name in reversed(weights)}  # other order, other strides
    manifest = write_package(
        tmp_path / "again",
        config=config_of(),
        state=one.transform.state,
        weights=backwards,
        base=tmp_path,
        facts={},
        created=NOW,
    )
    assert manifest["weights_sha256"] == one.manifest["weights_sha256"]


def test_nothing_in_a_package_is_a_pickle(tmp_path: Path) -> None:
    base = user_files(tmp_path / "user")
    make_package(tmp_path / "package", with_user_code(config_of()), base)
    files = read_files(tmp_path / "package")
    assert {Path(f).suffix for f in files} == {".json", ".safetensors", ".py"}
    assert not any(data.startswith((b"\x80", b"PK")) for data in files.values())


@pytest.mark.parametrize("victim", ["weights.safetensors", "features.json", "config.json", "source/nets.py"])
@pytest.mark.parametrize("harm", ["changed", "missing", "extra"])
def test_a_package_that_is_not_the_one_written_is_refused_by_name(tmp_path: Path, victim: str, harm: str) -> None:
    directory = tmp_path / "package"
    make_package(directory, with_user_code(config_of()), user_files(tmp_path / "user"))
    target = directory / victim
    if harm == "changed":
        data = bytearray(target.read_bytes())
        data[-1] ^= 1
        target.write_bytes(bytes(data))
    elif harm == "missing":
        target.unlink()
    else:
        victim = "source/injected.py"
        (directory / victim).write_text("")
    with pytest.raises(IntegrityError, match=victim.replace(".", r"\.")):
        load_package(directory)


def test_changed_user_code_is_refused_before_it_runs(tmp_path: Path) -> None:
    directory, trace = tmp_path / "package", tmp_path / "ran"
    make_package(directory, with_user_code(config_of()), user_files(tmp_path / "user"))
    (directory / "source/nets.py").write_text(f"open({str(trace)!r}, 'w')\n")
    with pytest.raises(IntegrityError, match=r"nets\.py"):
        load_package(directory)
    assert not trace.exists()


def test_the_manifest_is_pinned_by_its_hash_and_its_format(tmp_path: Path) -> None:
    directory = tmp_path / "package"
    package = make_package(directory, config_of())
    assert load_package(directory, sha256=package.sha256).sha256 == package.sha256
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        load_package(directory, sha256="0" * 64)
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(RaymlopsError, match="format 99"):
        load_package(directory)
    (directory / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        load_package(directory)
    with pytest.raises(IntegrityError, match="no model package"):
        load_package(tmp_path / "nowhere")


def test_a_package_is_written_once(tmp_path: Path) -> None:
    make_package(tmp_path / "package", config_of())
    with pytest.raises(RaymlopsError, match="not empty"):
        make_package(tmp_path / "package", config_of())


def test_user_code_travels_and_leaves_no_trace(tmp_path: Path) -> None:
    base = user_files(tmp_path / "user")
    expected = make_package(tmp_path / "package", with_user_code(config_of()), base).scores(rows(9))
    shutil.rmtree(base)
    before = list(sys.path)
    package = load_package(tmp_path / "package")
    np.testing.assert_array_equal(package.scores(rows(9)), expected)
    assert sys.path == before
    assert "nets" not in sys.modules and "helper" not in sys.modules
    assert not list((tmp_path / "package").rglob("__pycache__"))
    assert type(package.module).__name__ == "Linear"


def test_two_packages_with_the_same_module_names_live_side_by_side(tmp_path: Path) -> None:
    config = with_user_code(config_of())
    champion = make_package(tmp_path / "a", config, user_files(tmp_path / "one", scale=1.0))
    candidate = make_package(tmp_path / "b", config, user_files(tmp_path / "two", scale=3.0))
    inputs = {k: torch.from_numpy(v) for k, v in champion.transform.batch(rows(5)).items()}
    np.testing.assert_allclose(
        candidate.module(inputs).detach().numpy(),
        3.0 * candidate.module.layer(torch.cat([inputs["numeric"], inputs["pixels"].flatten(1)], 1))[:, 0].detach(),
        rtol=1e-6,
    )
    assert champion.transform.functions["sum"](1.0, 1.0) == 2.0
    assert candidate.transform.functions["sum"](1.0, 1.0) == 4.0


def test_a_package_opens_from_bytes_alone(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", with_user_code(config_of()), user_files(tmp_path / "user"))
    files = read_files(tmp_path / "package")
    shutil.rmtree(tmp_path / "package")
    np.testing.assert_array_equal(open_package(files).scores(rows(5)), package.scores(rows(5)))


def test_bad_rows_are_named(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", config_of())
    with pytest.raises(DataError, match="alpha"):
        package.predict(rows(3).drop(columns="alpha"))
    with pytest.raises(DataError, match="zeta"):
        package.predict(rows(3).assign(zeta=["1", "many", "3"]))
