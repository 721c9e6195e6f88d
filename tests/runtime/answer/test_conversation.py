"""Turns of one conversation: what an answer remembers, what it forgets, thoughts and questions in text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle import GateSettings, Question, Thinking, TokenProtocol
from edgekit.errors import UsageError
from edgekit.runtime.assemble import gate_settings
from edgekit.runtime.engine import Array
from edgekit.runtime.events import Event, Forgot, SpeechStopped, Text, Thought
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.stream import Stream
from tests.runtime.streams import CHUNK, Logged, final_texts, logged, roomy, sound_of

OPEN, CLOSE = "<de>", "<en>"
QUIET = np.zeros(CHUNK, np.float32)


def _conversing(model: Model, **fields: Any) -> TokenProtocol:
    return msgspec.structs.replace(
        model.manifest.protocol, again="<stop>", turn="<start>{role}{text}<stop>", roles={"user": "u", "tool": "t"},
        tools="<translate>{tools}", opening="<start>{system}{tools}", **fields,
    )  # fmt: skip


@pytest.fixture
def conversing(load: Callable) -> Callable[..., tuple[Model, dict[str, Logged]]]:
    """Return a function that loads a prefix bundle whose protocol has turns; ``fields`` replace the protocol's."""

    def make(context: int = 48, **fields: Any) -> tuple[Model, dict[str, Logged]]:
        plain = load("prefix", **roomy(context))
        protocol = _conversing(plain, **({"max_tokens": 4} | fields))
        return logged(load("prefix", protocol=protocol))

    return make


def turns(stream: Stream, count: int) -> Iterator[list[Event]]:
    """Yield the events of ``count`` turns in text: "0", "1" and so on."""
    for turn in range(count):
        yield list(stream.ask(str(turn)))


class Deaf:
    """A Listener whose sound is too short for the encoder."""

    def __init__(self, ear: Any) -> None:
        self._ear = ear

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ear, name)

    def push(self, _samples: Array) -> Iterator[Array]:
        """Yield nothing."""
        return iter(())

    def finish(self) -> Iterator[Array]:
        """Yield nothing."""
        return iter(())


def fed(engine: Logged) -> Array:
    """Return every row the backbone holds after all of its calls, in the order of the KV cache."""
    rows: list[Array] = []
    for call in engine.calls:
        start = int(call["start"][0])
        held = np.concatenate(rows)[:start] if rows else np.zeros((0, call["embeds"].shape[1]), np.float32)
        assert len(held) == start, "a call begins where the cache holds nothing"
        rows = [held, call["embeds"]]
    return np.concatenate(rows)


def conversation(model: Model, said: Sequence[Text], asked: Sequence[str]) -> Array:
    """Return the rows of a whole conversation as it should be, the last answer as far as it was read back."""
    table, encode = model.table, model.tokenizer.encode
    rows = [table.rows(encode("<start>s"))]
    for turn, (text, answer) in enumerate(zip(asked, said, strict=True)):
        rows.append(table.rows(encode(("<stop>" if turn else "") + f"<start>u{text}<stop><plain>")))
        rows.append(table.rows(answer.tokens))
    return np.concatenate(rows)[:-1]  # the last token of an answer that reached its limit is not read back


def test_turns_share_one_cache_and_each_answer_knows_the_ones_before(conversing: Callable) -> None:
    model, engines = conversing()
    stream = model.stream(level="full", turns="all")
    said = [final_texts(events)[0] for events in turns(stream, 3)]
    np.testing.assert_array_equal(fed(engines["backbone"]), conversation(model, said, ["0", "1", "2"]))
    alone, _ = conversing()
    fresh = [final_texts(alone.stream(level="full").ask(str(turn)))[0] for turn in range(3)]
    assert said[0] == fresh[0]
    assert [text.tokens for text in said[1:]] != [text.tokens for text in fresh[1:]]


def test_a_stream_that_remembers_nothing_answers_each_turn_as_if_it_were_the_first(conversing: Callable) -> None:
    model, engines = conversing()
    stream = model.stream(level="full")
    first, again = (list(stream.ask("x")) for _ in range(2))
    assert [text.tokens for text in final_texts(first)] == [text.tokens for text in final_texts(again)]
    opening = model.table.rows(model.tokenizer.encode("<start>s"))
    read = [call["embeds"] for call in engines["backbone"].calls if np.array_equal(call["embeds"], opening)]
    assert len(read) == 1  # the opening stays in the cache


