"""Speech that goes on for longer than the encoder hears at once, written down by a toy: every word comes once."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.events import Event, Text
from edgekit.runtime.hear.gate import Closed, Opened, Sound
from edgekit.runtime.model import Model
from tests.runtime.dictation import (
    CUT_WORD,
    LONGEST_S,
    STOP,
    Piece,
    Written,
    cuts,
    dictate,
    dictating,
    heard,
    in_segments,
    look,
    names,
    sound,
    speech,
    take_down,
    texts,
    written,
)
from tests.runtime.streams import RATE, sound_of, splits

SAID = speech(33.2)
KINDS = [(True, True), (True, False), (False, True)]


def unclosed(piece: Piece) -> Written:
    """Write one segment whose end has no time."""
    return in_segments(piece, 10**6, closes_last=False)


def first_words(piece: Piece, count: int = 1) -> Written:
    """Write the first words of a piece alone, though there are more."""
    return in_segments(Piece(**{**vars(piece), "words": piece.words[:count]}), 10**6, closes_last=False)


@pytest.mark.parametrize(("resumes", "aligns"), KINDS)
@pytest.mark.parametrize("seconds", [9.6, 10.0, 10.4, 19.6, 33.2])
def test_every_word_comes_once(load: Callable[..., Model], seconds: float, *, resumes: bool, aligns: bool) -> None:
    said = speech(seconds)
    dictation, events = take_down(dictating(load, resumes=resumes, aligns=aligns), said)
    assert written(events) == names(said)
    assert cuts(events) == []
    finals = texts(events)
    assert (finals[0].start_s, finals[-1].end_s) == (0.0, pytest.approx(seconds))
    assert not any(text.truncated for text in finals)
    assert bool(dictation.stream.samples_heard_again) == (len(dictation.pieces) > 1) == (seconds > LONGEST_S)


@pytest.mark.parametrize(("resumes", "aligns"), KINDS)
def test_what_the_listener_took_is_all_sound_and_what_was_heard_again(
    load: Callable[..., Model], *, resumes: bool, aligns: bool
) -> None:
    dictation, _ = take_down(dictating(load, resumes=resumes, aligns=aligns), SAID)
    stream = dictation.stream
    taken = sum(span.count for span in stream.trace.spans if span.name == "features")
    assert stream.samples_heard == len(sound(SAID))
    assert taken == stream.samples_heard + stream.samples_heard_again
    reached = 0.0
    for piece in dictation.pieces:  # no gap between them
        assert piece.start_s <= reached
        reached = piece.start_s + piece.end_s
    assert reached >= len(sound(SAID)) / RATE


@pytest.mark.parametrize("times", [None, "segments", "words"])
@pytest.mark.parametrize(("resumes", "aligns"), KINDS)
def test_times_are_those_of_the_words(load: Callable[..., Model], times: Any, *, resumes: bool, aligns: bool) -> None:
    if (times == "segments" and not resumes) or (times == "words" and not aligns):
        pytest.skip("refused; see test_answer_times")
    _, events = take_down(dictating(load, resumes=resumes, aligns=aligns), SAID, times=times)
    finals = texts(events)
    assert [bool(text.segments) for text in finals] == [bool(times) or resumes] * len(finals)
    for text in finals:
        for segment in text.segments:
            inside = [word for word in SAID if word.text in segment.text.split()]
            assert segment.start_s == pytest.approx(inside[0].start_s, abs=0.25)
            assert segment.end_s == pytest.approx(inside[-1].end_s, abs=0.25)
            assert [word.text for word in segment.words] == (names(inside) if times == "words" else [])
            for word, one in zip(segment.words, inside, strict=False):
                assert (word.start_s, word.end_s) == pytest.approx((one.start_s, one.end_s), abs=0.25)
        if text.segments:
            assert " ".join(segment.text for segment in text.segments) == text.text
            assert [token for segment in text.segments for token in segment.tokens] == [*text.tokens]


def test_without_a_last_time_the_words_say_where_to_go_on(load: Callable[..., Model]) -> None:
    dictation, events = take_down(dictating(load, resumes=True, aligns=True), SAID, unclosed)
    assert written(events) == names(SAID)
    assert cuts(events) == []
    assert all(9.0 < later.start_s - piece.start_s <= 9.5 for piece, later in itertools.pairwise(dictation.pieces))


def test_a_model_that_tells_no_times_at_all_goes_on_in_the_quietest_place(load: Callable[..., Model]) -> None:
    samples = sound(SAID)
    for at_s in (4.0, 7.27, 9.95, 15.0):  # the last in each piece's last five seconds
        samples[round((at_s - 0.05) * RATE) : round((at_s + 0.05) * RATE)] = 0
    dictation, events = take_down(dictating(load, resumes=False, aligns=False), SAID, parts=[samples])
    starts = [piece.start_s for piece in dictation.pieces]
    assert starts[1:3] == pytest.approx([9.95, 15.0], abs=0.02)
    assert texts(events)[0].end_s == starts[1]
    assert written(events)[:24] == names(SAID)[:24]  # no word is lost but those that it cut
    assert len(set(written(events)) - {CUT_WORD}) >= len(SAID) - 3


@pytest.mark.parametrize("writes", [in_segments, unclosed])
@pytest.mark.parametrize(("resumes", "aligns"), [*KINDS, (False, False)])
@pytest.mark.parametrize("partials", [False, True])
def test_any_split_gives_the_same_texts(
    load: Callable[..., Model], writes: Any, *, partials: bool, resumes: bool, aligns: bool
) -> None:
    model = dictating(load, resumes=resumes, aligns=aligns)
    samples = sound(SAID)
    plain = take_down(model, SAID, writes)[1]
    for parts in (splits(samples, "random"), np.split(samples, range(15_999, len(samples), 15_999))):
        events = take_down(model, SAID, writes, list(parts), partials=partials)[1]
        if partials:  # they come as time allows
            assert all(event.start_s <= event.end_s for event in events if isinstance(event, Text))
            assert _final(events) == _final(plain)
        else:
            assert events == plain


def _final(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Text) or event.final]


@pytest.mark.parametrize(("resumes", "aligns"), KINDS)
@pytest.mark.parametrize("at_s", [4.0, 9.0, 12.0, 26.5])
def test_what_goes_on_from_a_mark_is_what_would_have_been(
    load: Callable[..., Model], at_s: float, *, resumes: bool, aligns: bool
) -> None:
    model, samples = dictating(load, resumes=resumes, aligns=aligns), sound(SAID)
    at = round(at_s * RATE)
    plain = take_down(model, SAID)[1]
    dictation = dictate(model, SAID)
    stream, work = dictation.stream, dictation.stream._work
    events = list(stream.push(samples[:at]))
    mark, again, rest = stream.mark(), stream.samples_heard_again, stream._listener.room_samples
    work.put(Sound(sound_of(rest - 100, 5), sounding=True))  # none of it comes to an answer
    assert not [event for event in stream.events() if isinstance(event, Text) and event.final]
    stream.back(mark)
    assert stream.samples_heard_again == again
    events += [*stream.push(samples[at:]), *stream.finish()]
    assert events == plain


@pytest.mark.parametrize(("resumes", "aligns"), [*KINDS, (False, False)])
def test_a_piece_that_comes_to_nothing_is_told_and_the_next_goes_on(
    load: Callable[..., Model], *, resumes: bool, aligns: bool
) -> None:
    def writes(piece: Piece) -> Written:
        return [] if piece.number == 1 else in_segments(piece)

    dictation, events = take_down(dictating(load, resumes=resumes, aligns=aligns), SAID, writes)
    assert cuts(events) == ["empty"]
    empty = dictation.pieces[1]
    missing = {word.text for word in SAID} - {*written(events)}
    if not aligns and not resumes:  # it cuts words, which are not known
        missing -= {
            word.text for word in SAID for piece in dictation.pieces if word.start_s < piece.start_s < word.end_s
        }
    inside = {word.text for word in SAID if empty.start_s < word.end_s and word.start_s < empty.start_s + empty.end_s}
    assert missing <= inside
    texts(events)


def test_the_last_piece_may_be_silence(load: Callable[..., Model]) -> None:
    said = speech(10.4)
    _, events = take_down(dictating(load, resumes=True, aligns=True), said, lambda piece: in_segments(piece)[:20])
    assert cuts(events) == []


@pytest.mark.parametrize("looping", [1, 3])
@pytest.mark.parametrize(("resumes", "aligns"), KINDS)
@pytest.mark.parametrize("timed_repeats", [False, True])
def test_a_loop_ends_what_stands_and_its_sound_is_heard_again(
    load: Callable[..., Model], looping: int, *, resumes: bool, aligns: bool, timed_repeats: bool
) -> None:
    """Times between the repeats differ from each other, and are no part of the phrase."""

    def writes(piece: Piece) -> Written:
        if piece.number != looping:
            return in_segments(piece)
        whole = in_segments(Piece(**{**vars(piece), "words": piece.words[:14]}))
        times = [("<", 5.6 + at / 5) for at in range(12)] if piece.timed and timed_repeats else []
        loop = [("zz", 5.8)] * 12
        if times:
            loop = [one for time, word in zip(times, loop, strict=True) for one in (time, word, time)]
        elif piece.timed:
            loop = [("<", 5.6), *loop]
        return whole + loop

    dictation, events = take_down(dictating(load, resumes=resumes, aligns=aligns), SAID, writes)
    found = written(events)
    if aligns:
        assert found == names(SAID)
        assert cuts(events) == []
    else:  # it cannot tell where the loop began
        assert cuts(events) == ["repeats"]
        assert found.count("zz") == 1
        assert [text.truncated for text in texts(events)].count(True) == 1
    assert len(dictation.pieces) < 9


def test_a_loop_from_the_start_is_told(load: Callable[..., Model]) -> None:
    def writes(piece: Piece) -> Written:
        return [("<", 0.0)] * piece.timed + [("zz", 0.2)] * 20 if piece.number == 1 else in_segments(piece)

    _, events = take_down(dictating(load, resumes=True, aligns=True), SAID, writes, times="words")
    assert cuts(events) == ["repeats"]
    (cut,) = [text for text in texts(events) if text.truncated]
    assert cut.text == "zz"
    assert [word.text for segment in cut.segments for word in segment.words] == ["zz"]


@pytest.mark.parametrize(("resumes", "aligns"), [*KINDS, (False, False)])
@pytest.mark.parametrize("count", [1, 4])
def test_a_model_that_writes_little_ends_all_the_same(
    load: Callable[..., Model], count: int, *, resumes: bool, aligns: bool
) -> None:
    dictation, events = take_down(
        dictating(load, resumes=resumes, aligns=aligns), SAID, lambda piece: first_words(piece, count)
    )
    assert len(dictation.pieces) <= 12
    texts(events)
    if aligns:  # it is known that words lack, and told
        assert set(cuts(events)) == {"empty"}


@pytest.mark.parametrize("times", [None, "words"])
def test_an_answer_of_few_tokens_goes_on_where_its_words_end(load: Callable[..., Model], times: Any) -> None:
    most = 30  # ten words and a time: 4 s of a piece
    _, events = take_down(dictating(load, resumes=True, aligns=True), SAID, in_segments, max_tokens=most, times=times)
    assert written(events)[:9] == names(SAID)[:9]
    assert sorted(set(written(events)), key=written(events).index) == written(events)
    finals = texts(events)
    assert all(len(text.tokens) <= most for text in finals)
    assert {*cuts(events)} == {"max_tokens"}  # the last piece has more words than that
    assert [text.truncated for text in finals].count(True) == len(cuts(events))


def test_a_text_that_begins_with_the_words_before_is_not_stable(load: Callable[..., Model]) -> None:
    _, events = take_down(dictating(load, resumes=False, aligns=True), SAID)
    shown = [event for event in events if isinstance(event, Text)]
    for at, text in enumerate(shown):
        if text.final:
            continue
        final = next(one for one in shown[at:] if one.final)
        assert text.answer == final.answer
        assert text.stable == (len(text.text) if text.answer == 1 else 0)


def test_nothing_is_heard_behind_the_end_of_speech(load: Callable[..., Model]) -> None:
    """The gate decides late: what it passes on behind the last word is silence, and no answer is about it."""
    for seconds in (9.6, 10.0, 19.2):
        said = speech(seconds)
        samples = np.concatenate((sound(said), np.zeros(RATE // 2, np.float32)))
        end = len(sound(said))
        for resumes, aligns in KINDS:
            dictation = dictate(dictating(load, resumes=resumes, aligns=aligns), said)
            dictation.stream._work.put(Opened(0), Sound(samples, sounding=True), Closed(end, len(samples)))
            events = list(dictation.stream.events())
            assert texts(events)[-1].end_s == end / RATE
            assert written(events) == names(said)
            assert cuts(events) == []


def test_the_toy_hears_whole_words_and_knows_the_others_are_cut() -> None:
    piece = heard(speech(4.0), 0, 0.6, 2.0, timed=False)
    assert [word.text for word in piece.words] == [CUT_WORD, "ac", "ad", "ae", "af", CUT_WORD]
    assert look(piece.words[1]) == ("ac", pytest.approx(0.4))
    assert STOP > 255
