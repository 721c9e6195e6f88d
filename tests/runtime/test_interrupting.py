"""An answer that is interrupted: at every step, by whom it may be, and what the conversation holds of it afterwards."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import Thinking
from edgekit.errors import UsageError
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Audio, AudioCut, AudioEnded, Event, Interrupted, Text, Thought
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.streams import Logged, final_texts, logged, run, sound_of
from tests.runtime.voices import ReadingSpeech, conversing, reading, sound_in, speaking

THINKING = Thinking(open="<de>", close="<en>", then="~", usual=True)


@pytest.fixture(autouse=True)
def voice() -> Iterator[None]:
    """Let bundles speak as the toy does."""
    with reading():
        yield


def held(engine: Logged) -> Array:
    """Return the rows in the KV cache after all calls."""
    rows = np.zeros((0, engine.calls[0]["embeds"].shape[1]), np.float32)
    for call in engine.calls:
        assert int(call["start"][0]) <= len(rows), "a call begins where the cache holds nothing"
        rows = np.concatenate((rows[: int(call["start"][0])], call["embeds"]))
    return rows


def conversation(model: Model, said: list[tuple[int, ...]], asked: list[str]) -> Array:
    """Return the rows of a conversation in which exactly that was said, the last question included."""
    table, encode, protocol = model.table, model.tokenizer.encode, model.manifest.protocol
    opening = protocol.opening.replace("{system}", protocol.system or "")
    rows = [table.rows(encode(opening))]
    for turn, text in enumerate(asked):
        question = protocol.turn.replace("{role}", "u").replace("{text}", text)
        rows.append(table.rows(encode((protocol.again if turn else "") + question + protocol.reply)))
        rows.append(table.rows(said[turn] if turn < len(said) else ()))
    return np.concatenate(rows)


def assert_remembered(
    model: Model, engine: Logged, stream: Stream, said: list[tuple[int, ...]], asked: list[str]
) -> None:
    """Ask the last question, and compare what the backbone read up to its answer with what was said before."""
    (final,) = final_texts(list(stream.ask(asked[-1])))
    expected = conversation(model, said, asked)
    thought = model.manifest.protocol.thinking is not None
    np.testing.assert_array_equal(held(engine)[: len(expected)], expected)
    assert thought or len(held(engine)) == len(expected) + len(final.tokens) - 1  # the last one waits


def steps_of(stream: Stream) -> int:
    count = 0
    while stream.pending:
        stream.step()
        count += 1
    return count


@pytest.mark.parametrize(
    ("kind", "turns"),
    [("written", "all"), ("written", 1), ("thought", "all"), ("spoken", 1), ("spoken after a thought", "all")],
)
def test_at_whichever_step_an_answer_is_interrupted_exactly_what_it_tells_is_remembered(
    load: Callable, kind: str, turns: Any
) -> None:
    fields: dict[str, Any] = {"thinking": THINKING, "max_tokens": 4} if "thought" in kind else {"max_tokens": 4}
    speak, think = "spoken" in kind, 3 if "thought" in kind else None
    model, engines = logged((speaking if speak else conversing)(load, **fields))
    stream = model.stream(level="full", speak=speak, think=think)
    stream.ask("0")
    count = steps_of(stream)
    assert count > 5
    outcomes = set()
    for step in range(count + 2):
        engines["backbone"].calls.clear()
        stream = model.stream(level="full", turns=turns, speak=speak, think=think)
        (before,) = final_texts(list(stream.ask("0")))
        stream.ask("1")
        events = [event for _ in range(step) for event in (stream.step() if stream.pending else [])]
        stream.interrupt(2, 0.001 if step % 3 == 2 and speak else None)
        stream.interrupt(2)  # named twice
        if step:
            stream.interrupt(1)  # a later turn follows it: nothing happens
        stream.interrupt(3)  # there is none
        events += list(stream.events())
        (end,) = [event for event in events if isinstance(event, Interrupted)] or [None]
        if end is None:  # its turn had not begun: that answer was not there to be named
            assert step == 0
            (final,) = final_texts(events)
            tokens = final.tokens
        else:
            assert end.answer == 2
            assert events[-1] is end
            tokens = end.tokens
            written = final_texts(events)
            assert len(written) <= 1
            outcomes.add((bool(written), len(tokens)))
            if written:
                assert written[0].tokens[: len(tokens)] == tokens
        kept = [before.tokens, tokens]
        asked = ["0", "1", "2"]
        if turns == 1:
            kept, asked = kept[1:], asked[1:]
        assert_remembered(model, engines["backbone"], stream, kept, asked)
    assert len({length for _, length in outcomes}) > 1
    assert {whole for whole, _ in outcomes} == {True, False}


def test_an_interrupted_answer_is_remembered_where_older_turns_are_forgotten(load: Callable) -> None:
    model, engines = logged(conversing(load, context=60, max_tokens=4))
    stream = model.stream(level="full", turns="all")
    said, forgot = [], 0
    for turn in range(9):
        events = []
        for event in stream.ask(str(turn)):
            events.append(event)
            if isinstance(event, Text) and turn % 2:
                stream.interrupt(event.answer)
        said.append(next(event.tokens for event in reversed(events) if isinstance(event, (Text, Interrupted))))
        forgot += sum(event.turns for event in events if event.kind == "forgot")
    assert 0 < forgot < 8
    assert_remembered(model, engines["backbone"], stream, said[forgot:], [str(turn) for turn in range(forgot, 10)])


def test_of_a_long_sound_that_is_answered_in_parts_one_answer_can_be_interrupted(load: Callable) -> None:
    model = conversing(load, context=48)
    expected = run(model.stream(level="full", gate="off"), [sound_of(40_000)])
    parts = final_texts(expected)
    assert len(parts) > 2, "the context is full in the middle"
    stream = model.stream(level="full", gate="off")
    events = []
    for event in stream.push(sound_of(40_000)):
        events.append(event)
        if isinstance(event, Text) and event.answer == 2:
            stream.interrupt(2)
    events += list(stream.finish())
    assert [event.answer for event in events if isinstance(event, Interrupted)] == [2]
    assert [event for event in events if getattr(event, "answer", 2) != 2] == [
        event for event in expected if getattr(event, "answer", 2) != 2
    ]


# Sound


def test_what_is_kept_of_a_spoken_answer_is_its_share_of_the_text_and_it_says_so(load: Callable) -> None:
    model, engines = logged(speaking(load))
    whole = list(model.stream(level="full", speak=True).ask("0"))
    (final,) = final_texts(whole)
    seconds = len(sound_in(whole)) / 24_000
    assert len(final.tokens) == 6
    for heard_s, kept in [(0.0, 0), (seconds / 6, 1), (seconds / 2, 3), (seconds, 6), (1e308, 6), (None, 6)]:
        engines["backbone"].calls.clear()
        stream = model.stream(level="full", speak=True, turns="all")
        list(stream.ask("0"))
        stream.interrupt(1, heard_s)
        (event,) = stream.events()
        assert isinstance(event, Interrupted)
        assert event.tokens == final.tokens[:kept]
        assert event.exact == (heard_s in {0.0, None})  # nothing and everything are no guess
        assert_remembered(model, engines["backbone"], stream, [final.tokens[:kept]], ["0", "1"])


def test_of_an_answer_that_was_not_spoken_no_sound_was_heard(load: Callable) -> None:
    model = speaking(load)
    stream = model.stream(level="full", speak=True, turns="all")
    list(stream.ask("0"))
    stream.hushed = True
    list(stream.ask("1"))
    stream.interrupt(2, 0.5)
    (event,) = stream.events()
    assert isinstance(event, Interrupted)
    assert (event.tokens, event.exact) == ((), True)


def kinds_of(events: list[Event]) -> list[str]:
    """Return the kinds in order, those that come again and again once, and final ones apart."""
    names = [event.kind + (" whole" if getattr(event, "final", False) else "") for event in events]
    return [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]


def test_the_text_is_whole_before_the_sound_is_and_what_cut_it_is_told_before_its_end(load: Callable) -> None:
    short = speaking(load, said=ReadingSpeech(frames=8), thinking=THINKING)
    events = list(short.stream(level="full", speak=True).ask("0"))
    kinds = kinds_of(events)
    assert kinds[:2] == ["thought", "thought whole"]
    assert kinds[-5:] == ["text whole", "text_cut", "audio", "audio_cut", "audio_ended"]
    assert {event.answer for event in events if hasattr(event, "answer")} == {1}
    (cut,) = [event for event in events if isinstance(event, AudioCut)]
    assert cut.reason == "frames"


def test_a_voice_that_is_hushed_stops_within_a_step_and_the_text_goes_on(load: Callable) -> None:
    model = speaking(load, max_tokens=12)
    expected = list(model.stream(level="full", speak=True).ask("0"))
    for at in range(1, len(expected)):
        stream = model.stream(level="full", speak=True)
        events = []
        for event in stream.ask("0"):
            events.append(event)
            if len(events) == at:
                stream.hushed = True
            if len(events) == at + 3:  # a step later: what cut a text comes with it
                stream.hushed = False  # an answer that was hushed stays so
        assert final_texts(events) == final_texts(expected)
        sounds = [event for event in events[at:] if isinstance(event, Audio)]
        assert len(sounds) <= isinstance(events[at - 1], Text), "made in the same step"
        if events[at - 1].kind not in {"audio_cut", "audio_ended"}:
            assert not [event for event in events if isinstance(event, AudioEnded)]
        stream.hushed = False
        again = list(stream.ask("0"))
        np.testing.assert_array_equal(sound_in(again), sound_in(expected))


def test_no_event_of_an_answer_follows_its_interruption(load: Callable) -> None:
    model = speaking(load, thinking=THINKING)
    stream = model.stream(level="full", speak=True, turns="all", think=3)
    stream.ask("0")
    count = steps_of(stream)
    for step in range(1, count):
        stream = model.stream(level="full", speak=True, turns="all", think=3)
        stream.ask("0")
        for _ in range(step):
            stream.step()
        stream.interrupt(1, 0.0)
        list(stream.events())
        later = list(stream.ask("1"))
        assert {event.answer for event in later if isinstance(event, (Text, Thought, Audio, AudioEnded))} == {2}
        assert isinstance(later[-1], AudioEnded)


def test_events_own_their_arrays_and_a_slow_reader_of_them_changes_no_span(load: Callable) -> None:
    model = speaking(load, thinking=THINKING)
    expected = list(model.stream(level="full", speak=True, think=3).ask("0"))
    now = [0.0]
    stream = model.stream(speak=True, think=3)
    stream.measure(clock=lambda: now[0])
    begun = len(stream._work_trace.spans)  # the voice prepares itself when it is made
    sounds = []
    for event in stream.ask("0"):
        now[0] += 9.0
        if isinstance(event, Audio):
            sounds.append(event.samples.copy())
            event.samples[:] = np.nan
    np.testing.assert_array_equal(np.concatenate(sounds), sound_in(expected))
    spans = stream._work_trace.spans[begun:]
    assert len(spans) > 20
    assert all(span.seconds == 0 for span in spans)


# Asking


def test_questions_in_the_middle_of_a_turn_wait_for_its_end_and_keep_their_order(load: Callable) -> None:
    model = conversing(load)
    sound = sound_of(6000)
    (heard,) = final_texts(run(model.stream(gate="off", level="full", turns="all"), [sound]))
    for cut, reads in itertools.product((0, 1, 3000, 5999, 6000), (False, True)):
        stream = model.stream(gate="off", level="full", turns="all")
        calls: list[Callable[[], Iterator[Event]]] = [
            lambda stream=stream, cut=cut: stream.push(sound[:cut]),
            lambda stream=stream: stream.ask("a"),
            lambda stream=stream: stream.ask("b", role="tool"),
            lambda stream=stream: stream.ask("c"),
            lambda stream=stream, cut=cut: stream.push(sound[cut:]),
            stream.finish,
        ]
        events: list[Event] = []
        for call in calls:
            made = call()
            events += made if reads else ()
        events += stream.events()
        finals = final_texts(events)
        kinds = ["heard" if final.end_s > final.start_s else "asked" for final in finals]
        assert sorted(kinds) == ["asked"] * 3 + ["heard"]
        assert [final.answer for final in finals] == [1, 2, 3, 4]
        if cut >= 512 and reads:  # the turn was open when they were asked
            assert kinds == ["heard", "asked", "asked", "asked"]
            assert finals[0].tokens == heard.tokens
        assert stream.done


def test_any_habit_of_reading_gives_questions_the_same_answers(load: Callable) -> None:
    model = conversing(load)
    sound = np.concatenate([sound_of(3000), np.zeros(16_000, np.float32), sound_of(2000, seed=1)])

    def converse(read: Callable[[Stream, Iterator[Event]], list[Event]]) -> list[Event]:
        stream = model.stream(gate="sound", level="full", turns="all")
        events: list[Event] = []
        for at, part in enumerate(np.split(sound, [1500, 9000, 12_000, 20_000])):
            events += read(stream, stream.push(part))
            events += read(stream, stream.ask(str(at)))
        return events + list(stream.finish())

    expected = converse(lambda _stream, made: list(made))
    assert len(final_texts(expected)) == 7
    assert converse(lambda _stream, _made: []) == expected
    assert converse(lambda stream, _made: stream.step() if stream.pending else []) == expected
    assert converse(lambda _stream, made: [event for _, event in zip(range(2), made, strict=False)]) == expected


def test_what_is_no_number_is_refused_and_what_numpy_counted_is_taken(load: Callable) -> None:
    stream = conversing(load).stream(level="full", gate="off")
    list(stream.push(sound_of(16_000)))
    list(stream.push(sound_of(100), dropped_samples=np.uint8(200), lag_ms=np.float32(1.5)))  # type: ignore[arg-type]
    for call in (
        lambda: stream.push([0.0], dropped_samples=10**400),
        lambda: stream.push([0.0], lag_ms=10**400),
        lambda: stream.interrupt(1, 10**400),
        lambda: stream.push([[0.0], [0.0, 1.0]]),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert [event.kind for event in stream.finish()][-2:] != []
    assert stream.done