@pytest.mark.parametrize("kept", [1, 2])
def test_only_the_wanted_number_of_turns_is_remembered_and_that_is_no_loss(conversing: Callable, kept: int) -> None:
    model, engines = conversing()
    stream = model.stream(level="full", turns=kept)
    events = list(turns(stream, 5))
    said = [final_texts(one)[0] for one in events]
    known = [str(turn) for turn in range(5)][-kept - 1 :]
    np.testing.assert_array_equal(fed(engines["backbone"]), conversation(model, said[-kept - 1 :], known))
    assert not [event for one in events for event in one if isinstance(event, Forgot)]


def test_a_full_context_forgets_the_oldest_turns_and_says_so(conversing: Callable) -> None:
    model, engines = conversing(48)
    stream = model.stream(level="full", turns="all")
    events = [event for one in turns(stream, 9) for event in one]
    forgot = [event.turns for event in events if isinstance(event, Forgot)]
    assert sum(forgot) > 0
    kept = 9 - sum(forgot)
    said = final_texts(events)[-kept:]
    np.testing.assert_array_equal(
        fed(engines["backbone"]), conversation(model, said, [str(turn) for turn in range(9)][-kept:])
    )
    assert all(int(call["start"][0]) + len(call["embeds"]) <= 48 for call in engines["backbone"].calls)


def test_a_context_of_the_longest_conversation_has_room_for_every_answer(conversing: Callable) -> None:
    model, _ = conversing(48, max_length=48)  # as an export writes it; a longer context keeps turns beyond the length
    events = [event for one in turns(model.stream(level="full", turns="all"), 9) for event in one]
    assert sum(event.turns for event in events if isinstance(event, Forgot)) > 0
    assert [len(final.tokens) for final in final_texts(events)] == [4] * 9


def test_a_turn_that_was_refused_leaves_no_trace(conversing: Callable) -> None:
    model, engines = conversing()
    stream = model.stream(level="full", turns="all")
    said = [final_texts(list(stream.ask("0")))[0]]
    for _ in range(2):
        with pytest.raises(UsageError, match="text: takes"):
            list(stream.ask("x" * 100))
    said += final_texts(list(stream.ask("1")))
    np.testing.assert_array_equal(fed(engines["backbone"]), conversation(model, said, ["0", "1"]))


def test_a_long_text_takes_the_room_of_older_turns_and_says_so(conversing: Callable) -> None:
    model, engines = conversing(80)
    stream = model.stream(level="full", turns="all")
    for events in turns(stream, 3):
        assert not [event for event in events if isinstance(event, Forgot)]
    long = "x" * 58
    events = list(stream.ask(long))
    assert [event.turns for event in events if isinstance(event, Forgot)] == [3]
    np.testing.assert_array_equal(fed(engines["backbone"]), conversation(model, final_texts(events), [long]))
    again = final_texts(list(stream.ask("1")))
    assert again


def test_sound_and_text_alternate_in_one_conversation(conversing: Callable) -> None:
    model, engines = conversing(400)
    stream = model.stream(level="full", turns="all", gate="sound")
    loud = sound_of(3 * CHUNK, loudness=0.8)
    events: list[Event] = []
    for turn in range(2):
        events += list(stream.push(loud))
        while sum(isinstance(event, SpeechStopped) for event in events) == turn:
            events += list(stream.push(QUIET))
        events += list(stream.ask("and"))
    finals = final_texts(events)
    assert len(finals) == 4
    rows = fed(engines["backbone"])
    encode, table = model.tokenizer.encode, model.table
    for text in ("<stop><sound>", "<stop><start>uand<stop><plain>"):
        wanted = table.rows(encode(text))
        found = [at for at in range(len(rows)) if np.array_equal(rows[at : at + len(wanted)], wanted)]
        assert len(found) == (1 if text == "<stop><sound>" else 2)


