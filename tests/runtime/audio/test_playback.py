"""The loudspeaker plays every sample once, in order, stops when told, and counts only breaks that a listener hears."""

import sys
import threading
import time

import numpy as np
import pytest

from edgekit.errors import DeviceError, MissingPackageError
from edgekit.runtime.audio.playback import Playback, TurnTaking
from edgekit.runtime.events import Audio, AudioEnded
from edgekit.runtime.hear.resampler import Resampler
from tests.runtime.audio.portaudio import FakePortAudio

RATE = 24_000


def speech(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.fixture
def portaudio():
    """Return a device that can do 24 kHz."""
    return FakePortAudio(rates=(RATE, 48_000))


def asked(portaudio, *sizes):
    """Return what the device gets, (n,), in calls of these sizes."""
    return np.concatenate([portaudio.stream.ask(size) for size in sizes])[:, 0]


@pytest.mark.parametrize("period", [1, 239, 240, 241, 1000])
def test_every_sample_is_played_once_and_silence_after_it(portaudio, period):
    pieces = [speech(size, size) for size in (0, 1, 239, 240, 241, 5000)]
    with Playback(portaudio=portaudio) as playback:
        assert playback.device_rate_hz == RATE
        for piece in pieces:
            playback.play(piece, RATE)
        playback.finish()
        expected = np.concatenate(pieces)
        heard = np.concatenate([asked(portaudio, period) for _ in range(-(-len(expected) // period) + 1)])
        np.testing.assert_array_equal(heard[: len(expected)], expected)
        assert not heard[len(expected) :].any()
        assert playback.underruns == 0
    assert not portaudio.stream.running


def test_a_device_without_the_rate_gets_it_resampled():
    portaudio = FakePortAudio(rates=(48_000,))
    with Playback(portaudio=portaudio) as playback:
        assert portaudio.stream.settings["samplerate"] == playback.device_rate_hz == 48_000
        for piece in np.split(speech(7000), [1, 2000, 2001]):
            playback.play(piece, RATE)
        playback.finish()
        resampler = Resampler(RATE, 1, rate_out=48_000)
        expected = np.concatenate([resampler.push(speech(7000)), resampler.finish()])
        assert len(expected) == 14_000
        np.testing.assert_array_equal(asked(portaudio, 14_000), expected)
        assert not asked(portaudio, 100).any()


def test_a_device_of_two_channels_plays_the_same_on_both():
    portaudio = FakePortAudio(rates=(48_000,), channels=(2,))
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(480), 48_000)
        out = portaudio.stream.ask(480)
        np.testing.assert_array_equal(out, np.stack([speech(480)] * 2, axis=1))


def test_a_piece_of_another_rate_comes_after_the_whole_one_before(portaudio):
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(1000), 48_000)
        playback.play(speech(1000, 1), RATE)
        playback.finish()
        heard = asked(portaudio, 1500)
    np.testing.assert_array_equal(heard[500:], speech(1000, 1))


@pytest.mark.parametrize("late", [0, 1, 5])
def test_an_answer_that_comes_too_late_is_one_underrun_however_long_the_break(portaudio, late):
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(300), RATE)
        asked(portaudio, *[100] * (3 + late))
        playback.play(speech(300), RATE)
        asked(portaudio, 100, 100, 100)
        assert playback.underruns == (late > 0)


def test_a_piece_that_ends_within_a_call_and_goes_on_later_is_an_underrun(portaudio):
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(150), RATE)
        asked(portaudio, 100, 100)
        playback.play(speech(150), RATE)
        asked(portaudio, 100)
        assert playback.underruns == 1


def test_silence_before_after_and_between_answers_is_no_underrun(portaudio):
    with Playback(portaudio=portaudio) as playback:
        asked(portaudio, 100, 100)
        for answer in range(3):
            playback.play(speech(150, answer), RATE)
            asked(portaudio, 100, 100, 100)
            playback.finish()
            asked(portaudio, 100)
        assert playback.underruns == 0


def test_the_end_of_an_answer_told_late_is_no_underrun(portaudio):
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(150), RATE)
        asked(portaudio, 100, 100, 100)
        playback.finish()
        playback.play(speech(150), RATE)
        asked(portaudio, 100)
        assert playback.underruns == 0


