"""Recipes and targets are found in a checkout and in an installed wheel alike."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import edgekit
from edgekit.resources import resource

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import edgekit.resources
from edgekit.recipe import load_recipe, load_target
from edgekit.recordings import named
from edgekit.runtime.memory import memory_fits
print(edgekit.resources.__file__)
print(load_target("cpu").dialect)
print(memory_fits().loading.source.device)
for path in sorted(edgekit.resources.resource("export").glob("*/*.toml")):
    recipe = load_recipe(path)
    assert all(clip.path.is_file() for clip in named((*recipe.check.clips, *recipe.calibrate.clips), "clips"))
    print(path.parent.name + "/" + path.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the path of EdgeKit's wheel, built from this checkout without a network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("edgekit_audio-*.whl"))


def test_a_checkout_reads_its_own_folders():
    assert resource("runtimes") == ROOT / "runtimes"
    assert resource("export/clips").is_dir()


def test_a_name_that_is_nowhere_points_into_the_checkout():
    assert resource("nothing-here") == ROOT / "nothing-here"


def test_a_wheel_carries_the_same_recipes_and_targets(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    place, dialect, device, *recipes = done.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path)
    assert dialect == "ort-cpu"
    assert (ROOT / "profiles" / device).is_dir()
    assert recipes == [f"{path.parent.name}/{path.name}" for path in sorted((ROOT / "export").glob("*/*.toml"))]


def test_a_wheel_holds_the_package_and_nothing_of_tests_or_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "edgekit/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"edgekit", f"edgekit_audio-{edgekit.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".safetensors")]