def test_a_thought_comes_first_and_is_not_remembered(conversing: Callable) -> None:
    thinking = Thinking(open=OPEN, close=CLOSE, then="\n", none="", usual=False)
    model, engines = conversing(96, thinking=thinking)
    stream = model.stream(level="full", turns="all", think=3)
    first = list(stream.ask("0"))
    thoughts = [event for event in first if isinstance(event, Thought)]
    assert [event.final for event in thoughts] == [False] * (len(thoughts) - 1) + [True]
    assert thoughts[-1].text
    assert [type(event) for event in first].index(Text) > len(thoughts) - 1
    rows, encode = model.table.rows, model.tokenizer.encode
    asked = rows(encode("<start>u0<stop><plain>" + OPEN))
    calls = [call["embeds"] for call in engines["backbone"].calls]
    np.testing.assert_array_equal(np.concatenate(calls[1:3])[: len(asked)], asked)
    closing = rows(encode(CLOSE + "\n"))  # EdgeKit writes it, the model found no end in three tokens
    assert any(np.array_equal(call[-len(closing) :], closing) for call in calls if len(call) > len(closing))
    second = list(stream.ask("1"))
    said = [final_texts(first)[0]]
    held = fed(engines["backbone"])
    known = np.concatenate(
        [conversation(model, said, ["0"]), rows(said[0].tokens[-1:]), rows(encode("<stop><start>u1"))]
    )
    np.testing.assert_array_equal(held[: len(known)], known)
    assert [event for event in second if isinstance(event, Thought)]


def test_a_model_that_closes_its_thought_is_not_interrupted(conversing: Callable) -> None:
    plain, _ = conversing()
    (text,) = final_texts(plain.stream(level="full").ask("0"))
    thinking = Thinking(open="<plain>", close="x", then="\n", usual=True)
    model, engines = conversing(96, thinking=thinking)
    model.stream(level="full", think=False).ask("0")
    (same,) = final_texts(model.stream(level="full", think=False).ask("0"))
    assert same.tokens == text.tokens
    events = model.stream(level="full").ask("0")  # it thinks if nobody says otherwise
    (thought,) = [event for event in events if isinstance(event, Thought) and event.final]
    piece = thought.text[:1]
    closing = msgspec.structs.replace(model.manifest.protocol.thinking, close=piece)
    model, engines = conversing(96, thinking=closing)
    events = model.stream(level="full").ask("0")
    (thought,) = [event for event in events if isinstance(event, Thought) and event.final]
    assert not thought.text
    written = model.table.rows(model.tokenizer.encode(2 * piece + "\n"))
    assert not any(np.array_equal(call["embeds"][-3:], written) for call in engines["backbone"].calls)


def test_a_question_is_known_by_its_name(conversing: Callable) -> None:
    questions = {"transcribe": Question(system="write", prompt="")}
    model, engines = conversing(questions=questions)
    list(model.stream(level="full", prompt="transcribe").ask("0"))
    opening = model.table.rows(model.tokenizer.encode("<start>write"))
    np.testing.assert_array_equal(engines["backbone"].calls[0]["embeds"], opening)
    model, engines = conversing(questions=questions)
    list(model.stream(level="full", prompt="transcribe", system="mine").ask("0"))
    opening = model.table.rows(model.tokenizer.encode("<start>mine\nwrite"))
    np.testing.assert_array_equal(engines["backbone"].calls[0]["embeds"], opening)


def test_what_stands_in_the_users_own_texts_is_left_alone(conversing: Callable) -> None:
    model, engines = conversing(120)
    list(model.stream(level="full", system="{prompt} {tools}", tools="[{system}]", prompt="{system}").ask("{role}"))
    rows = model.table.rows(model.tokenizer.encode("<start>{prompt} {tools}<translate>[{system}]"))
    np.testing.assert_array_equal(engines["backbone"].calls[0]["embeds"], rows)
    for options in ({"system": "a<stop>b"}, {"prompt": "a<stop>b"}, {"tools": "a<stop>b"}):
        with pytest.raises(UsageError, match="holds '<stop>', a mark of the model's own; write it otherwise"):
            model.stream(**options)
    with pytest.raises(UsageError, match="text: holds '<stop>'"):
        model.stream().ask("a<stop>b")


def test_sound_that_is_too_short_for_the_encoder_is_answered_with_nothing(conversing: Callable) -> None:
    model, engines = conversing()
    stream = model.stream(level="full", gate="off", turns="all")
    stream._work._listener = Deaf(stream._work._listener)
    (final,) = final_texts(list(stream.push(sound_of(CHUNK))) + list(stream.finish()))
    assert (final.text, final.tokens) == ("", ())
    assert all(len(call["logit_rows"]) == 0 for call in engines["backbone"].calls)


