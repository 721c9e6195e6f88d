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


def test_a_peer_that_is_not_installed_is_named_with_the_way_round_it():
    if importlib.util.find_spec("moonshine_voice") is not None:
        pytest.skip("moonshine-voice is installed here")
    others = [word for name in ("faster-whisper", "whisper.cpp") for word in ("--skip", name)]
    done = run(ROOT / "profiles/bench/beside-peers.py", "--int8", "a", *others)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "Moonshine: package moonshine-voice is missing; pip install -r requirements/bench.txt, or --skip 'Moonshine'"
    )


def test_a_sample_of_more_recordings_than_have_words_is_refused(tmp_path):
    (tmp_path / "one.wav").touch()
    (tmp_path / "wordless.wav").touch()
    words = tmp_path / "words.tsv"
    words.write_text("one\tone\nwordless\t\tno words in it\nabsent\ttwo\n", encoding="utf-8")
    peers = ("faster-whisper", "whisper.cpp", "Moonshine", "Moonshine with drafts")
    skipped = [word for name in peers for word in ("--skip", name)]
    script = ROOT / "profiles/bench/beside-peers.py"
    done = run(script, "--int8", "a", "--speech", str(tmp_path), "--words", str(words), "--sample", "2", *skipped)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"{tmp_path}: 1 recordings with words in {words}, --sample asks for 2; "
        "python profiles/data/fetch-speech.py fetches them"
    )
