"""The scripts under export/ run as their READMEs say, as programs of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from edgekit.bundle import open_bundle
from edgekit.exporter.checks.census import ratio
from tests.reference import checkpoints

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "export").glob("*/export-*.py"))


def _run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "export" / script), *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_and_nothing_imports_it(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    assert "-" in script.stem


@pytest.mark.slow
def test_edgekit_tiny_is_exported_and_reads_a_human_voice(tmp_path):
    printed = _run("edgekit-tiny/export-int8.py", tmp_path / "tiny")
    assert "levels, words changed against float" in printed
    assert ratio(open_bundle(tmp_path / "tiny").manifest.census) <= 0.27
    heard = edgekit.load(tmp_path / "tiny").transcribe(ROOT / "export/clips/librivox-0870.flac", gate="off").text
    assert "Dashwood had then leisure to consider" in heard


def test_a_step_audio_checkpoint_is_exported_in_int4(tmp_path):
    checkpoint = checkpoints.write(tmp_path / "checkpoint", "step-moe-4")
    printed = _run("step-audio-2-mini/export-int4.py", checkpoint, tmp_path / "bundle", "random weights")
    assert "'experts': 'int4'" in printed
    assert open_bundle(tmp_path / "bundle").manifest.family == "step_audio"


def test_a_qwen3_omni_checkpoint_is_exported_with_its_thinker_in_int4(tmp_path):
    checkpoint = checkpoints.write(tmp_path / "checkpoint", "omni")
    # Experts of 16 and 32 numbers are coarser than published ones, and random ones lean on no limit.
    printed = _run("qwen3-omni-30b/export-int4.py", checkpoint, tmp_path / "bundle", "random weights")
    assert "'experts': 'int4', 'head': 'int8', 'decoder': 'int8'" in printed
    assert open_bundle(tmp_path / "bundle").manifest.speech is not None


@pytest.mark.parametrize(
    "script", ["whisper/export-ctranslate2.py", "step-audio-2-mini/export-int4.py", "qwen3-omni-30b/export-int4.py"]
)
def test_a_script_without_its_argument_says_how_it_is_called(script):
    done = subprocess.run([sys.executable, str(ROOT / "export" / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ")
