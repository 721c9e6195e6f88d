"""The check clips under export/clips: samples as published, transcripts complete."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

CLIPS = Path(__file__).resolve().parents[1] / "export" / "clips"
PACKAGE = Path("/usr/share/pocketsphinx/test/data/librivox")

# SHA-256 of the samples as little-endian int16, computed from the WAV files of pocketsphinx-testdata.
SAMPLES_SHA256 = {
    "librivox-0870.flac": "d6ae5769a7bd5312d26213a382b5c0629d7e015a8290b91dfd51b15b0e249948",
    "librivox-0880.flac": "0f8e7b446750517dfc5f444bccb67d2f65b05e2d2476d93600cee814f5791cc2",
    "librivox-0890.flac": "f5db1acab6b8e07eba8bb5a240311e66fa47aa818a499cca8d6b3ffdc9d31f2d",
    "librivox-0920.flac": "ea5551d7cba0ace6a98a9875e2ed38791737699b1f5e81df71ae1eef4fd24606",
    "librivox-0930.flac": "0faf49d5f7782e92c1600066445e2127069e6aa8cba0349715efcd3e9e0da401",
}


def samples(path: Path) -> np.ndarray:
    """Return the file's samples, (n,) int16 at 16 kHz."""
    read, rate_hz = soundfile.read(path, dtype="int16")
    assert (rate_hz, read.ndim) == (16_000, 1)
    return read


@pytest.mark.parametrize("name", SAMPLES_SHA256)
def test_clip_holds_the_published_samples(name):
    assert hashlib.sha256(samples(CLIPS / name).astype("<i2").tobytes()).hexdigest() == SAMPLES_SHA256[name]


@pytest.mark.parametrize("name", SAMPLES_SHA256)
def test_clip_equals_the_wav_of_the_debian_package(name):
    wav = PACKAGE / f"sense_and_sensibility_01_austen_64kb-{Path(name).stem[-4:]}.wav"
    if not wav.exists():
        pytest.skip("needs the Debian package pocketsphinx-testdata")
    np.testing.assert_array_equal(samples(CLIPS / name), samples(wav))


def test_every_clip_has_plain_words_and_every_transcript_a_clip():
    transcripts = json.loads((CLIPS / "transcripts.json").read_text(encoding="utf-8"))
    assert sorted(transcripts) == sorted(path.name for path in CLIPS.glob("*.flac")) == sorted(SAMPLES_SHA256)
    for words in transcripts.values():
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", words)
