"""What is taken for a fault of a microphone, when, and what is none."""

from itertools import pairwise

import numpy as np
import pytest

from edgekit.runtime.audio.devices.watch import PATIENCE, Watch

RATE, TICK_S = 16_000, 0.25
RANDOM = np.random.default_rng(7)


def noise(samples, loudness=0.01):
    return (RANDOM.standard_normal(samples) * loudness).astype(np.float32)


def looked(blocks, *, rate=RATE, until_s=10.0, start_s=1000.0):
    """Feed (time, samples, device time, lost) as they come, look four times a second; return faults and when."""
    watch, faults, blocks = Watch(rate, start_s), [], list(blocks)
    for now in np.arange(start_s + TICK_S, start_s + until_s, TICK_S):
        while blocks and blocks[0][0] + start_s <= now:
            at, samples, *others = blocks.pop(0)
            device, lost = [*others, 0.0, False][:2]
            watch.took(start_s + at, samples, device, lost=lost)
        fault = watch.look(float(now))
        if fault:
            faults.append((float(now - start_s), fault))
    return watch, faults


def live(sound, *, block=160, rate=RATE, seconds=10.0, clock=lambda at: at + 5.0, speed=1.0, start=0.0):
    """Blocks as a device sends them; ``sound`` is told a block's number."""
    times = np.arange(start + block / rate, start + seconds, block / rate / speed)
    return [(at, sound(number), clock(at)) for number, at in enumerate(times)]


@pytest.mark.parametrize("block", [37, 160, 441, 4000])
@pytest.mark.parametrize("loudness", [1e-6, 1e-4, 0.1])
def test_noise_is_sound_however_soft(block, loudness):
    watch, faults = looked(live(lambda _: noise(block, loudness), block=block))
    assert not faults
    assert watch.well
    assert watch.fresh_s == pytest.approx(1009.75, abs=0.26)


def dithered(samples):
    return RANDOM.integers(-1, 2, samples).astype(np.float32) / 32_768


def sparse(samples):
    return (RANDOM.random(samples) < 1e-3).astype(np.float32) / 32_768


@pytest.mark.parametrize(
    "silence",
    [np.zeros, dithered, sparse, lambda n: np.full(n, -1 / 32_768, np.float32), lambda n: np.zeros(n) - 0.0],
    ids=["zeros", "dithered", "sparse", "one bit of offset", "negative zero"],
)
def test_the_silence_of_a_good_microphone_is_no_fault_and_fresh(silence):
    watch, faults = looked(live(lambda _: silence(160).astype(np.float32)))
    assert not faults
    assert watch.fresh_s == pytest.approx(1009.75, abs=0.26)


@pytest.mark.parametrize("hertz", [100, 437.5, 440, 1000])
def test_a_test_tone_without_noise_is_no_fault(hertz):
    for rate in (16_000, 44_100, 48_000):
        block = rate // 100
        tone = np.sin(2 * np.pi * hertz / rate * np.arange(10 * rate))
        tone = (np.round(tone * 8000) / 32_768).astype(np.float32)
        blocks = live(lambda n, tone=tone, block=block: tone[n * block : (n + 1) * block], block=block, rate=rate)
        assert looked(blocks, rate=rate)[1] == []


def first_fault(blocks, **how):
    _, faults = looked(blocks, **how)
    return faults[0][0], faults[0][1].kind


def test_a_device_that_sends_nothing_is_noticed_within_three_seconds():
    at, kind = first_fault(live(lambda _: noise(160), seconds=5.0))
    assert kind == "silent"
    assert 7.4 <= at <= 8.0


def test_a_device_that_was_just_opened_is_given_longer():
    at, kind = first_fault([])
    assert kind == "silent"
    assert PATIENCE.silent_s < at <= PATIENCE.first_s
    assert looked(live(lambda _: noise(160), start=3.5, seconds=6.5))[1] == []


@pytest.mark.parametrize("value", [1.0, -0.2, 3 / 32_768])
def test_a_value_that_stands_still_is_noticed_within_three_seconds(value):
    def sound(number):
        return noise(160) if number < 400 else np.full(160, value, np.float32)

    at, kind = first_fault(live(sound))
    assert kind == "constant"
    assert 5.9 <= at <= 7.0


