"""Channels to one: their mean, or one of them where they are each other's opposite; the same for every split."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.runtime.hear.downmix import to_mono
from edgekit.runtime.hear.resampler import Resampler

Samples = NDArray[np.float32]
RATE = 16_000
BLOCK = RATE // 50


def talk(samples: int, seed: int = 3) -> Samples:
    """Return noise whose loudness comes and goes, as speech's does."""
    rng = np.random.default_rng(seed)
    loudness = 0.2 * np.abs(np.sin(np.arange(samples) / 2_000))
    return (loudness * rng.standard_normal(samples)).clip(-0.9, 0.9).astype(np.float32)


def mixed(channels: Samples, cuts: list[int] | None = None, rate: int = RATE) -> Samples:
    resampler = Resampler(rate, channels.shape[1], "talk.wav", rate_out=RATE)
    parts = [resampler.push(part) for part in np.split(channels, sorted(cuts or []))]
    return np.concatenate([*parts, resampler.finish()])


def loudness(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize("gain", [-1.0, -0.8, -1.25])
def test_of_channels_that_cancel_one_is_heard_and_it_is_said_once(
    gain: float, caplog: pytest.LogCaptureFixture
) -> None:
    left = talk(40_001)
    heard = mixed(np.stack([left, np.float32(gain) * left], axis=1))
    louder = max(1.0, -gain)
    np.testing.assert_allclose(np.abs(heard), np.abs(np.float32(louder) * left), atol=1e-6)
    channel = 2 if gain < -1 else 1
    assert [record.getMessage() for record in caplog.records] == [
        f"talk.wav: its channels cancel each other, channel {channel} is heard alone"
    ]


def test_noise_of_each_channel_does_not_hide_that_they_cancel() -> None:
    left, rng = talk(40_001), np.random.default_rng(8)
    channels = np.stack([left, -0.97 * left], axis=1) + rng.standard_normal((40_001, 2)) * 0.003
    assert loudness(mixed(channels.astype(np.float32))) > 0.9 * loudness(left)


@pytest.mark.parametrize("channels", [2, 3, 8, 64])
def test_channels_that_agree_or_have_nothing_in_common_are_averaged(
    channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    for sound in (
        np.stack([talk(20_001)] * channels, axis=1),
        np.stack([talk(20_001, seed) for seed in range(channels)], axis=1),
        np.stack([talk(20_001), *[np.zeros(20_001, np.float32)] * (channels - 1)], axis=1),
        np.stack([np.roll(talk(20_001), 5 * shift) for shift in range(channels)], axis=1),
    ):
        np.testing.assert_array_equal(mixed(sound), to_mono(sound))
    assert not caplog.records


def test_of_several_channels_that_cancel_the_loudest_is_heard() -> None:
    left = talk(20_001)
    channels = np.stack([0.5 * left, -left, np.zeros_like(left), 0.5 * left], axis=1).astype(np.float32)
    np.testing.assert_allclose(mixed(channels), -left, atol=1e-6)


def test_silence_and_dither_do_not_cancel(caplog: pytest.LogCaptureFixture) -> None:
    dither = np.random.default_rng(1).integers(0, 2, 20_001).astype(np.float32) * 2**-15
    for sound in (np.zeros((20_001, 2), np.float32), np.stack([dither, -dither], axis=1)):
        assert loudness(mixed(sound)) == 0.0
    assert not caplog.records


def test_a_change_of_mind_fades_over_one_block() -> None:
    """A click would be as loud as a change of sign: twice the tone's amplitude."""
    tone = (0.3 * np.sin(np.arange(6 * RATE) * (2 * np.pi * 128 / RATE))).astype(np.float32)
    opposite = np.stack([tone, -tone], axis=1)
    alike = np.stack([-tone, -tone], axis=1)
    heard = mixed(np.concatenate([alike, opposite, alike]))
    assert float(np.abs(np.diff(heard)).max()) < 0.03
    for start in (RATE, 11 * RATE, 17 * RATE):  # well inside each part
        assert loudness(heard[start : start + RATE // 2]) == pytest.approx(loudness(tone), rel=0.02)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    cuts=st.lists(st.integers(0, 12_000), max_size=12),
    rate=st.sampled_from([8_000, RATE, 44_100]),
    sign=st.sampled_from([-1.0, 1.0]),
)
def test_any_split_of_channels_that_cancel_gives_the_same_bits(cuts: list[int], rate: int, sign: float) -> None:
    logging.disable(logging.WARNING)
    left = talk(12_000)
    half = np.where(np.arange(12_000) < 5_000, sign, -1.0).astype(np.float32)
    sound = np.stack([left, half * left], axis=1)
    try:
        assert mixed(sound, cuts, rate).tobytes() == mixed(sound, None, rate).tobytes()
    finally:
        logging.disable(logging.NOTSET)


def test_after_finish_nothing_is_left_of_what_was_heard(caplog: pytest.LogCaptureFixture) -> None:
    resampler = Resampler(RATE, 2, rate_out=RATE)
    left = talk(9_999)
    resampler.push(np.stack([left, -left], axis=1))
    resampler.finish()
    alike = np.stack([left, 0.2 * left], axis=1).astype(np.float32)
    heard = np.concatenate([resampler.push(alike), resampler.finish()])
    np.testing.assert_array_equal(heard, to_mono(alike))
