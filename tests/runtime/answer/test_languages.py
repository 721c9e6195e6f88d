"""What language a stream is in: kept through short utterances, changed on evidence, and told with every text."""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Sampling
from edgekit.runtime.answer.cross.languages import LanguageBelief
from edgekit.runtime.engine import Recorded
from edgekit.runtime.events import Text
from edgekit.runtime.model import Model
from tests.runtime.streams import CHUNK, HOP, PIECE, RATE, final_texts, run, sound_of

COUNT = 99
LONG_S, SHORT_S = 10.0, 0.8


def like(place: int, probability: float, count: int = COUNT) -> np.ndarray:
    """Return logits that give one language a probability, and the others the rest."""
    logits = np.full(count, np.log((1 - probability) / max(1, count - 1)), np.float32)
    logits[place] = np.log(probability)
    return logits + np.float32(7.5)  # logits are known but for a constant


def told(*utterances: tuple[int, float, float]) -> list[tuple[int, float]]:
    """Return language and probability after each utterance of a stream: (what it sounds like, how sure, seconds)."""
    belief, found = LanguageBelief(COUNT), []
    for place, probability, heard_s in utterances:
        after = belief.weighed(like(place, probability), heard_s)
        belief.note(after)
        found.append((int(np.argmax(after)), float(after.max())))
    return found


def places(*utterances: tuple[int, float, float]) -> list[int]:
    return [place for place, _ in told(*utterances)]


def test_a_long_first_utterance_speaks_for_itself() -> None:
    after = LanguageBelief(COUNT).weighed(like(3, 0.8), LONG_S)
    np.testing.assert_allclose(after, np.exp(like(3, 0.8) - 7.5), rtol=1e-5)


def test_a_short_first_utterance_says_the_same_and_less_of_it() -> None:
    sure, unsure = (LanguageBelief(COUNT).weighed(like(3, 0.8), seconds) for seconds in (LONG_S, SHORT_S))
    assert np.argmax(sure) == np.argmax(unsure) == 3
    assert 1 / COUNT < unsure[3] < 0.5 < sure[3]


def test_no_sound_says_nothing() -> None:
    np.testing.assert_allclose(LanguageBelief(5).weighed(like(3, 0.999, 5), 0.0), np.full(5, 0.2))


def test_a_short_sentence_taken_for_another_language_changes_nothing() -> None:
    assert places((0, 0.9, 2.0), (7, 0.6, SHORT_S), (0, 0.9, 2.0), (0, 0.9, 2.0), (8, 0.6, 2.0)) == [0] * 5


def test_words_of_another_language_between_sentences_change_nothing_however_sure_they_are() -> None:
    assert places(*[(0, 0.97, 5.0), (1, 0.97, SHORT_S)] * 6) == [0] * 12


@pytest.mark.parametrize("sentences", [1, 2, 12, 1000])
def test_another_language_is_followed_by_the_second_utterance_at_the_latest(sentences: int) -> None:
    assert places(*[(0, 0.99, 5.0)] * sentences, *[(1, 0.99, 5.0)] * 3)[sentences + 1 :] == [1, 1]


def test_many_short_utterances_in_another_language_are_followed_at_last() -> None:
    found = places(*[(0, 0.99, 5.0)] * 12, *[(1, 0.9, 1.5)] * 12)
    assert found[:12] == [0] * 12
    assert found[12] == 0
    assert found[-1] == 1
    assert found == sorted(found)


def test_a_first_word_that_was_misheard_is_forgotten() -> None:
    (first, probability), second = told((9, 0.5, SHORT_S), (0, 0.95, 3.0))
    assert (first, second[0]) == (9, 0)
    assert probability < 0.5


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_languages_are_weighed_too(count: int) -> None:
    belief = LanguageBelief(count)
    for _ in range(3):
        after = belief.weighed(np.arange(count, dtype=np.float32), 2.0)
        assert after.shape == (count,)
        assert after.sum() == pytest.approx(min(1, count))
        belief.note(after)


def test_weighing_notes_nothing_and_back_forgets_what_was_noted() -> None:
    belief = LanguageBelief(COUNT)
    belief.note(belief.weighed(like(0, 0.9), 3.0))
    mark, logits = belief.mark(), like(4, 0.9)
    once = belief.weighed(logits, 3.0)
    np.testing.assert_array_equal(belief.weighed(logits, 3.0), once)
    for place in (4, 5, 6):
        belief.note(belief.weighed(like(place, 0.9), 3.0))
    belief.back(mark)
    np.testing.assert_array_equal(belief.weighed(logits, 3.0), once)