@pytest.mark.parametrize("loudness", [1e-3, 0.3])
@pytest.mark.parametrize(("period", "block"), [(160, 160), (64, 160), (1000, 137), (8000, 160), (15_999, 441)])
def test_a_buffer_that_comes_again_and_again_is_noticed_within_three_seconds_however_it_is_cut(period, block, loudness):
    dead = np.tile(noise(period, loudness), 10 * RATE // period + 2)

    def sound(number):
        return noise(block) if number * block < 4 * RATE else dead[number * block :][:block]

    at, kind = first_fault(live(sound, block=block))
    assert kind == "repeated"
    assert 5.7 <= at <= 7.3 + period / RATE


def test_a_repetition_that_is_too_short_for_a_fault_is_not_fresh_either():
    dead = noise(160)
    watch, faults = looked(live(lambda number: noise(160) if number < 100 else dead, seconds=2.2), until_s=2.3)
    assert not faults
    assert not watch.well
    assert watch.fresh_s <= 1001.5


@pytest.mark.parametrize("starts_at", [0.0, 3.0])
def test_a_clock_that_stands_still_is_noticed_within_three_seconds(starts_at):
    at, kind = first_fault(live(lambda _: noise(160), clock=lambda at: min(at, starts_at) + 5.0))
    assert kind == "clock"
    assert at <= starts_at + 3.0


def test_a_device_that_tells_no_time_has_no_clock_to_stand_still():
    assert looked(live(lambda _: noise(160), clock=lambda _at: 0.0))[1] == []


@pytest.mark.parametrize("speed", [0.1, 0.5, 2.0, 3.0])
def test_a_wrong_pace_is_noticed_within_three_seconds(speed):
    at, kind = first_fault(live(lambda _: noise(160), speed=speed))
    assert kind == "pace"
    assert at <= 3.0 + 0.3


@pytest.mark.parametrize("speed", [0.92, 1.0, 1.09])
def test_a_clock_a_little_off_is_none(speed):
    assert looked(live(lambda _: noise(160), speed=speed))[1] == []


@pytest.mark.parametrize("burst", [0.1, 0.5, 1.0])
def test_bursts_are_no_wrong_pace(burst):
    block = round(burst * RATE)
    assert looked(live(lambda _: noise(block), block=block))[1] == []


def test_where_samples_were_lost_before_they_came_the_pace_is_not_held_against_the_device():
    blocks = [(at, sound, clock, True) for at, sound, clock in live(lambda _: noise(160), speed=0.4)]
    assert looked(blocks)[1] == []


def test_a_machine_that_was_suspended_finds_no_fault_with_its_microphone():
    watch = Watch(RATE, 0.0)
    for at, sound, clock in live(lambda _: noise(160), seconds=3.0):
        watch.took(at, sound, clock)
    for now in np.arange(0.25, 3.0, 0.25):
        watch.look(float(now))
    assert watch.look(3600.0) is None
    assert watch.look(3600.25) is None
    for at, sound, clock in live(lambda _: noise(160), seconds=5.0):
        watch.took(at + 3600.25, sound, clock)
    assert all(watch.look(float(now)) is None for now in np.arange(3600.5, 3605.25, 0.25))
    assert watch.look(3606.0) is None
    assert watch.look(3607.25) is None
    assert watch.look(3608.0).kind == "silent"


def test_zeros_are_muted_after_half_a_minute_and_no_fault():
    watch, faults = looked(live(lambda _: np.zeros(160, np.float32), seconds=29.9), until_s=29.9)
    assert not faults
    assert not watch.muted
    watch, faults = looked(live(lambda _: np.zeros(160, np.float32), seconds=31.0), until_s=31.0)
    assert not faults
    assert watch.muted
    watch.took(1031.0, noise(160))
    assert not watch.muted


def test_a_dead_buffer_is_called_by_its_length():
    dead = np.tile(noise(400), 500)
    _, faults = looked(live(lambda number: dead[number * 160 :][:160]))
    assert "the same 25 ms again and again" in faults[0][1].text
    assert all(before.kind == after.kind for (_, before), (_, after) in pairwise(faults))