def test_a_break_that_the_device_itself_tells_counts_within_an_answer_only(portaudio):
    with Playback(portaudio=portaudio) as playback:
        portaudio.stream.ask(100, underflow=True)
        playback.play(speech(300), RATE)
        portaudio.stream.ask(100, underflow=True)  # before the first sample: nobody hears it
        assert playback.underruns == 0
        portaudio.stream.ask(100, underflow=True)
        assert playback.underruns == 1


@pytest.mark.parametrize("channels", [(1,), (2,)])
def test_what_the_device_is_given_is_kept_silence_too_where_it_is_asked_for(channels):
    portaudio = FakePortAudio(rates=(RATE,), channels=channels)
    with Playback(portaudio=portaudio, keeps_reference=True) as playback:
        playback.play(speech(300), RATE)
        out = asked(portaudio, 100, 239, 50)
        np.testing.assert_array_equal(playback.reference.read(1000), out)
        assert playback.played_s == 300 / RATE
    with Playback(portaudio=portaudio) as playback:
        assert playback.reference is None


@pytest.mark.parametrize("period", [48, 100, 240, 960])
def test_the_loudspeaker_is_silent_within_40_ms_of_being_told(period):
    portaudio = FakePortAudio(rates=(RATE,))
    with Playback(portaudio=portaudio) as playback:
        buffered_s = portaudio.stream.settings["latency"]
        playback.play(speech(RATE), RATE)
        asked(portaudio, *[period] * 3)
        playback.flush()
        rest = asked(portaudio, *[period] * 20)
        after_s = (np.flatnonzero(rest).max(initial=-1) + 1) / RATE
        assert buffered_s + after_s <= 0.04


def test_what_the_device_has_not_played_yet_was_not_heard():
    portaudio = FakePortAudio(rates=(RATE,))
    portaudio.latency = 0.02
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(RATE), RATE)
        asked(portaudio, 240)
        assert playback.flush() == 0.0  # 10 ms were given, which are to be heard in 20
        playback.play(speech(2400), RATE)
        asked(portaudio, 240, 1000)
        assert playback.flush() == pytest.approx(1240 / RATE - 0.02)


def test_an_answer_that_ran_dry_was_heard_to_its_last_sample_once_the_device_has_played_it():
    portaudio = FakePortAudio(rates=(RATE,))
    portaudio.latency = 0.02
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(2400), RATE)
        asked(portaudio, 2400, 240)
        assert playback.flush() == pytest.approx(0.09)
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(2400), RATE)
        asked(portaudio, 2500, 1000)
        assert playback.flush() == pytest.approx(0.1)


@pytest.mark.parametrize("rates", [(RATE,), (48_000,)])
def test_flush_leaves_at_most_the_block_that_is_being_played(rates):
    portaudio = FakePortAudio(rates=rates)
    with Playback(portaudio=portaudio) as playback:
        block = rates[0] // 100
        playback.play(speech(RATE), RATE)
        asked(portaudio, block // 2)
        playback.flush()
        rest = asked(portaudio, 4 * block)
        assert np.count_nonzero(rest) == block - block // 2
        assert not rest[block:].any()
        playback.play(speech(RATE, 1), RATE)
        playback.finish()
        fresh = Resampler(RATE, 1, rate_out=rates[0])
        np.testing.assert_array_equal(asked(portaudio, block), fresh.push(speech(RATE, 1))[:block])
        assert playback.underruns == 0


def test_a_model_that_speaks_far_ahead_loses_the_oldest_and_the_count_tells(portaudio):
    with Playback(portaudio=portaudio, buffer_s=0.1) as playback:
        playback.play(speech(RATE), RATE)
        assert playback.ring.dropped_samples == RATE - 2400
        np.testing.assert_array_equal(asked(portaudio, 2400), speech(RATE)[-2400:])


def test_drain_waits_until_all_is_played(portaudio):
    heard = []

    def play_on():
        while portaudio.stream.running and not playback._ended.is_set():
            heard.append(asked(portaudio, 100))

    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(4321), RATE)
        device = threading.Thread(target=play_on)
        device.start()
        playback.drain()
        device.join()
    np.testing.assert_array_equal(np.concatenate(heard)[:4321], speech(4321))


