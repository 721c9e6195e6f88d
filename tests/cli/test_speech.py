"""Spoken answers go to a file or to the loudspeaker."""

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from edgekit.bundle import Sampling, open_bundle
from edgekit.bundle.speech import FlowSpeech
from edgekit.cli.speech import account, echo_guard, loudspeaker, speech_file, without_echo
from edgekit.errors import DeviceError, MissingPackageError, UsageError
from edgekit.runtime.audio.microphone import Microphone
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


@pytest.mark.parametrize(
    ("speak", "simulate", "rule"),
    [
        (False, None, "--echo: nothing is spoken; add --speak"),
        (False, Path("a.wav"), "--echo: nothing is spoken; add --speak"),
        (True, Path("a.wav"), "--echo: a file hears no loudspeaker; leave it out"),
    ],
)
def test_an_echo_is_cancelled_only_where_there_is_one(speak, simulate, rule):
    assert echo_guard(None, speak=speak, simulate=simulate) is None
    assert echo_guard(False, speak=speak, simulate=simulate) is None
    with pytest.raises(UsageError) as caught:
        echo_guard(True, speak=speak, simulate=simulate)
    assert str(caught.value) == rule


def test_an_echo_that_cannot_be_cancelled_is_refused_before_a_model_is_loaded(cli, bundle, wav):
    path = wav()
    line = "edgekit: --echo: nothing is spoken; add --speak\n"
    assert cli("listen", bundle, "--simulate", path, "--echo") == (2, "", line)
    line = "edgekit: --echo: a file hears no loudspeaker; leave it out\n"
    assert cli("listen", bundle, "--simulate", path, "--echo", "--speak") == (2, "", line)


def test_without_the_package_a_line_says_so_and_asking_for_it_is_refused(monkeypatch, capsys):
    assert echo_guard(None, speak=True, simulate=None) == echo_guard(True, speak=True, simulate=None) == "canceller"
    assert echo_guard(False, speak=True, simulate=None) is None
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("edgekit.runtime.audio.echo.canceller.find_spec", lambda name: None)
    assert echo_guard(None, speak=True, simulate=None) == "gate"
    assert capsys.readouterr().err == (
        "edgekit: pywebrtc-audio: not installed, cancelling the loudspeaker's echo needs it; "
        "`pip install 'edgekit-audio[echo]'`; until then speak up to interrupt, or use headphones\n"
    )
    with pytest.raises(MissingPackageError, match="pywebrtc-audio: not installed"):
        echo_guard(True, speak=True, simulate=None)


class Listening:
    """What a Stream is to the commands here."""

    played = None

    def beside(self, played) -> None:
        """Take note of what is played."""
        self.played = played


@pytest.mark.parametrize("guard", ["canceller", "gate", None])
def test_the_microphone_is_rid_of_the_loudspeaker_and_the_stream_is_told_what_is_played(speaking, monkeypatch, guard):
    portaudio, stream = FakePortAudio(rates=(16_000, 24_000)), Listening()
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)
    with loudspeaker(speaking, speak=True, keeps_reference=guard is not None) as playback:
        played_by, microphone = portaudio.stream, Microphone(portaudio=portaudio)
        source = without_echo(guard, microphone, playback, stream)
        playback.play(np.tile(PIECE.samples, 24), 24_000)
        with source:
            for _ in range(100):
                played_by.ask(240)
                portaudio.stream.record(np.full((160, 1), 0.1, np.float32))
        assert source.read(16_000).shape == (16_000, 1)
        assert (source is microphone) == (guard is None)
        assert (stream.played is None) == (guard is None)
        assert guard is None or stream.played.until(0.5) is False
        again = without_echo(guard, microphone, playback, stream, after=source)
        assert guard is None or np.array_equal(again.read(160)[:, 0], source.canceller.rest), "its sound goes on"


def test_what_was_spoken_is_accounted_for_even_where_nothing_broke_off(speaking, monkeypatch, capsys):
    portaudio = FakePortAudio(rates=(24_000,))
    monkeypatch.setitem(sys.modules, "sounddevice", portaudio)
    account(None)
    with loudspeaker(speaking, speak=True) as playback:
        account(playback)
        playback.play(PIECE.samples, 24_000)
        for _ in range(2):
            portaudio.stream.ask(1_000)
        playback.play(np.tile(PIECE.samples, 20), 24_000)
        portaudio.stream.ask(20_000)
        account(playback)
    assert capsys.readouterr().err == (
        "edgekit: spoke 0.0 s, broke off 0 times\nedgekit: spoke 0.9 s, broke off 1 times: too slow to keep up\n"
    )
