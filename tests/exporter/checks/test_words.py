"""Words that changed: in any script, and how many of few may change before a limit is exceeded."""

import math

import pytest

from edgekit.exporter.checks.words import Tally, allowed_words, tally, words_of


def test_words_are_compared_without_signs_and_case_in_any_script():
    assert words_of("  Don't — STOP, s'il vous plaît!") == ["don't", "stop", "s'il", "vous", "plaît"]
    assert words_of("Конференция №5 начнётся…") == ["конференция", "no5", "начнётся"]
    assert tally("Weasels have eaten our phone system.", "weasels have eaten, our phone system") == Tally(6, 0)


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("one two three", "one three four", Tally(3, 2)),
        ("one two three", "", Tally(3, 3)),
        ("", "one two", Tally(0, 2)),
        ("...", "", Tally(0, 0)),
        ("one", "one one one one", Tally(1, 3)),  # a loop is more than all words wrong
    ],
)
def test_a_word_changes_by_being_replaced_left_out_or_put_in(reference, text, expected):
    assert tally(reference, text) == expected


def test_the_rate_of_no_words_is_whole_where_some_were_put_in():
    assert [Tally(0, 0).rate, Tally(0, 2).rate, Tally(4, 1).rate] == [0, 1, 0.25]


@pytest.mark.parametrize(("words", "rate", "allowed"), [(64, 0.01, 2), (320, 0.01, 6), (64, 0.0, 0), (9, 1.0, 9)])
def test_few_words_exceed_a_limit_only_where_chance_does_not_explain_it(words, rate, allowed):
    assert allowed_words(words, rate) == allowed
    assert not Tally(words, allowed).exceeds(rate)
    assert Tally(words, allowed + 1).exceeds(rate) == (rate < 1)


def test_of_many_languages_each_may_change_more_so_that_all_of_them_fail_no_more_often():
    assert [allowed_words(64, 0.01, looks) for looks in (1, 5, 50)] == [2, 3, 4]
    assert Tally(64, 3).exceeds(0.01)
    assert not Tally(64, 3).exceeds(0.01, looks=5)


@pytest.mark.parametrize(("words", "rate"), [(50, 0.02), (320, 0.01), (4000, 0.3)])
def test_what_is_allowed_happens_by_chance_in_five_percent_and_one_more_does_not(words, rate):
    def at_least(count):
        few = (math.comb(words, k) * int(1e9 * rate) ** k * int(1e9 * (1 - rate)) ** (words - k) for k in range(count))
        return 1 - sum(few) / int(1e9) ** words

    allowed = allowed_words(words, rate)
    assert at_least(allowed) >= 0.05 > at_least(allowed + 1)
