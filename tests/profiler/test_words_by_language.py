"""The script that counts words changed in each language, on two bundles of random weights and short noise."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgekit.exporter.export import ExportOptions, export
from edgekit.profiler.words import changed_words
from tests.reference import checkpoints

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "profiles/bench/words-by-language.py"
JUDGED = ROOT / "tests/exporter/judged.toml"


@pytest.fixture
def script():
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("words_by_language", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["words_by_language"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["words_by_language"]


def test_words_are_counted_under_the_normaliser_of_their_language():
    pytest.importorskip("whisper_normalizer")
    assert changed_words("Colour, it's 5!", "color it is five", "en") == (0, 4)
    assert changed_words("Número no válido.", "numero no válido", "es") == (1, 3)
    assert changed_words("...", "да", "ru") == (1, 0)


def test_unsteady_clips_and_other_languages_are_counted_apart(script):
    facts = {"language": "es", "texts": {}}
    same, other = {"float32": "es", "bundle": "es"}, {"float32": "es", "bundle": "pt"}
    clips = [
        script.Clip(name="a", words=10, changed=1, by_noise=0, taken=same, **facts),
        script.Clip(name="b", words=30, changed=9, by_noise=2, taken=same, **facts),
        script.Clip(name="c", words=10, changed=0, by_noise=0, taken=other, **facts),
    ]
    assert {ratio.name: round(ratio.value, 3) for ratio in script.ratios_of("es", clips)} == {
        "es: words changed": 0.05,
        "es: words changed, unsteady clips": 0.3,
        "es: words that noise changes": 0.04,
        "es: clips taken for another language": 0.333,
    }
    assert list(script.notes_of(["es"], clips)) == [
        "es: 1 of 20 words changed in 2 steady clips; 1 clips with 30 words are unsteady; 1 are taken for another "
        "language."
    ]


def test_without_recordings_the_target_that_fetches_them_is_named(tmp_path):
    done = run("--bundle", "b", "--float", "f", "--speech", str(tmp_path), "--languages", "fr")
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path / 'asterisk-fr'}: no WAV files there; make languages-data fetches them"


def test_a_run_writes_what_changed_and_goes_on_where_it_was(tmp_path):
    pytest.importorskip("whisper_normalizer")
    checkpoint = checkpoints.write(tmp_path / "c", "whisper-dense-128")
    for precision in ("float32", "int8"):
        export(checkpoint, tmp_path / precision, ExportOptions(recipe=JUDGED, precision=precision, accept_loss="noise"))
    for language in ("en", "fr", "it"):  # the checkpoint has no Italian
        folder = tmp_path / f"data/asterisk-{language}"
        folder.mkdir(parents=True)
        for index, seconds in enumerate((1.3, 0.3, 1.5)):
            noise = np.random.default_rng(index).uniform(-0.3, 0.3, int(seconds * 16_000))
            soundfile.write(folder / f"{index}.wav", noise, 16_000)
    arguments = (
        "--bundle", tmp_path / "int8", "--float", tmp_path / "float32", "--speech", tmp_path / "data",
        "--languages", "en", "fr", "it", "--words", "100000", "--work", tmp_path / "kept.jsonl",
        "--output", tmp_path / "out", "--threads", "1",
    )  # fmt: skip
    done = run(*map(str, arguments))
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("judged-int8-languages.json")
    found = json.loads(written.read_text())
    assert sorted(found["details"]["clips"]) == ["en/0", "en/2", "fr/0", "fr/2"]
    assert {name.split(":")[0] for name in (ratio["name"] for ratio in found["ratios"])} == {"en", "fr", "all"}
    kept = hashlib.sha256((tmp_path / "kept.jsonl").read_bytes()).digest()
    assert run(*map(str, arguments)).returncode == 0
    assert hashlib.sha256((tmp_path / "kept.jsonl").read_bytes()).digest() == kept


def run(*arguments):
    """Run the script as a process of its own."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
