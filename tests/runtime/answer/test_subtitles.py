"""Subtitles: what is read at a glance, in forms that players take."""

import re
from itertools import pairwise

import pytest

from edgekit.runtime.answer.times.subtitles import cues, srt, vtt
from edgekit.runtime.events import Segment, Word


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.4) -> Segment:
    """Return a segment whose words follow each other without a pause."""
    words = tuple(
        Word(word, start_s + at * word_s, start_s + (at + 1) * word_s) for at, word in enumerate(text.split())
    )
    return Segment(start_s, words[-1].end_s if words else start_s, text, words=words)


def test_no_segment_is_no_cue():
    assert cues([]) == []
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n\n"


def test_a_segment_without_words_is_one_cue_and_one_without_text_is_none():
    assert srt([Segment(0.5, 2.0, "Hello."), Segment(2.0, 3.0, "")]) == "1\n00:00:00,500 --> 00:00:02,000\nHello.\n\n"


def test_hours_minutes_and_rounded_milliseconds():
    text = vtt([Segment(3661.9996, 7322.25, "x")])
    assert text == "WEBVTT\n\n01:01:02.000 --> 02:02:02.250\nx\n\n"


def test_a_cue_has_two_lines_of_42_letters_and_seven_seconds_at_most():
    text = "it is a truth universally acknowledged that a single man in possession of a good fortune " * 3
    found = cues([spoken(text.strip())])
    assert " ".join(cue.text for cue in found) == text.strip()
    assert all(cue.end_s - cue.start_s <= 7 for cue in found)
    blocks = [block.split("\n")[2:] for block in srt([spoken(text.strip())]).strip().split("\n\n")]
    assert all(1 <= len(lines) <= 2 for lines in blocks)
    assert all(len(line) <= 42 for lines in blocks for line in lines)


def test_a_cue_ends_with_a_sentence_and_at_a_pause():
    words = (Word("Yes.", 0, 0.3), Word("I", 0.3, 0.4), Word("do", 0.4, 0.6), Word("see", 1.5, 1.8))
    found = cues([Segment(0, 2, "Yes. I do see", words=words)])
    assert [(cue.text, cue.start_s, cue.end_s) for cue in found] == [
        ("Yes.", 0, 0.3), ("I do", 0.3, 0.6), ("see", 1.5, 1.8),
    ]  # fmt: skip


def test_a_language_without_spaces_is_not_given_any():
    text = "今日は良い天気ですね。明日も晴れるでしょう。"
    words = tuple(Word(letter, at * 0.2, at * 0.2 + 0.2) for at, letter in enumerate(text))
    assert [cue.text for cue in cues([Segment(0, 5, text, words=words)])] == [
        "今日は良い天気ですね。",
        "明日も晴れるでしょう。",
    ]


def test_cues_never_overlap_and_always_last():
    segments = [Segment(0, 2, "a"), Segment(1.5, 1.6, "b"), Segment(1.0, 1.0, "c")]
    found = cues(segments)
    assert all(cue.start_s < cue.end_s for cue in found)
    assert all(one.end_s <= other.start_s for one, other in pairwise(found))


def test_what_means_something_in_webvtt_is_escaped_and_no_line_is_empty():
    text = vtt([Segment(0, 1, "a --> b\n\n<i>&c")])
    assert text == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na --&gt; b &lt;i&gt;&amp;c\n\n"


@pytest.mark.parametrize("text", ["I don't, do I? No.", "«Oui», dit-elle.", "a  b"])
def test_the_text_of_a_cue_is_as_it_stands_in_the_segment(text):
    shown = " ".join(cue.text for cue in cues([spoken(text)]))
    assert re.sub(r"\s+", " ", text) == shown
