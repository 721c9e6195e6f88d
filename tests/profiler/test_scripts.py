"""The scripts under profiles/bench start, and say what they need."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "profiles/bench").glob("*.py"))


def run(script, *arguments):
    """Run a script as a process of its own."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_starts_and_explains_itself(script):
    if "torch" in script.stem and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed here")
    assert "-" in script.stem, "a script has a hyphen, so that nobody imports it"
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


def test_quality_without_recordings_names_the_script_that_fetches_them(tmp_path):
    done = run(ROOT / "profiles/bench/int8-quality.py", "--int8", "a", "--float", "b", "--speech", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path}: no WAV files there; python profiles/data/fetch-speech.py fetches them"
