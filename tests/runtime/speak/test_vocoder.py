"""What is held back, kept and faded between pieces, with a vocoder whose samples tell the frame they came from."""

import numpy as np
import pytest

from edgekit.bundle import Component, TensorSpec
from edgekit.runtime.speak.vocoder import HELD_FRAMES, Vocoder

PER_FRAME = 4
HELD = HELD_FRAMES * PER_FRAME


class Counting:
    """An Engine: each frame's first value is said PER_FRAME times, the source is the sum of the noise."""

    def __init__(self, gain=1.0, bins=1):
        specs = (("mel", ("frames", bins)), ("kept", ("kept",)), ("noise", ("new", 2)))
        inputs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in specs)
        self.component = Component(graph="vocoder.onnx", data=None, inputs=inputs, outputs=(), precision="float32")
        self.calls = []
        self.gain = gain
        self.contiguous = True

    def bind(self, sizes):
        return self

    def run(self, inputs):
        self.contiguous &= all(array.flags.c_contiguous for array in inputs.values())
        self.calls.append({name: array.copy() for name, array in inputs.items()})
        source = np.concatenate([inputs["kept"], inputs["noise"].sum(axis=1)])
        assert source.size == len(inputs["mel"]) * PER_FRAME
        # louder at every call, so that a fade from the held samples to the new ones shows
        samples = np.repeat(inputs["mel"][:, 0], PER_FRAME) + np.float32(0.25 * (len(self.calls) - 1))
        return {"samples": samples * np.float32(self.gain), "source": source}

    def reset(self):
        """Has nothing to forget."""


def frames(start, stop):
    return np.arange(start, stop, dtype=np.float32)[:, None] / 64


def test_an_empty_reply_is_silent_and_runs_nothing():
    engine = Counting()
    vocoder = Vocoder(engine, PER_FRAME)
    assert vocoder.push(frames(0, 0), last=False).size == 0
    assert vocoder.push(frames(0, 0), last=True).size == 0
    assert engine.calls == []


@pytest.mark.parametrize("count", [1, 7])
def test_a_short_beginning_waits_for_more(count):
    engine = Counting()
    vocoder = Vocoder(engine, PER_FRAME)
    assert vocoder.push(frames(0, count), last=False).size == 0
    assert engine.calls == []
    np.testing.assert_array_equal(vocoder.push(frames(count, 9), last=False), np.repeat(frames(0, 1), PER_FRAME))


def test_eight_frames_are_made_sound_at_once_and_held_back():
    engine = Counting()
    vocoder = Vocoder(engine, PER_FRAME)
    assert vocoder.push(frames(0, 8), last=False).size == 0
    assert len(engine.calls) == 1
    assert vocoder.push(frames(8, 9), last=True).size == 9 * PER_FRAME


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_a_reply_in_one_piece_is_given_out_whole(count):
    vocoder = Vocoder(Counting(), PER_FRAME)
    np.testing.assert_array_equal(vocoder.push(frames(0, count), last=True), np.repeat(frames(0, count), PER_FRAME))


def test_eight_frames_are_held_back_and_faded_into_the_next_piece():
    vocoder = Vocoder(Counting(), PER_FRAME)
    first = vocoder.push(frames(0, 10), last=False)
    second = vocoder.push(frames(10, 12), last=True)
    np.testing.assert_array_equal(first, np.repeat(frames(0, 2), PER_FRAME))
    rise, fall = np.split(np.hamming(2 * HELD), 2)
    said = np.repeat(frames(2, 12), PER_FRAME)
    expected = np.concatenate([(said[:HELD] + 0.25) * rise + said[:HELD] * fall, said[HELD:] + 0.25])
    np.testing.assert_allclose(second, expected, rtol=0, atol=1e-6)


def test_the_last_eight_frames_and_their_source_come_again():
    engine = Counting()
    vocoder = Vocoder(engine, PER_FRAME)
    for start, stop in ((0, 9), (9, 10), (10, 20)):
        vocoder.push(frames(start, stop), last=False)
    sources = [np.concatenate([call["kept"], call["noise"].sum(axis=1)]) for call in engine.calls]
    for call, before, (start, stop) in zip(engine.calls[1:], sources, ((1, 10), (2, 20)), strict=False):
        np.testing.assert_array_equal(call["mel"], frames(start, stop))
        np.testing.assert_array_equal(call["kept"], before[-HELD:])


def test_a_reply_that_ends_without_more_frames_gives_out_what_was_held():
    engine = Counting()
    vocoder = Vocoder(engine, PER_FRAME)
    vocoder.push(frames(0, 9), last=False)
    np.testing.assert_array_equal(vocoder.push(frames(0, 0), last=True), np.repeat(frames(1, 9), PER_FRAME))
    assert len(engine.calls) == 1


def test_mel_may_lie_in_memory_either_way():
    lying = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(12, 2) / 64)
    engine = Counting(bins=2)
    out = Vocoder(engine, PER_FRAME).push(lying, last=True)
    assert engine.contiguous
    np.testing.assert_array_equal(out, np.repeat(lying[:, 0], PER_FRAME))


def test_noise_depends_on_the_seed_alone():
    def noises(vocoder, engine):
        for start, stop, last in ((0, 9, False), (9, 12, True), (0, 9, True)):
            vocoder.push(frames(start, stop), last=last)
        return [call["noise"] for call in engine.calls]

    one, same, other = (
        noises(Vocoder(engine, PER_FRAME, seed), engine)
        for engine, seed in ((Counting(), 1), (Counting(), 1), (Counting(), 2))
    )
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[0], one[2])
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[0][: len(one[1])], one[1])


def test_forgetting_a_reply_begins_a_new_one():
    vocoder = Vocoder(Counting(), PER_FRAME)
    vocoder.push(frames(0, 9), last=False)
    vocoder.reset()
    assert vocoder.push(frames(0, 0), last=True).size == 0


def test_samples_stay_in_range():
    vocoder = Vocoder(Counting(gain=40.0), PER_FRAME)
    out = np.concatenate([vocoder.push(frames(0, 9), last=False), vocoder.push(-frames(9, 30), last=True)])
    assert out.max() == 1.0
    assert out.min() == -1.0
