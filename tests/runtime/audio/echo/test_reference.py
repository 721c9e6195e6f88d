"""What was played stands beside what was recorded, at any rates, in any bursts, with clocks that run apart."""

import numpy as np
import pytest

from edgekit.runtime.audio.echo.reference import Reference
from edgekit.runtime.audio.ring import Ring


def tone(samples, rate, hertz=60.0):
    return np.sin(2 * np.pi * hertz * np.arange(samples) / rate).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "rate_out"),
    [(24_000, 16_000), (48_000, 16_000), (44_100, 16_000), (16_000, 16_000), (22_050, 48_000), (48_000, 44_100)],
)
def test_what_was_played_comes_at_the_microphones_rate_a_few_milliseconds_later(rate, rate_out):
    ring, size = Ring(2 * rate), rate_out // 100
    ring.write(tone(rate, rate))
    reference = Reference(ring, rate, rate_out)
    frames = np.concatenate([reference.frame(size, (99 - index) / 100) for index in range(90)])
    assert len(frames) == 90 * size
    shifts = np.arange(0, 0.012, 1e-5)
    late = [np.abs(np.sin(2 * np.pi * 60 * (np.arange(len(frames)) / rate_out - shift)) - frames) for shift in shifts]
    worst = [error[2 * size :].max() for error in late]
    assert min(worst) < 0.005  # of full scale: an interpolation at the nearest of 256 places
    assert 0.004 < shifts[int(np.argmin(worst))] < 0.008


def test_what_is_not_there_in_time_is_silence_and_nothing_fails():
    reference = Reference(Ring(1000), 24_000, 16_000)
    assert not np.concatenate([reference.frame(160) for _ in range(700)]).any()


@pytest.mark.parametrize("drift", [50e-6, -50e-6, -200e-6])
def test_clocks_that_run_apart_are_followed_and_the_lead_stays(drift):
    rate, given = 24_000, 0
    ring = Ring(12 * rate)
    reference = Reference(ring, rate, 16_000)
    for frame in range(20_000):
        due = int((frame + 1) / 100 * rate * (1 + drift))
        due += -due % 512
        ring.write(np.full(due - given, 0.1, np.float32))
        given = due
        reference.frame(160)
    assert reference.stretch - 1 == pytest.approx(drift, abs=30e-6)
    assert 0 <= ring.available_samples / rate < 0.035  # a burst is 21 ms


def test_a_microphone_that_is_read_late_changes_no_pairing():
    rate, behind = 16_000, 0
    ring, generator = Ring(12 * rate), np.random.default_rng(3)
    reference = Reference(ring, rate, rate)
    for _ in range(3000):
        ring.write(tone(160, rate))
        behind += 1
        if generator.random() < 0.05:
            while behind:
                behind -= 1
                reference.frame(160, behind * 0.01)
    while behind:
        behind -= 1
        reference.frame(160, behind * 0.01)
    assert reference.stretch == pytest.approx(1.0, abs=30e-6)
    assert ring.available_samples <= 160


def test_the_pairing_starts_again_where_the_microphone_lost_a_second():
    rate = 16_000
    ring = Ring(12 * rate)
    reference = Reference(ring, rate, rate)
    for frame in range(1000):
        ring.write(tone(160, rate))
        if not 300 <= frame < 400:
            reference.frame(160)
    assert ring.available_samples <= 160


@pytest.mark.parametrize("before", [800, 16_000, 100_000])
def test_what_was_played_before_the_microphone_began_is_not_paired_with_it(before):
    rate = 16_000
    ring = Ring(12 * rate)
    ring.write(np.full(before, 0.5, np.float32))
    reference = Reference(ring, rate, rate)
    for _ in range(10):
        ring.write(np.zeros(160, np.float32))
        assert not reference.frame(160).any()
