"""Spoken answers go to a file or to the loudspeaker."""

import sys

import msgspec
import numpy as np
import pytest
import soundfile

from edgekit.bundle import Sampling, open_bundle
from edgekit.bundle.speech import FlowSpeech
from edgekit.cli.speech import loudspeaker, speech_file
from edgekit.errors import DeviceError
from edgekit.runtime.events import Audio
from tests.runtime.audio.portaudio import FakePortAudio

PIECE = Audio(np.linspace(-0.5, 0.5, 1000, dtype=np.float32), 24_000)


@pytest.fixture
def silent(bundle):
    """Return the manifest of a bundle that only writes."""
    return open_bundle(bundle).manifest


@pytest.fixture
def speaking(silent):
    """Return a manifest that promises speech at 24 kHz."""
    speech = FlowSpeech(
        sample_rate_hz=24_000, samples_per_code=960, first_code=0, codes=1, start=0, end=0, chunk_codes=1,
        lookahead_codes=0, steps=1, guidance=0.0, voices={}, sampling=Sampling(),
    )  # fmt: skip
    return msgspec.structs.replace(silent, speech=speech)


def test_without_speech_there_is_neither_file_nor_loudspeaker(silent):
    with speech_file(None, silent) as file, loudspeaker(silent, speak=False) as playback:
        assert file is playback is None


def test_a_piece_is_written(speaking, tmp_path):
    with speech_file(tmp_path / "out.wav", speaking) as file:
        file.audio(PIECE)
    assert soundfile.info(tmp_path / "out.wav").frames == 1000


def test_a_piece_is_played_and_the_loudspeaker_closed_at_the_end(speaking, monkeypatch):
    portaudio = FakePortAudio(rates=(24_000,))
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)
    with loudspeaker(speaking, speak=True) as playback:
        playback.play(PIECE.samples, PIECE.sample_rate_hz)
        np.testing.assert_array_equal(portaudio.stream.ask(1000)[:, 0], PIECE.samples)
        assert portaudio.stream.running
    assert not portaudio.stream.running


def test_the_loudspeaker_is_the_one_that_is_named(speaking, monkeypatch):
    portaudio = FakePortAudio(rates=(24_000,))
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)
    with loudspeaker(speaking, speak=True, device="fake"):
        assert portaudio.stream.settings["device"] == 0
    with pytest.raises(DeviceError, match="speaker 'other': none has this name; name one with --speaker: 0"):
        loudspeaker(speaking, speak=True, device="other").__enter__()
