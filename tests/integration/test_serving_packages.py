"""A registered version copied into the store: loads without a registry, answers alike, and notices every change."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from registry_cases import NOW, config_of, example, judge, make_package, rows, user_files, with_user_code

from raymlops.errors import IntegrityError, RaymlopsError
from raymlops.registry import publishing
from raymlops.registry.backend import tracking
from raymlops.registry.package import ModelPackage
from raymlops.registry.tracking import Tracker
from raymlops.serving import packages
from raymlops.serving.document import ModelRef
from raymlops.store import Store


@pytest.fixture(scope="module", params=["regression", "multiclass"])
def staged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, ModelRef, ModelPackage]:
    """A champion with user code, staged; then its registry and the user's directory are gone."""
    root = tmp_path_factory.mktemp("packages")
    user = user_files(root / "user")
    config = with_user_code(config_of(request.param, root / "storage"))
    package = make_package(root / "made", config, user)
    store = Store(str(root / "storage"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = tracking(None, store)
        with Tracker(config, store, user, NOW) as job:
            evaluation, verdict = judge(config, package)
            logged = publishing.log_package(job, root / "made", package, example(package))
            publishing.register(job, logged, replace(verdict, blessed=True), evaluation.metrics, "ab", None)
        ref = packages.stage(registry, store, f"{config.name}@champion")
        assert packages.stage(registry, store, f"{config.name}/1") == ref
        with pytest.raises(RaymlopsError, match="has no version 7"):
            packages.stage(registry, store, f"{config.name}/7")
    for gone in ("mlflow.db", "mlartifacts"):
        path = root / "storage" / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(user)
    return store, ref, package


def test_loads_and_predicts_as_registered(staged: tuple[Store, ModelRef, ModelPackage]) -> None:
    store, ref, package = staged
    loaded = packages.load(store, ref)
    frame = rows(20, seed=3)[package.config.features.raw_columns()]
    assert loaded.sha256 == ref.sha256 == package.sha256
    np.testing.assert_array_equal(loaded.scores(frame), package.scores(frame))
    assert packages.check_package(store, ref, loaded) is None
    assert packages.size(store, ref) == sum(e["bytes"] for e in package.manifest["files"].values())


def test_names_what_differs(staged: tuple[Store, ModelRef, ModelPackage]) -> None:
    store, ref, package = staged
    expected = packages.recorded(store, ref)
    assert len(expected.columns["zeta"]) == 3
    answers = {name: list(values) for name, values in expected.predictions.items()}
    column = "prediction" if not package.classes else "probability_long"
    answers[column][1] += 0.001 * max(1.0, abs(answers[column][1]))
    assert f"{column} of recorded row 1" in str(packages.check(expected, answers))
    assert "expected 3 rows, found 2" in str(packages.check(expected, {**answers, column: answers[column][:2]}))
    assert "is missing" in str(packages.check(expected, {}))
    answers[column][1] = float("nan")
    assert packages.check(expected, answers) is not None


def test_a_changed_file_is_refused(staged: tuple[Store, ModelRef, ModelPackage], tmp_path: Path) -> None:
    store, ref, _ = staged
    shutil.copytree(Path(store.uri) / "packages", tmp_path / "packages")
    copy = Store(str(tmp_path))
    copy.write(f"{ref.path}/features.json", b"{}")
    with pytest.raises(IntegrityError, match=r"features\.json"):
        packages.load(copy, ref)