def test_a_stream_of_hours_still_changes() -> None:
    found = told(*[(0, 1 - 1e-7, 30.0)] * 500, *[(1, 1 - 1e-7, 30.0)] * 2)
    assert found[-1][0] == 1
    assert all(np.isfinite(probability) for _, probability in found)


def multilingual(load: Callable, **fields: Any) -> Model:
    """Return the tiny model with two languages: tokens that its random weights find likely at times."""
    protocol = msgspec.structs.replace(load().manifest.protocol, languages={"en": 28, "de": 57}, **fields)
    return load(protocol=protocol)


def sounds_like(model: Model, samples: np.ndarray) -> np.ndarray:
    """Return the languages' logits of one piece of sound, from the backbone's first call."""
    recorded = Recorded(model.engines["backbone"])
    watched = dataclasses.replace(model, engines={**model.engines, "backbone": recorded})
    run(watched.stream(level="full"), [samples])
    return recorded.calls[0][1]["logits"][0][list(model.manifest.protocol.languages.values())]


def expected(model: Model, pieces: list[np.ndarray]) -> list[tuple[str, float]]:
    """Return language and probability of each piece of a stream."""
    names, belief, found = list(model.manifest.protocol.languages), LanguageBelief(2), []
    for piece in pieces:
        belief.note(belief.weighed(sounds_like(model, piece), len(piece) / RATE))
        found.append((names[int(np.argmax(belief.mark()))], float(belief.mark().max())))
    return found


def test_each_text_of_a_stream_tells_the_language_after_all_that_was_heard(load: Callable) -> None:
    model = multilingual(load)
    pieces = [sound_of(PIECE, seed) for seed in range(12)]
    pieces[-1] = pieces[-1][: 3 * CHUNK]
    events = run(model.stream(level="full"), [np.concatenate(pieces)])
    texts, right = final_texts(events), expected(model, pieces)
    assert [text.language for text in texts] == [name for name, _ in right]
    assert [text.language_probability for text in texts] == pytest.approx([belief for _, belief in right], rel=1e-4)
    alone = [int(np.argmax(sounds_like(model, piece))) for piece in pieces]
    assert len(set(alone)) == 2  # by themselves some are in the other one
    by_answer = {text.answer: text for text in texts}
    for event in events:
        if isinstance(event, Text):
            final = by_answer[event.answer]
            assert (event.language, event.language_probability) == (final.language, final.language_probability)


def test_a_partial_tells_a_language_and_leaves_the_belief_alone(load: Callable) -> None:
    model = multilingual(load)
    sound = np.concatenate([sound_of(PIECE, seed) for seed in range(4)])
    stream = model.stream(level="full", partials=True)
    stream.measure(clock=lambda: 0.0)
    events = run(stream, [sound])
    partials = [event for event in events if isinstance(event, Text) and not event.final]
    assert {text.language for text in partials} <= {"en", "de"}
    assert None not in {text.language_probability for text in partials}
    assert len(partials) > 8
    without = final_texts(run(model.stream(level="full"), [sound]))
    assert [(text.language, text.language_probability) for text in final_texts(events)] == [
        (text.language, text.language_probability) for text in without
    ]


def test_a_given_language_has_no_probability_and_stays(load: Callable) -> None:
    sound = np.concatenate([sound_of(PIECE, seed) for seed in range(6)])
    texts = final_texts(run(multilingual(load).stream(level="full", language="de"), [sound]))
    assert {(text.language, text.language_probability) for text in texts} == {("de", None)}


def test_sound_in_which_nobody_spoke_leaves_the_belief_alone(load: Callable) -> None:
    pieces = [sound_of(PIECE, seed) for seed in range(24)]
    model = multilingual(load, no_speech=3, sampling=Sampling(temperature=3.0))
    texts = final_texts(run(model.stream(level="full"), [np.concatenate(pieces)]))
    assert len(texts) == len(pieces)
    spoken = [piece for piece, text in zip(pieces, texts, strict=True) if text.text]
    assert 0 < len(spoken) < len(pieces)
    right = expected(model, spoken)
    found = [(text.language, text.language_probability) for text in texts if text.text]
    assert [name for name, _ in found] == [name for name, _ in right]
    assert [belief for _, belief in found] == pytest.approx([belief for _, belief in right], rel=1e-4)


def test_the_segments_of_a_transcript_tell_the_probability(load: Callable) -> None:
    model = multilingual(load)
    transcript = model.transcribe(sound_of(2 * PIECE - HOP), level="full")
    for segment, plain in zip(transcript.segments, transcript.to_dict()["segments"], strict=True):
        assert segment.language_probability == plain["language_probability"] >= 0.5
        assert segment.language == plain["language"]
