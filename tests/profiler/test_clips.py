"""Clips end where their speech does, whatever a gate would say."""

import numpy as np
import pytest
import soundfile

from edgekit.errors import AudioError
from edgekit.profiler.clips import faint_noise, join_speech, make_clip, read_clip, speech_blocks
from edgekit.profiler.pacing import block_samples

RATE = 16_000
RATES = pytest.mark.parametrize("rate", [11_025, 16_000, 24_000])  # of the first, 20 ms are no whole samples


def tone(seconds, level=0.3, rate=RATE):
    """Return a 220 Hz tone."""
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def silence(seconds, rate=RATE):
    """Return silence 60 dB below the tone."""
    return tone(seconds, 0.0003, rate)


@RATES
@pytest.mark.parametrize("tail_s", [0.0, 0.02, 0.5])
def test_the_last_speech_sample_is_the_end_of_the_last_loud_block(tail_s, rate):
    clip = make_clip("a", np.concatenate((silence(0.3, rate), tone(1.0, rate=rate), silence(tail_s, rate))), rate)
    assert clip.speech_end_s == pytest.approx(1.3, abs=0.02)
    assert len(clip.speech(0.5)) == clip.speech_samples + round(rate / 2)
    assert not clip.speech(0.5)[clip.speech_samples :].any()


@RATES
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_clip_shorter_than_a_block_ends_with_its_samples(more, rate):
    for count in (1, block_samples(rate) + more):
        clip = make_clip("a", np.full(count, 0.5, np.float32), rate)
        assert clip.speech_samples == count
        assert speech_blocks(clip.samples, rate).tolist() == [True] * -(-count // block_samples(rate))


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(16_000, np.float32)])
def test_silence_is_no_clip(samples):
    with pytest.raises(AudioError, match="nothing but silence"):
        make_clip("a", samples, RATE)


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_joined_speech_has_the_length_asked_for_short_pauses_and_ends_in_speech(rate):
    parts = (silence(0.4, rate), tone(0.6, rate=rate), silence(1.0, rate), tone(0.5, rate=rate), silence(0.7, rate))
    clip = make_clip("a", np.concatenate(parts), rate)
    for seconds in (0.5, 2.0, 7.3):
        joined = join_speech([clip, clip], seconds)
        assert joined.seconds == joined.speech_end_s == pytest.approx(seconds, abs=1 / rate)
        loud = speech_blocks(joined.samples, rate)
        assert loud[-1]
        quiet = max(len(run) for run in "".join("#" if block else "." for block in loud).split("#"))
        assert quiet <= 11  # ten whole blocks, and one that a border may cut in two


@RATES
def test_a_file_is_resampled_and_mixed_down(rate, tmp_path):
    stereo = np.stack((tone(1.0), -0.5 * tone(1.0)), axis=1)[::2]
    soundfile.write(tmp_path / "a.wav", stereo, 8000)
    clip = read_clip(tmp_path / "a.wav", rate)
    assert (clip.name, clip.rate_hz) == ("a.wav", rate)
    assert clip.seconds == pytest.approx(1.0, abs=0.01)
    assert np.abs(clip.samples[2000:-2000]).max() == pytest.approx(0.075, rel=0.05)  # (0.3 - 0.15) / 2
    assert clip.facts() == read_clip(tmp_path / "a.wav", rate).facts()


@RATES
def test_the_faint_noise_is_the_same_every_time_and_70_db_below_full_scale(rate):
    noise = faint_noise(1.0, rate)
    assert len(noise) == rate
    assert np.array_equal(noise, faint_noise(1.0, rate))
    assert 20 * np.log10(np.sqrt(np.mean(noise**2))) == pytest.approx(-70, abs=0.2)
