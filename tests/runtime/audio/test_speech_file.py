"""Speech goes to a WAV file as it comes, and the file has its name only when it is whole."""

import resource
import stat
import sys

import numpy as np
import pytest
import soundfile

from edgekit.errors import OutputError, UsageError
from edgekit.runtime.audio.speech_file import SpeechFile
from edgekit.runtime.events import Audio


def a_piece(samples, seed=0, rate=24_000):
    return Audio(np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32), rate)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (1920, 1, 0, 1919)])
def test_the_pieces_are_the_file(tmp_path, sizes):
    """Tolerance: half a step of 16 bit, rounded either way."""
    pieces = [a_piece(size, size) for size in sizes]
    with SpeechFile(tmp_path / "new" / "out.wav", 24_000) as file:
        for piece in pieces:
            file.audio(piece)
    found, rate = soundfile.read(tmp_path / "new" / "out.wav", dtype="float32")
    assert (rate, soundfile.info(tmp_path / "new" / "out.wav").subtype) == (24_000, "PCM_16")
    np.testing.assert_allclose(found, np.concatenate([[], *(p.samples for p in pieces)]), atol=2**-15)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.wav"]
    assert stat.S_IMODE((tmp_path / "new" / "out.wav").stat().st_mode) == 0o600


def test_samples_are_on_disk_while_more_are_to_come(tmp_path):
    with SpeechFile(tmp_path / "out.wav", 24_000) as file:
        file.audio(a_piece(24_000))
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(".out.wav.")
        assert partial.stat().st_size > 40_000


def test_what_is_too_loud_is_clipped_and_does_not_wrap_around(tmp_path):
    with SpeechFile(tmp_path / "out.wav", 8_000) as file:
        file.audio(Audio(np.array([1.5, -1.5, 1.0], np.float32), 8_000))
    found, _ = soundfile.read(tmp_path / "out.wav")
    np.testing.assert_allclose(found, [1, -1, 1], atol=2**-15)


def speak(path, pieces, error=None):
    with SpeechFile(path, 24_000) as file:
        for seed in range(pieces):
            file.audio(a_piece(2400, seed))
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_file_that_was_there_and_no_other(tmp_path, error):
    (tmp_path / "out.wav").write_bytes(b"before")
    with pytest.raises(error):
        speak(tmp_path / "out.wav", 1, error)
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]
    assert (tmp_path / "out.wav").read_bytes() == b"before"


def test_another_kind_of_file_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match=r"out.mp3: speech is written as WAV; give it a name that ends in .wav"):
        SpeechFile(tmp_path / "out.mp3", 24_000)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.wav").mkdir()
    for place, reason in (("file/out.wav", "(Not a directory|File exists)"), ("folder.wav", "Is a directory")):
        with pytest.raises(OutputError, match=f"{place}: not written, {reason}; choose"):
            speak(tmp_path / place, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size there")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputError, match="out.wav: not written, .*; choose another place or free some space"):
            speak(tmp_path / "out.wav", 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
