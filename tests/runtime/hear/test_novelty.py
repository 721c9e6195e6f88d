"""Novelty: what is steady closes the gate, what is new opens it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bundle import GateSettings
from edgekit.runtime.hear.detectors.novelty import Novelty
from edgekit.runtime.hear.gate import Closed, Gate, Opened, Output
from edgekit.runtime.hear.resampler import LOUDEST

RATE = 16_000
SETTINGS = GateSettings(kind="sound", start=9.0, stop=5.0, min_silence_ms=320)


def noise(seconds: float, level: float, seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def tone(seconds: float, level: float, hertz: float, rate: int = RATE) -> NDArray[np.float32]:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def scores(sound: NDArray[np.float32]) -> NDArray[np.float64]:
    detector = Novelty(RATE)
    return np.array([detector.score(window) for window in sound[: sound.size // 512 * 512].reshape(-1, 512)])


def listen(sound: NDArray[np.float32], rate: int = RATE) -> list[Output]:
    gate = Gate(SETTINGS, rate)
    return [output for output in gate.push(sound) + gate.finish() if isinstance(output, Opened | Closed)]


@pytest.mark.parametrize("level", [0.0, 1e-5, 1e-3, 0.01, 0.1, 0.5])
def test_steady_noise_of_any_level_closes_the_gate_and_keeps_it_closed(level: float) -> None:
    outputs = listen(noise(30, level))
    assert len(outputs) in (0, 2)  # loud noise is news once, at the start
    for output in outputs:
        assert isinstance(output, Opened) or output.decided_sample < 5 * RATE
    assert scores(noise(30, level))[5 * RATE // 512 :].max() < SETTINGS.stop


@pytest.mark.parametrize("hertz", [150, 440, 1000, 3000, 7000])
def test_a_tone_opens_the_gate_at_its_onset(hertz: float) -> None:
    sound = noise(10, 1e-3)
    sound[5 * RATE :] += tone(5, 0.02, hertz)
    opened, closed = listen(sound)
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    assert 5 * RATE - 0.5 * RATE < opened.at_sample < 5 * RATE
    assert closed.end_sample > 5 * RATE


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100])
def test_at_any_rate_a_tone_opens_the_gate_at_its_onset_and_steady_noise_does_not(rate: int) -> None:
    sound = noise(10, 1e-3, rate=rate)
    sound[5 * rate :] += tone(5, 0.02, 1000, rate)[: sound.size - 5 * rate]
    opened, closed = listen(sound, rate)
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    assert 5 * rate - 0.5 * rate < opened.at_sample < 5 * rate
    assert 5 * rate < closed.end_sample < 10 * rate


def test_a_window_lasts_as_long_at_any_rate() -> None:
    assert {rate: Novelty(rate).window_samples for rate in (8_000, 11_025, RATE, 24_000, 44_100)} == {
        8_000: 256, 11_025: 353, RATE: 512, 24_000: 768, 44_100: 1_411,
    }  # fmt: skip


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_a_click_opens_the_gate(level: float) -> None:
    sound = noise(10, 1e-3)
    sound[5 * RATE : 5 * RATE + 16] += tone(1, level, 4000)[:16]
    assert [type(output) for output in listen(sound)] == [Opened, Closed]


def test_a_bell_opens_the_gate_until_it_has_faded() -> None:
    sound = noise(10, 1e-3)
    fade = np.exp(-3 * np.arange(5 * RATE) / RATE).astype(np.float32)
    sound[5 * RATE :] += tone(5, 0.05, 1200) * fade
    closed = listen(sound)[1]
    assert isinstance(closed, Closed)
    assert 0.3 < closed.end_sample / RATE - 5 < 2.5


def test_a_steady_hum_becomes_floor_within_seconds() -> None:
    sound = noise(20, 1e-3)
    sound[5 * RATE :] += tone(15, 0.1, 100) + tone(15, 0.05, 200)
    closed = listen(sound)[1]
    assert isinstance(closed, Closed)
    assert closed.decided_sample < 10 * RATE


def test_a_second_sound_over_a_hum_is_news_again() -> None:
    sound = noise(20, 1e-3) + tone(20, 0.05, 120)
    sound[15 * RATE : 16 * RATE] += tone(1, 0.05, 2000)
    opened = [output.at_sample for output in listen(sound) if isinstance(output, Opened)]
    assert len(opened) == 2
    assert 14.5 * RATE < opened[1] < 15 * RATE


def test_after_the_loudest_burst_that_a_stream_takes_it_hears_again_within_seconds() -> None:
    sound = noise(10, 1e-3)
    sound[2 * RATE : 3 * RATE] = noise(1, LOUDEST).clip(-LOUDEST, LOUDEST)
    sound[6 * RATE : 7 * RATE] += tone(1, 0.02, 1000)
    opened = [output.at_sample for output in listen(sound) if isinstance(output, Opened)]
    assert 5.5 * RATE < opened[-1] < 6 * RATE


def test_a_clip_that_begins_with_its_sound_is_not_missed() -> None:
    assert listen(tone(1, 0.1, 800))[0] == Opened(0)


def test_after_a_reset_it_scores_as_new() -> None:
    detector = Novelty(RATE)
    window = noise(1, 0.1)[:512]
    first = [detector.score(window) for _ in range(5)]
    detector.reset()
    assert [detector.score(window) for _ in range(5)] == first


def test_scores_are_decibels() -> None:
    """Tenfold amplitude is 20 dB; tolerance: smoothing holds back 1 dB and the floor has risen by 1 dB."""
    window = noise(1, 0.01)[:512]
    sound = np.concatenate([np.tile(window, 300), np.tile(10 * window, 4)])
    assert scores(sound)[299] == pytest.approx(0.0, abs=0.1)
    assert scores(sound)[-1] == pytest.approx(20 - 2, abs=1)
