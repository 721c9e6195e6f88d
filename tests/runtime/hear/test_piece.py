"""The sound of a piece: what is kept of it, where it is quietest, and how it goes back."""

from collections.abc import Mapping

import numpy as np
import pytest

from edgekit.runtime.hear.features import LogMelMark
from edgekit.runtime.hear.listener import ListenerMark
from edgekit.runtime.hear.piece import Piece, quietest
from edgekit.runtime.hear.timeline import AnswerSound, Timeline

RATE = 16_000
NO_STATE: Mapping[str, np.ndarray] = {}


def mark_of(listener_piece=0):
    """Return a mark of a Listener that heard nothing."""
    empty = np.zeros(0, np.float32)
    mel = LogMelMark(0, 0, 0, np.float32(0), 0, empty, empty, ())
    return ListenerMark(listener_piece, mel, NO_STATE, NO_STATE, 0, 0)


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, 2, 159, 160, 1599])
def test_less_than_a_tenth_of_a_second_is_cut_in_the_middle(samples):
    assert quietest(noise(samples), RATE) == samples // 2


@pytest.mark.parametrize("samples", [1600, 1601, 1759, 1760, 16_001, 80_000])
@pytest.mark.parametrize("rate", [RATE, 24_000, 11_025])
def test_the_place_has_half_a_tenth_of_a_second_before_and_behind(samples, rate):
    for seed in range(5):
        place = quietest(noise(samples, seed), rate)
        if samples < rate * 0.1 - 10:
            assert place == samples // 2
        else:
            assert 0.045 * rate <= place <= samples - 0.045 * rate


@pytest.mark.parametrize("at", [0, 160, 4000, 4001, 14_400])
def test_the_quietest_tenth_of_a_second_is_found(at):
    sound = noise(16_000)
    sound[at : at + 1600] *= 0.1
    assert abs(quietest(sound, RATE) - (at + 800)) <= 160


def test_of_several_alike_the_last_is_taken():
    sound = np.ones(16_000, np.float32)
    for at in (1600, 8000, 11_200):
        sound[at : at + 1600] = 0
    assert quietest(sound, RATE) == 12_000
    assert quietest(np.zeros(16_000, np.float32), RATE) == 16_000 - 800


def test_loud_sound_is_measured_without_overflow():
    sound = noise(4800) * 16
    sound[1600:3200] /= 2
    assert quietest((sound * 2000).astype(np.float16), RATE) == 2400


def test_a_piece_is_what_was_appended():
    piece = Piece()
    assert len(piece.mark().samples()) == 0
    piece.begin(70)
    for size in (5, 0, 3):
        piece.append(noise(size, size))
    assert (piece.start, piece.end) == (70, 78)
    np.testing.assert_array_equal(piece.mark().samples(), np.concatenate((noise(5, 5), noise(3, 3))))
    piece.begin(200)
    assert (piece.start, piece.end, len(piece.mark().samples()), piece.before) == (200, 200, 0, None)


def test_a_piece_forgets_its_last_seconds():
    piece = Piece()
    piece.begin(10)
    piece.append(noise(4))
    piece.set_before(mark_of(), "answerer")
    piece.append(noise(9))
    piece.go_back()
    assert piece.end == 14
    np.testing.assert_array_equal(piece.mark().samples(), noise(4))
    piece.append(noise(2))
    piece.go_back()  # as often as need be
    assert piece.end == 14


def test_a_mark_brings_back_all_of_a_piece_and_may_be_used_twice():
    piece = Piece()
    piece.begin(10)
    piece.append(noise(4))
    unset = piece.mark()
    piece.set_before(mark_of(), "answerer")
    piece.append(noise(3))
    kept, before = piece.mark(), piece.before
    for _ in range(2):
        piece.append(noise(9))
        piece.begin(99)
        piece.append(noise(1))
        piece.back(kept)
        assert (piece.start, piece.end, piece.before) == (10, 17, before)
        np.testing.assert_array_equal(piece.mark().samples(), np.concatenate((noise(4), noise(3))))
    piece.back(unset)
    assert (piece.start, piece.end, piece.before) == (10, 14, None)


def test_an_answers_sound_knows_its_own_and_its_stream_time():
    time = Timeline(RATE)
    time.lose(20_000, 2.0)
    sound = AnswerSound(time, RATE)
    sound.begin(16_000)
    assert sound.own(48_000, 48_000, full=True) is None  # all that was heard
    assert sound.own(48_000, 56_000, full=True) == (0.0, 2.0)
    sound.own_start = 24_000
    assert sound.own(48_000, 48_000, full=True) == (0.5, 2.0)
    assert sound.own(48_000, 48_000, full=False) == (0.5, float("inf"))
    assert (sound.time_s(0.0), sound.time_s(1.0)) == (1.0, 4.0)
    assert [sound.sample(sound.seconds(at)) for at in (16_000, 16_001, 99_999)] == [16_000, 16_001, 99_999]
    sound.begin(60_000)
    assert sound.own(70_000, 70_000, full=False) is None
