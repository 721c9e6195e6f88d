"""Times of words and segments against the joins of long speech."""

import numpy as np
import pytest

from edgekit.profiler.long_speech import LongSpeech, Said
from edgekit.profiler.word_times import Timed, check_times

SPEECH = LongSpeech(
    np.zeros(80_000, np.float32),
    16_000,
    (Said("a", "Press one, please.", 0.0, 1.7), Said("b", "Hold the line.", 1.7, 3.2), Said("c", "Bye!", 3.2, 5.0)),
)
WORDS = [
    Timed(" Press", 0.0, 0.4),
    Timed(" 1", 0.5, 0.9),
    Timed(" please.", 1.0, 1.6),
    Timed(" Hold", 1.8, 2.1),
    Timed(" the", 2.1, 2.2),
    Timed(" line.", 2.3, 3.1),
    Timed(" Bye.", 3.4, 4.9),
]


def test_words_within_their_recordings_are_right():
    errors = check_times(SPEECH, WORDS)
    assert errors.at_joins == pytest.approx([0.0, 0.1, 0.1, 0.1, 0.2, 0.1])
    assert (len(errors.inside), errors.checked, errors.beyond(), errors.impossible) == (7, 13, 0, ())
    assert errors.worst_s == pytest.approx(0.2)


@pytest.mark.parametrize("shift_s", [0.7, -0.7])
def test_a_word_that_is_told_in_another_recording_is_off_by_its_distance(shift_s):
    moved = [*WORDS]
    moved[4] = Timed(" the", 1.7 + shift_s - 0.05, 1.9 + shift_s)
    errors = check_times(SPEECH, moved)
    assert errors.worst_s == pytest.approx(0.2 if shift_s > 0 else 0.75)
    assert errors.beyond() == (shift_s < 0)


def test_the_first_and_the_last_word_of_a_recording_stand_at_its_joins():
    late = [*WORDS]
    late[3] = Timed(" Hold", 2.25, 2.3)  # inside of its recording all the same
    early = [*WORDS]
    early[5] = Timed(" line.", 2.3, 2.65)
    assert check_times(SPEECH, late).beyond() == check_times(SPEECH, early).beyond() == 1


def test_a_segment_over_two_recordings_is_bounded_by_both():
    right = [Timed("press one please hold", 0.1, 2.2), Timed("the line bye", 2.2, 4.8)]
    assert check_times(SPEECH, right).beyond() == 0
    wrong = [Timed("press one please hold", 0.1, 3.8), Timed("the line bye", 3.8, 4.8)]
    errors = check_times(SPEECH, wrong)
    assert errors.inside == pytest.approx((0.6, 0.0))
    assert errors.beyond() == 1


def test_a_text_that_begins_amid_a_recording_says_nothing_of_its_join():
    errors = check_times(SPEECH, [Timed("one please", 0.9, 1.6), Timed("the", 2.0, 2.2)])
    assert errors.at_joins == pytest.approx([0.1])
    assert errors.inside == (0.0, 0.0)


def test_words_that_were_not_said_are_not_checked():
    errors = check_times(SPEECH, [Timed("nothing", 4.0, 4.1)])
    assert (errors.checked, errors.worst_s) == (0, 0.0)
    assert check_times(SPEECH, []).checked == 0


@pytest.mark.parametrize(
    "wrong", [Timed("Bye", 4.9, 4.8), Timed("Bye", 2.2, 4.9), Timed("Bye", 3.4, 5.6), Timed("Bye", float("nan"), 5.0)]
)
def test_times_that_cannot_be_are_told(wrong):
    told = check_times(SPEECH, [*WORDS[:-1], wrong]).impossible
    assert [text.split(" (")[0] for text in told] == ["Bye"]
