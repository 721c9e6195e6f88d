"""The Ring: bounded, oldest first out, and every sample accounted for."""

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.runtime.audio.ring import Ring


def ramp(start: int, count: int) -> NDArray[np.float32]:
    return np.arange(start, start + count, dtype=np.float32)


def test_what_is_written_is_read_in_order() -> None:
    ring = Ring(10)
    assert (ring.write(ramp(0, 3)), ring.write(ramp(3, 4))) == (0, 0)
    np.testing.assert_array_equal(ring.read(5), ramp(0, 5))
    np.testing.assert_array_equal(ring.read(5), ramp(5, 2))
    assert ring.read(5).shape == (0,)
    assert ring.read(0).shape == (0,)


def test_a_full_ring_drops_the_oldest_and_counts_them() -> None:
    ring = Ring(6)
    ring.write(ramp(0, 3))
    ring.write(ramp(3, 3))
    assert ring.write(ramp(6, 2)) == 3  # whole blocks
    np.testing.assert_array_equal(ring.read(100), ramp(3, 5))
    assert (ring.written_samples, ring.dropped_samples, ring.processed_samples) == (8, 3, 5)


def test_a_ring_just_full_drops_nothing() -> None:
    ring = Ring(6)
    assert ring.write(ramp(0, 6)) == 0
    assert ring.write(ramp(6, 0)) == 0
    assert ring.write(ramp(6, 1)) == 6
    np.testing.assert_array_equal(ring.read(100), ramp(6, 1))


def test_a_block_larger_than_the_ring_keeps_its_end() -> None:
    ring = Ring(4)
    ring.write(ramp(0, 2))
    assert ring.write(ramp(2, 7)) == 5
    np.testing.assert_array_equal(ring.read(100), ramp(5, 4))


def test_the_writer_may_reuse_its_buffer() -> None:
    ring = Ring(4)
    buffer = ramp(0, 4)
    ring.write(buffer)
    buffer[:] = -1
    np.testing.assert_array_equal(ring.read(4), ramp(0, 4))


def test_what_is_discarded_is_counted_and_the_block_begun_is_read_to_its_end() -> None:
    ring = Ring(10)
    assert ring.discard() == 0
    for start in (0, 3, 6):
        ring.write(ramp(start, 3))
    np.testing.assert_array_equal(ring.read(1), ramp(0, 1))
    assert ring.discard() == 6
    assert (ring.available_samples, ring.dropped_samples, ring.processed_samples) == (2, 6, 1)
    ring.write(ramp(9, 1))
    np.testing.assert_array_equal(ring.read(10), [1, 2, 9])


def test_waiting_ends_when_samples_are_there() -> None:
    ring = Ring(4)
    assert not ring.wait(0)
    ring.write(ramp(0, 1))
    assert ring.wait(0)
    ring.read(1)
    assert not ring.wait(0)  # the signal of samples already read does not count


def test_waiting_wakes_up_for_a_writer_in_another_thread() -> None:
    ring = Ring(4)
    ring.write(ramp(0, 1))
    ring.read(1)  # leaves a signal behind, which must not end the wait
    waiting = threading.Event()
    answers: list[bool] = []

    def consume() -> None:
        waiting.set()
        answers.append(ring.wait(60))

    thread = threading.Thread(target=consume)
    thread.start()
    waiting.wait()
    ring.write(ramp(0, 1))
    thread.join(60)
    assert answers == [True]


def test_closing_ends_the_wait_but_keeps_the_samples() -> None:
    ring = Ring(4)
    ring.write(ramp(0, 1))
    ring.close()
    assert ring.wait(60)
    ring.read(1)
    assert not ring.wait(60)
    assert ring.closed


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    capacity=st.integers(1, 20),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=40),
)
def test_captured_is_processed_plus_dropped(capacity: int, steps: list[tuple[bool, int]]) -> None:
    ring = Ring(capacity)
    written = dropped = 0
    read: list[float] = []
    for writes, count in steps:
        if writes:
            dropped += ring.write(ramp(written, count))
            written += count
        else:
            read += ring.read(count).tolist()
        assert ring.written_samples == written == len(read) + ring.dropped_samples + ring.available_samples
        assert ring.available_samples <= 2 * capacity  # the begun block counts too
    read += ring.read(10_000).tolist()
    assert ring.available_samples == 0
    assert written == len(read) + dropped
    assert ring.dropped_samples == dropped
    assert read == sorted(set(read))  # in order, none twice


def test_two_threads_lose_and_invent_nothing() -> None:
    ring = Ring(2_000)
    sizes = np.random.default_rng(0).integers(0, 700, 4_000)
    dropped: list[int] = []
    parts: list[NDArray[np.float32]] = []

    def produce() -> None:
        position = 0
        for size in sizes:
            dropped.append(ring.write(ramp(position, int(size))))
            position += int(size)
        ring.close()

    thread = threading.Thread(target=produce)
    thread.start()
    while ring.wait(60):
        parts.append(ring.read(333))
    thread.join()
    while ring.available_samples:
        parts.append(ring.read(10_000))
    read = np.concatenate(parts)
    assert ring.written_samples == sizes.sum() == read.size + sum(dropped)
    assert ring.dropped_samples == sum(dropped)
    assert (np.diff(read) > 0).all()
    # Every gap is a run of dropped samples; those before the first sample read are dropped too.
    gaps = int((np.diff(read) - 1).sum() + read[0])
    assert gaps == sum(dropped) - int(sizes.sum() - 1 - read[-1])
