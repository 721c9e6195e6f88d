"""What is done to speech before it is heard: noise at a ratio, rooms."""

import numpy as np
import pytest
import soundfile

from edgekit.errors import ProfileError
from edgekit.profiler.conditions import CLEAN, add_noise, add_room, hear_under, pink_noise


def tone(samples, level=0.2):
    return (level * np.sin(np.arange(samples) * 0.3)).astype(np.float32)


def power(sound):
    return float(np.mean(sound.astype(np.float64) ** 2))


@pytest.mark.parametrize("snr_db", [10.0, 0.0, -5.0])
@pytest.mark.parametrize("length", [1, 700, 16_000, 20_001])
def test_noise_is_added_at_the_ratio_asked_for_whatever_its_length(snr_db, length):
    speech, noise = tone(16_000), np.random.default_rng(0).standard_normal(length).astype(np.float32)
    mixed = add_noise(speech, noise, snr_db)
    scale = mixed.astype(np.float64) @ speech / (speech.astype(np.float64) @ speech)
    if length > 1:  # one sample repeated is a constant, which no projection tells from noise of the same power
        rest = mixed / scale - speech
        # The speech's own part of the noise is small but not zero.
        assert 10 * np.log10(power(speech) / power(rest)) == pytest.approx(snr_db, abs=0.5)
    assert len(mixed) == len(speech)
    assert np.abs(mixed).max() <= 0.99 + 1e-6


def test_pauses_do_not_make_noise_quieter():
    speech = np.concatenate((tone(16_000), np.zeros(48_000, np.float32)))
    noise = np.ones(1, np.float32)
    assert power(add_noise(speech, noise, 10.0)[20_000:]) == pytest.approx(power(tone(16_000)) / 10, rel=1e-3)


def test_silent_noise_is_refused():
    with pytest.raises(ProfileError, match=r"nothing but silence"):
        add_noise(tone(1600), np.zeros(1600, np.float32), 10.0)


def test_a_room_keeps_the_beginning_and_the_loudness_and_adds_a_tail():
    speech = tone(8000)
    response = np.zeros(500)
    response[[100, 300]] = 1.0, 0.5
    heard = add_room(speech, response)
    assert len(heard) == 8000 + 400 - 1
    assert float(np.sum(heard.astype(np.float64) ** 2)) == pytest.approx(power(speech) * 8000, rel=1e-4)
    echo = heard[:8000] - heard[50] / speech[50] * speech
    assert np.abs(echo[:200]).max() < 1e-6  # nothing before the echo
    assert np.abs(echo[200:]).max() > 0.01


def test_a_room_without_echo_changes_nothing():
    np.testing.assert_allclose(add_room(tone(1000), np.array([0.0, 1.0])), tone(1000), atol=1e-6)


def test_pink_noise_has_as_much_power_in_every_octave():
    noise = pink_noise(1 << 16, np.random.default_rng(3))
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [spectrum[1 << k : 1 << (k + 1)].sum() for k in range(8, 15)]
    assert power(noise) == pytest.approx(1.0, rel=1e-3)
    assert max(octaves) / min(octaves) < 1.4  # random: 256 bins in the lowest octave


@pytest.fixture
def sounds(tmp_path):
    rng = np.random.default_rng(5)
    for name in ("held-out/engine/pump__a.wav", "held-out/noise/generated__b.wav", "talkers/fr.wav", "talkers/it.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.3, 0.3, 48_000).astype(np.float32), 16_000)
    return tmp_path


def test_a_clip_keeps_its_noise_when_only_the_strength_changes(sounds):
    speech = tone(16_000, 0.05)
    for name in map(str, range(12)):  # all three kinds of noise are drawn among these
        loud, soft = (hear_under(f"noise {snr} dB", name, speech, sounds) for snr in (5, 25))
        np.testing.assert_allclose((soft - speech) * 10, loud - speech, atol=1e-4)
        np.testing.assert_array_equal(loud, hear_under("noise 5 dB", name, speech, sounds))
    assert not np.array_equal(loud, hear_under("noise 5 dB", "0", speech, sounds))
    assert hear_under(CLEAN, "a", speech, sounds) is speech


def test_noise_without_recordings_says_how_to_get_them(tmp_path):
    with pytest.raises(ProfileError, match=r"fetch-sounds.py fetches them"):
        [hear_under("noise 5 dB", name, tone(1600), tmp_path) for name in map(str, range(12))]
