"""What of an answer stands, and where the next one goes on: each rule on words made by hand, and what always holds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.answer.times.alignment import WordSpan
from edgekit.runtime.answer.times.standing import Standing, before_edge, before_loop, before_rest, of_segments, of_words
from edgekit.runtime.answer.times.timestamps import TextSpan

HEARD_S = 30.0


def words(*bounds):
    """Return words of two tokens each, said at these bounds."""
    return [WordSpan(f" w{at}", 2 * at, 2 * at + 2, start_s, end_s) for at, (start_s, end_s) in enumerate(bounds)]


def speech(start_s, end_s, length_s=0.5):
    """Return bounds of words that follow each other."""
    count = round((end_s - start_s) / length_s)
    return [(start_s + at * length_s, start_s + (at + 1) * length_s) for at in range(count)]


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([], None),
        ([TextSpan(0, 3, 0.0, 12.0)], Standing(0, 3, 12.0)),  # it said no more: the rest is heard again
        ([TextSpan(0, 3, 0.0, 9.98)], None),  # a third would be too little
        ([TextSpan(0, 3, 0.0, 10.0)], Standing(0, 3, 10.0)),
        ([TextSpan(0, 3, 0.0, 29.5)], Standing(0, 3, 29.5)),
        ([TextSpan(0, 3, 0.0, 29.52)], None),  # it may have been cut there
        ([TextSpan(0, 3, 0.0, 20.0), TextSpan(3, 7, 20.0, 29.8)], Standing(0, 3, 20.0)),
        ([TextSpan(0, 3, 0.0, 20.0), TextSpan(3, 7, 20.0, 30.0, closed=False)], Standing(0, 3, 20.0)),
        ([TextSpan(0, 3, 0.0, 4.0), TextSpan(3, 7, 4.0, 30.0, closed=False)], None),
        ([TextSpan(0, 3, 0.0, 20.0, closed=False)], None),
    ],
)
def test_whole_segments_stand_but_the_one_at_the_edge(segments, expected):
    assert of_segments(segments, HEARD_S) == expected


def test_words_that_end_well_before_the_edge_stand():
    said = words(*speech(0.0, 29.0), (29.0, 29.5), (29.5, 30.0))
    assert before_edge(said, 120, HEARD_S) == Standing(0, 2 * 59, 29.5)


def test_a_word_whose_end_no_other_word_tells_is_heard_again():
    """An answer that ended early, or was cut there: of its last word only the beginning is known."""
    assert before_edge(words(*speech(0.0, 12.0)), 48, HEARD_S) == Standing(0, 46, 11.5)
    assert before_edge(words(*speech(0.0, 12.0), (12.4, 30.0)), 50, HEARD_S) == Standing(0, 46, 11.5)
    assert before_edge(words(*speech(0.0, 5.0), (5.0, 5.5)), 50, HEARD_S) == Standing(0, 20, 5.0)
    assert before_edge(words(*speech(0.0, 4.8), (4.8, 5.5)), 50, HEARD_S) == Standing(0, 22, 5.5)  # too little


def test_where_no_word_ends_before_the_edge_all_of_it_stands():
    assert before_edge(words((29.0, 29.9)), 5, HEARD_S) == Standing(0, 5)
    assert before_edge([], 5, HEARD_S) == Standing(0, 5)


@pytest.mark.parametrize("end_s", [0.0, 0.02, 4.98])
def test_a_piece_of_few_words_is_not_heard_again_from_its_start(end_s):
    """Else the same piece would be full again, with the same answer, for ever."""
    assert before_edge(words((0.0, end_s)), 2, HEARD_S) == Standing(0, 2, 5.0, skips=True)
    assert before_edge(words((0.0, end_s / 10)), 2, 3.0) == Standing(0, 2, 1.0, skips=True)


def test_five_seconds_behind_are_enough():
    assert before_edge(words((0.0, 5.0)), 2, HEARD_S) == Standing(0, 2, 5.0)
    assert before_edge(words((0.0, 1.0)), 2, 3.0) == Standing(0, 2, 1.0)


def test_words_are_its_own_by_their_middle():
    near = words((0.2, 0.6), (0.6, 0.98), (0.6, 1.0), (1.0, 1.5), (1.5, 2.0))
    assert of_words(near, 10, 2.2, (0.8, 1.75), full=False) == Standing(4, 8)
    assert of_words(near, 10, 2.2, (0.8, 1.76), full=False) == Standing(4, 10)


def test_an_answer_without_words_of_its_own_stands_nowhere():
    assert of_words(words((0.2, 0.6)), 2, 10.0, (0.8, 9.0), full=True) == Standing(0, 0)
    assert of_words([], 3, 10.0, (0.8, 9.0), full=True) == Standing(0, 3)


def test_what_was_skipped_in_the_midst_is_heard_again():
    said = words(*speech(0.0, 10.0), *speech(12.1, 20.0))
    assert of_words(said, 99, HEARD_S, (0.0, 20.0), full=True) == Standing(0, 38, 9.5)
    kept = words(*speech(0.0, 10.0), *speech(12.0, 20.0))
    assert of_words(kept, 99, HEARD_S, (0.0, 20.0), full=True) == Standing(0, 72)


def test_what_was_skipped_before_enough_is_behind_is_heard_again_as_far_as_it_goes():
    said = words((1.0, 3.0), *speech(9.0, 20.0))
    assert of_words(said, 99, HEARD_S, (0.0, 20.0), full=True) == Standing(0, 2, 5.0, skips=True)
    kept = words((1.0, 3.0), *speech(7.0, 20.0))  # two seconds behind the fifth
    assert of_words(kept, 99, HEARD_S, (0.0, 20.0), full=True) == Standing(0, 54)


def test_only_where_speech_goes_on_words_may_lack_at_the_end():
    said = words(*speech(0.0, 10.0))
    assert of_words(said, 40, HEARD_S, (0.0, 20.0), full=True) == Standing(0, 38, 9.5)
    assert of_words(said, 40, HEARD_S, (0.0, 20.0), full=False) == Standing(0, 40)
    assert of_words(words((0.5, 1.0)), 2, HEARD_S, (0.0, 28.0), full=True) == Standing(0, 2, 5.0, skips=True)


def test_what_came_before_a_loop_stands_and_the_rest_is_heard_again():
    said = words(*speech(0.0, 8.0), *[(8.0, 8.0)] * 8)
    assert before_loop(said, range(32, 34), None, HEARD_S) == Standing(0, 30, 7.5)
    assert before_loop(said, range(33, 35), None, HEARD_S) == Standing(0, 30, 7.5)  # it begins in a word
    assert before_loop(said, range(32, 34), (0.8, 27.0), HEARD_S) == Standing(4, 30, 7.5)


def test_a_loop_from_the_beginning_is_kept_once():
    said = words(*[(0.0, 0.5)] * 8)
    assert before_loop(said, range(2), None, HEARD_S) == Standing(0, 2)
    assert before_loop([], range(3, 5), None, HEARD_S) == Standing(0, 5)  # no alignment
    assert before_loop(words(*speech(0.0, 4.5)), range(16, 18), None, HEARD_S) == Standing(0, 18)


def test_words_of_the_answer_before_do_not_stand_again_where_a_loop_follows():
    said = words((0.0, 0.3), (0.3, 0.7), *[(0.9, 1.2)] * 8)
    assert before_loop(said, range(4, 6), (0.8, 27.0), HEARD_S) == Standing(4, 6)
    only = words((0.0, 0.3), *[(0.3, 0.7)] * 8)  # none of its own
    assert before_loop(only, range(2, 4), (0.8, 27.0), HEARD_S) == Standing(2, 4)


@st.composite
def answers(draw):
    """Return words that are monotone and inside, seconds of sound, where words count, a loop."""
    heard_s = draw(st.floats(0.02, 60.0))
    count = draw(st.integers(0, 12))
    times = sorted(draw(st.lists(st.floats(0.0, 0.999), min_size=2 * count, max_size=2 * count)))
    said = words(*((times[2 * at] * heard_s, times[2 * at + 1] * heard_s) for at in range(count)))
    first = draw(st.sampled_from([0.0, 0.1, 0.3])) * heard_s
    own = draw(st.sampled_from([None, (first, heard_s * 0.9), (first, float("inf"))]))
    loop_at = draw(st.integers(0, 2 * count))
    return said, heard_s, own, range(loop_at, loop_at + draw(st.integers(1, 4)))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(answers(), st.booleans())
def test_what_goes_on_has_gone_far_enough_and_stays_inside(answer, full):
    said, heard_s, own, loop = answer
    tokens = max(2 * len(said), loop.stop)
    segments = [TextSpan(word.start, word.stop, word.start_s, word.end_s) for word in said]
    for stands in (
        of_segments(segments, heard_s),
        of_words(said, tokens, heard_s, own, full=full),
        before_edge(said, tokens, heard_s),
        before_loop(said, loop, own, heard_s),
    ):
        if stands is None:
            continue
        assert 0 <= stands.start <= stands.stop <= tokens
        assert stands.resume_s is not None or not stands.skips
        if stands.resume_s is None:
            continue
        assert min(5.0, heard_s / 3.001) <= stands.resume_s < heard_s
        kept = [word for word in said if stands.start <= word.start < stands.stop]
        assert all(word.stop <= stands.stop for word in kept)  # no word is cut
        assert all(word.end_s <= stands.resume_s for word in kept)  # and none is heard again
        between = [word for word in said if stands.stop <= word.start and word.end_s <= stands.resume_s]
        assert stands.skips or all(word.end_s == stands.resume_s for word in between)


@pytest.mark.parametrize("rest_s", [30.0, 3.0, 0.4])
def test_a_piece_is_behind_after_a_few_answers(rest_s):
    """The worst answers there can be: one word at the beginning of each."""
    resumed = []
    while (stands := before_edge(words((0.0, 0.02)), 2, rest_s)).resume_s is not None:
        resumed.append(stands.resume_s)
        rest_s -= stands.resume_s
        assert len(resumed) <= 12
    assert rest_s < 0.6


def test_where_a_model_ends_long_before_the_sound_the_rest_is_heard_again():
    segments = [TextSpan(0, 3, 0.0, 4.0), TextSpan(3, 9, 4.0, 9.0)]
    assert before_rest(segments, 20.0) == Standing(0, 9, 9.0)
    assert before_rest(segments, 11.0) is None
    assert before_rest(segments[:1], 20.0) is None, "too little is behind"
    assert before_rest([], 20.0) is None