def test_a_device_that_goes_is_told_and_never_waited_for(portaudio):
    with Playback(portaudio=portaudio) as playback:
        playback.play(speech(100), RATE)
        portaudio.stream.unplug()
        with pytest.raises(DeviceError, match="speaker: it stopped taking sound"):
            playback.play(speech(100), RATE)
        begun = time.monotonic()
        with pytest.raises(DeviceError, match="speaker: it stopped taking sound"):
            playback.drain()
        assert time.monotonic() - begun < 4


def test_no_loudspeaker_and_a_busy_one_are_told():
    with pytest.raises(DeviceError, match=r"speaker: none found.*plug one in, or run without --speak"):
        Playback(portaudio=FakePortAudio(present=False))
    with pytest.raises(DeviceError, match=r"speaker: busy"), Playback(portaudio=FakePortAudio(busy=True)):
        pass


def test_missing_portaudio_and_missing_package_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    with pytest.raises(DeviceError, match="speaker: .*apt install libportaudio2"):
        Playback()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingPackageError, match=r"the speaker needs it; `pip install 'edgekit-audio\[mic\]'`"):
        Playback()


def a_piece(samples, seed=0, answer=1):
    return Audio(speech(samples, seed), RATE, answer)


def taking_turns(playback, interrupted=None):
    """Return a TurnTaking that notes what it interrupts."""
    return TurnTaking(playback, lambda answer, heard_s: (interrupted or []).append((answer, heard_s)))


def test_a_user_who_talks_silences_the_answer_and_its_seconds_are_told(portaudio):
    interrupted = []
    with Playback(portaudio=portaudio) as playback:
        turns = TurnTaking(playback, lambda *told: interrupted.append(told))
        for piece in (a_piece(1000), a_piece(1000, 1)):
            turns.event(piece)
        asked(portaudio, 240)
        turns.talked(answering=1)
        assert not asked(portaudio, 1000).any()
        assert playback.underruns == 0
    assert interrupted == [(1, 240 / RATE)]


def test_an_answer_is_silenced_once_and_what_still_comes_of_it_is_not_played(portaudio):
    interrupted = []
    with Playback(portaudio=portaudio) as playback:
        turns = TurnTaking(playback, lambda *told: interrupted.append(told))
        turns.event(a_piece(1000))
        turns.talked(answering=1)
        turns.event(a_piece(1000, 1))  # a step was under way
        turns.talked(answering=1)
        assert not asked(portaudio, 1000).any()
        turns.event(a_piece(500, 2, answer=2))
        np.testing.assert_array_equal(asked(portaudio, 500), speech(500, 2))
    assert interrupted == [(1, 0.0)]


def test_a_user_who_talks_while_nothing_is_said_interrupts_nothing(portaudio):
    interrupted = []
    with Playback(portaudio=portaudio) as playback:
        turns = TurnTaking(playback, lambda *told: interrupted.append(told))
        turns.talked(answering=None)
        turns.event(a_piece(480))
        turns.event(AudioEnded(1.0, 1))
        asked(portaudio, 480)
        turns.talked(answering=None)  # all of it was played
    assert interrupted == []


def test_an_answer_that_is_not_heard_yet_is_interrupted_before_its_first_sound(portaudio):
    interrupted = []
    with Playback(portaudio=portaudio) as playback:
        turns = TurnTaking(playback, lambda *told: interrupted.append(told))
        turns.event(a_piece(480))
        turns.event(AudioEnded(1.0, 1))
        asked(portaudio, 480)
        turns.talked(answering=2)
    assert interrupted == [(2, 0.0)]


def test_an_answer_ends_with_its_last_piece_so_that_the_next_may_come_at_any_time(portaudio):
    with Playback(portaudio=portaudio) as playback:
        turns = taking_turns(playback)
        for answer in (1, 2):
            for event in (a_piece(100, 0, answer), a_piece(150, 1, answer), AudioEnded(1.0, answer)):
                turns.event(event)
            asked(portaudio, 100, 100, 100, 100)
        assert playback.underruns == 0
