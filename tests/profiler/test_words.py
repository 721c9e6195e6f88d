"""Word errors, their differences, and what is done to speech before it is heard."""

import numpy as np
import pytest

from edgekit.errors import ProfileError
from edgekit.profiler.words import (
    Heard,
    Reference,
    WordErrors,
    add_noise,
    add_room,
    bootstrap_difference,
    count_errors,
    pink_noise,
    read_references,
    words_of,
)


def tone(samples, level=0.2):
    return (level * np.sin(np.arange(samples) * 0.3)).astype(np.float32)


def power(sound):
    return float(np.mean(sound.astype(np.float64) ** 2))


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


@pytest.mark.parametrize("snr_db", [10.0, 0.0, -5.0])
@pytest.mark.parametrize("length", [1, 700, 16_000, 20_001])
def test_noise_is_added_at_the_ratio_asked_for_whatever_its_length(snr_db, length):
    speech, noise = tone(16_000), np.random.default_rng(0).standard_normal(length).astype(np.float32)
    mixed = add_noise(speech, noise, snr_db)
    scale = mixed.astype(np.float64) @ speech / (speech.astype(np.float64) @ speech)
    if length > 1:  # one sample repeated is a constant, which no projection tells from noise of the same power
        rest = mixed / scale - speech
        # The speech's own part of the noise is small but not zero.
        assert 10 * np.log10(power(speech) / power(rest)) == pytest.approx(snr_db, abs=0.5)
    assert len(mixed) == len(speech)
    assert np.abs(mixed).max() <= 0.99 + 1e-6


def test_pauses_do_not_make_noise_quieter():
    speech = np.concatenate((tone(16_000), np.zeros(48_000, np.float32)))
    noise = np.ones(1, np.float32)
    assert power(add_noise(speech, noise, 10.0)[20_000:]) == pytest.approx(power(tone(16_000)) / 10, rel=1e-3)


def test_silent_noise_is_refused():
    with pytest.raises(ProfileError, match=r"nothing but silence"):
        add_noise(tone(1600), np.zeros(1600, np.float32), 10.0)


def test_a_room_keeps_the_beginning_and_the_loudness_and_adds_a_tail():
    speech = tone(8000)
    response = np.zeros(500)
    response[[100, 300]] = 1.0, 0.5
    heard = add_room(speech, response)
    assert len(heard) == 8000 + 400 - 1
    assert float(np.sum(heard.astype(np.float64) ** 2)) == pytest.approx(power(speech) * 8000, rel=1e-4)
    echo = heard[:8000] - heard[50] / speech[50] * speech
    assert np.abs(echo[:200]).max() < 1e-6  # nothing before the echo
    assert np.abs(echo[200:]).max() > 0.01


def test_a_room_without_echo_changes_nothing():
    np.testing.assert_allclose(add_room(tone(1000), np.array([0.0, 1.0])), tone(1000), atol=1e-6)


def test_pink_noise_has_as_much_power_in_every_octave():
    noise = pink_noise(1 << 16, np.random.default_rng(3))
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [spectrum[1 << k : 1 << (k + 1)].sum() for k in range(8, 15)]
    assert power(noise) == pytest.approx(1.0, rel=1e-3)
    assert max(octaves) / min(octaves) < 1.4  # random: 256 bins in the lowest octave


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
