"""Every target that ships loads and has what a device needs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.errors import RecipeError
from edgekit.recipe import load_target

RUNTIMES = Path(__file__).resolve().parent.parent / "runtimes"
TARGETS = sorted(path.name for path in RUNTIMES.iterdir() if path.is_dir())


def test_the_cpu_target_is_there():
    assert "cpu" in TARGETS
    assert load_target("cpu").dialect == "ort-cpu"


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_loads_and_brings_its_installer(name):
    target = load_target(name)
    assert target.name == name
    assert target.backends
    for file in ("README.md", "Dockerfile", "install.sh", "smoke.sh", "edgekit.service"):
        assert (RUNTIMES / name / file).is_file(), file


@pytest.mark.parametrize("name", TARGETS)
def test_the_table_of_targets_says_what_each_file_says(name):
    target = load_target(name)
    row = re.search(rf"\| \[`{name}`\].*", (RUNTIMES / "README.md").read_text(encoding="utf-8"))
    assert row, "not in runtimes/README.md"
    cells = [cell.strip(" `") for cell in row[0].split("|")[2:4]]
    assert cells == [target.dialect, "yes" if target.tested else "no"]


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match=r"target 'toaster' is not known; choose one of: .*cpu"):
        load_target("toaster")


@pytest.mark.parametrize("script", sorted(RUNTIMES.glob("*/*.sh")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_without_arguments_says_how_it_is_used(script):
    done = subprocess.run([shutil.which("sh"), script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sh ")


def test_the_installer_refuses_what_is_no_bundle_and_writes_nothing(tmp_path):
    done = subprocess.run(
        [shutil.which("sh"), RUNTIMES / "cpu" / "install.sh", tmp_path, tmp_path / "prefix"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no manifest.json there" in done.stderr
    assert not (tmp_path / "prefix").exists()
