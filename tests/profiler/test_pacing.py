"""Blocks come when a microphone would hand them over, on an absolute clock."""

import numpy as np
import pytest

from edgekit.profiler.pacing import Pacer, block_samples

RATE = 16_000
BLOCK = block_samples(RATE)


@pytest.mark.parametrize("rate", [11_025, 16_000, 24_000])
@pytest.mark.parametrize("blocks", [0, 1, 5])
@pytest.mark.parametrize("more", [0, 1, 7, 219])
def test_each_block_comes_when_its_last_sample_exists(clock, blocks, more, rate):
    samples = np.arange(blocks * block_samples(rate) + more, dtype=np.float32)
    came = [(clock(), block) for block in Pacer(clock, clock.sleep).blocks(samples, 100.0, rate)]
    assert np.array_equal(np.concatenate([np.zeros(0), *(block.samples for _, block in came)]), samples)
    for at, block in came:
        assert at == pytest.approx(block.due_s)
        assert block.due_s == pytest.approx(100.0 + block.end_s)
    assert len(came) == blocks + (more > 0)
    assert not came or came[-1][1].end_s == pytest.approx(len(samples) / rate)


def test_a_slow_receiver_finds_the_backlog_at_once_and_delays_no_later_block(clock):
    lateness = []
    for index, block in enumerate(Pacer(clock, clock.sleep).blocks(np.zeros(10 * BLOCK, np.float32), 100.0, RATE)):
        lateness.append(clock() - block.due_s)
        clock.now += 0.05 if index == 2 else 0.0  # 50 ms of work on a block of 20 ms
    # Block 3 is due 20 ms after block 2, block 4 40 ms, block 5 60 ms: the backlog is gone after two blocks.
    assert lateness == pytest.approx([0, 0, 0, 0.03, 0.01, 0, 0, 0, 0, 0], abs=1e-9)


def test_a_sleep_that_ends_early_is_slept_on(clock):
    pacer = Pacer(clock, lambda seconds: clock.sleep(seconds / 2 if seconds > 1e-4 else seconds))
    (block,) = pacer.blocks(np.zeros(BLOCK, np.float32), 100.0, RATE)
    assert clock() >= block.due_s
    assert len(clock.slept) > 2


def test_without_pacing_nothing_sleeps_and_a_block_is_due_when_it_is_asked_for(clock):
    for block in Pacer(clock, clock.sleep, paced=False).blocks(np.zeros(4 * BLOCK, np.float32), 100.0, RATE):
        assert block.due_s == clock()
        clock.now += 1.0
    assert clock.slept == []
