"""Word errors and their differences."""

import stat

import pytest

from edgekit.errors import ProfileError
from edgekit.profiler.words import (
    Heard,
    Reference,
    WordCounts,
    WordErrors,
    bootstrap_difference,
    count_errors,
    count_words,
    read_references,
    same_words,
    words_of,
)


def test_references_hold_words_and_why_one_is_left_out(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("# said\nhello\tHello world.\n\nbeep\t\ta sound\n", encoding="utf-8")
    assert read_references(path) == {"hello": Reference("Hello world."), "beep": Reference("", "a sound")}


@pytest.mark.parametrize("line", ["hello", "hello\ta\tb\tc", "hello\tonce\nhello\ttwice"])
def test_references_of_another_form_are_refused_with_their_line(tmp_path, line):
    path = tmp_path / "words.tsv"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ProfileError, match=rf"line {line.count(chr(10)) + 1}: "):
        read_references(path)


def test_spelling_is_no_error_and_wrong_missing_and_added_words_are():
    said = ["Press 1, please.", "five six", "seven eight", "nine"]
    heard = ["press one please", "five sixty", "seven", "nine please"]
    assert count_errors(said, heard) == WordErrors((0, 1, 1, 1), (3, 1, 1, 1))


def test_numbers_in_words_and_digits_are_the_same_words():
    assert words_of("Twenty-one tests.") == words_of("21 tests") == ["21", "tests"]


def test_an_ellipsis_is_no_word():
    assert words_of("... letters of your name...") == ["letters", "of", "your", "name"]


def test_a_reference_without_a_word_is_refused():
    with pytest.raises(ProfileError, match=r"no word is left"):
        count_errors(["[beep]"], [""])


def test_what_became_of_each_word_is_counted_by_kind():
    assert count_words("press one now please", "dress 1 please please go") == WordCounts(4, 2, 0, 1)
    assert count_words("seven eight nine", "nine") == WordCounts(1, 1, 0, 0)  # digits in a row are one number
    assert count_words("hold the line", "") == WordCounts(3, 0, 3, 0)
    assert (WordCounts(4, 2, 0, 1) + WordCounts(3, 0, 3, 0)).wrong == 6


def test_words_that_both_have_are_paired_in_order():
    assert same_words(["a", "b", "c", "d", "e"], ["b", "c", "x", "e", "f"]) == [(1, 0), (2, 1), (4, 3)]
    assert same_words([], ["a"]) == same_words(["a"], []) == []


def test_a_difference_is_of_the_rates_and_its_sign_is_ours_minus_theirs():
    ours, theirs = WordErrors((2, 0, 1), (5, 5, 10)), WordErrors((1, 0, 0), (5, 5, 10))
    found = bootstrap_difference("d", ours, theirs)
    assert found.value == pytest.approx(2 / 20)
    assert found.low <= found.value <= found.high
    assert bootstrap_difference("d", ours, theirs) == found
    assert bootstrap_difference("d", theirs, ours).value == pytest.approx(-2 / 20)


def test_what_is_hard_for_both_does_not_widen_a_difference():
    hard, said = (0, 9) * 20, (10, 20, 50, 10) * 10
    ours = WordErrors(tuple(wrong + words // 10 for wrong, words in zip(hard, said, strict=True)), said)
    theirs = WordErrors(hard, said)
    found = bootstrap_difference("d", ours, theirs)
    assert (found.low, found.high) == (0.1, 0.1)


def test_what_was_heard_is_not_heard_again_after_a_restart(tmp_path):
    calls = []

    def hear():
        calls.append(1)
        return {"text": "näh"}

    path = tmp_path / "kept" / "heard.jsonl"
    assert Heard(path).get(("a", "b"), hear) == {"text": "näh"}
    again = Heard(path)
    assert again.get(("a", "b"), hear) == {"text": "näh"}
    assert len(calls) == 1
    again.get(("a", "c"), hear)
    assert len(calls) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(path.read_bytes()[:-7])  # killed within the line
    torn = Heard(path)
    assert torn.get(("a", "b"), hear) == torn.get(("a", "c"), hear) == {"text": "näh"}
    assert len(calls) == 3
    Heard(path).get(("a", "c"), hear)
    assert len(calls) == 3
