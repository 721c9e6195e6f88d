"""What counts as a loop, at its edges."""

import pytest

from edgekit.runtime.answer.lookup import LONGEST_PHRASE, loop_start


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([], None),
        ([1] * 11, None),  # eleven alike are shorter than a loop
        ([1] * 12, 1),
        ([5, 6] + [1] * 12, 3),
        ([5] + [1, 2, 3, 4] * 3, 5),
        ([5] + [1, 2, 3, 4] * 2, None),
        ([5] + [1, 2] * 5, None),  # five times, but ten tokens together
        ([5] + [1, 2] * 6, 3),
        ([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 9], None),
        ([1, 2, 3, 4] * 3 + [9], None),  # it went on
        (list(range(LONGEST_PHRASE)) * 3, LONGEST_PHRASE),
        (list(range(LONGEST_PHRASE + 1)) * 3, None),
    ],
)
def test_a_loop_is_three_repeats_that_are_long_together(tokens, kept):
    assert loop_start(tokens, 3) == kept


def test_without_a_number_of_repeats_nothing_is_a_loop():
    assert loop_start([1] * 100, None) is None


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([1, 2] * 12, None),  # a dozen zeros read out, each with its comma
        ([1] * 31, None),
        ([1] * 32, 1),
        ([1, 2] * 16, 2),
        ([1, 2, 3] * 10, None),
        ([1, 2, 3] * 11, 3),
        ([1, 2, 3, 4] * 7, None),
        ([1, 2, 3, 4] * 8, 4),
        (list(range(LONGEST_PHRASE)) * 8, LONGEST_PHRASE),  # fits an answer of 224
    ],
)
def test_more_repeats_let_people_say_words_again(tokens, kept):
    assert loop_start(tokens, 8) == kept
