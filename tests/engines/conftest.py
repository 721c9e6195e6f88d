"""Bundles and plans that several tests of the engines lane start from: each is made once and then copied."""

import shutil
from pathlib import Path

import pytest

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.recipe import load_target
from edgekit.runtime.backends import build_plans
from tests.exporter.graphs import STANDARD
from tests.reference import checkpoints

HERE = Path(__file__).parent
JUDGED = HERE.parent / "exporter" / "judged.toml"


@pytest.fixture(scope="session")
def target():
    return load_target(str(HERE / "rtx.toml"))


@pytest.fixture(scope="session")
def plans(tmp_path_factory):
    """Return a folder for plans that tests share: a component that is the same in two bundles is built once."""
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return a function: precision -> a bundle of whisper-experts."""
    folder = tmp_path_factory.mktemp("small")
    checkpoint = checkpoints.write(folder / "checkpoint", "whisper-experts")

    def make(precision):
        if not (folder / precision).is_dir():
            export(checkpoint, folder / precision, ExportOptions(recipe=JUDGED, target=STANDARD, precision=precision))
        return open_bundle(folder / precision)

    return make


@pytest.fixture(scope="session")
def first_build(small, target, tmp_path_factory):
    """Return the folder and the plans of the INT8 bundle, and what was told while they were built."""
    folder, told = tmp_path_factory.mktemp("first"), []
    return folder, build_plans(small("int8"), target, folder=folder, progress=lambda *said: told.append(said)), told


@pytest.fixture
def built(first_build, tmp_path):
    """Return a folder of this test's own with the plans of the INT8 bundle, by component."""
    shutil.copytree(first_build[0], tmp_path / "plans")
    return {one.component: tmp_path / "plans" / one.path.name for one in first_build[1]}