def test_a_long_thought_may_be_longer_than_the_answer(conversing: Callable) -> None:
    thinking = Thinking(open=OPEN, close="~", then="\n", usual=True)
    model, _ = conversing(120, thinking=thinking, max_tokens=12)
    events = list(model.stream(level="full", think=9, max_tokens=2).ask("0"))
    assert len(final_texts(events)[0].tokens) == 2
    assert sum(isinstance(event, Thought) and not event.final for event in events) > 2


def test_a_full_context_is_halved_and_not_emptied_turn_by_turn(conversing: Callable) -> None:
    model, _ = conversing(120)
    stream = model.stream(level="full", turns="all")
    forgot = [any(isinstance(event, Forgot) for event in one) for one in turns(stream, 24)]
    assert 0 < sum(forgot) < 24 / 3  # every fourth turn or so, not every one


def test_tools_stand_in_the_opening_and_their_results_are_a_turn(conversing: Callable) -> None:
    model, engines = conversing()
    stream = model.stream(level="full", tools="[]", turns="all")
    list(stream.ask("0"))
    list(stream.ask("1", role="tool"))
    encode, rows = model.tokenizer.encode, model.table.rows
    calls = [call["embeds"] for call in engines["backbone"].calls]
    np.testing.assert_array_equal(calls[0], rows(encode("<start>s<translate>[]")))
    result = rows(encode("<start>t1<stop>"))
    assert any(np.array_equal(call, result) for call in calls)


def test_what_a_bundle_cannot_be_asked_is_refused_in_one_line(conversing: Callable, load: Callable) -> None:
    model, _ = conversing()
    for options, message in [
        ({"turns": -1}, "turns: -1, a whole number, 0 or more, is needed"),
        ({"max_tokens": 0}, "max_tokens: 0, a whole number, 1 or more, is needed"),
        ({"max_tokens": 5}, "max_tokens: 5, this bundle takes 1 to 4"),
        ({"think": True}, "think: this bundle was not made to think"),
        ({"seed": 3}, "seed: 3, nothing is drawn at temperature 0"),
        ({"sampling": {"top_k": 3}}, "top_k: 3, nothing is drawn at temperature 0"),
        ({"sampling": {"temperature": 0, "top_p": 0.5}}, "top_p: 0.5, nothing is drawn at temperature 0"),
        ({"speak": True}, "speak: .* writes and does not speak"),
        ({"voice": "ethan"}, "voice: 'ethan', but nothing is spoken"),
    ]:
        with pytest.raises(UsageError, match=message):
            model.stream(**options)
    with pytest.raises(UsageError, match="role: 'king' is not in this bundle; choose one of: tool, user"):
        model.stream().ask("x", role="king")
    with pytest.raises(UsageError, match="text: takes 103 tokens, there is room for"):
        model.stream().ask("x" * 100)
    with pytest.raises(UsageError, match="this bundle writes down speech and answers no questions"):
        load().stream().ask("x")
    load().stream(think=False)
    with pytest.raises(UsageError, match="turns: 2, this bundle writes down speech and remembers no turns"):
        load().stream(turns=2)
    with pytest.raises(UsageError, match="tools: this bundle was not made to call tools"):
        load("prefix").stream(tools="[]")
    stream = model.stream(gate="off")
    list(stream.push(sound_of(CHUNK)))
    list(stream.finish())
    with pytest.raises(UsageError, match="ask: this stream is finished"):
        list(stream.ask("x"))


def test_a_question_of_ones_own_is_about_any_sound(load: Callable) -> None:
    speech = GateSettings(kind="speech", start=0.5, stop=0.35)
    questions = {"transcribe": Question(prompt="")}
    model = load("prefix", gate=speech)
    protocol = msgspec.structs.replace(model.manifest.protocol, questions=questions)
    for options, kind in [
        ({}, "speech"),
        ({"prompt": "transcribe"}, "speech"),
        ({"prompt": "is glass breaking?"}, "sound"),
        ({"prompt": "is glass breaking?", "gate": "speech"}, "speech"),
        ({"prompt": "is glass breaking?", "gate": "off"}, "off"),
    ]:
        assert gate_settings(speech, StreamOptions(**options), protocol).kind == kind
    off = GateSettings(kind="off", start=0, stop=0)
    assert gate_settings(off, StreamOptions(prompt="is glass breaking?"), protocol) == off
