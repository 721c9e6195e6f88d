"""Partials: text while the user talks, revised as more is heard, and the same final text as without."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import GateSettings
from edgekit.errors import UsageError
from edgekit.runtime.answer.early.drafts import Begun, Draft, Spelling, begins_word
from edgekit.runtime.answer.early.partials import Known, Partial, Partials
from edgekit.runtime.events import Event, SpeechStarted, SpeechStopped, Text
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.streams import CHUNK, PIECE, RATE, run, sound_of

FOUR = 12 * 512  # windows of the gate: four chunks with what they need to hear beyond their end, and not five


def _stream(model: Model, **options: Any) -> Stream:
    """Return a Stream with partials whose clock stands still, so that drafts cost nothing."""
    stream = model.stream(**({"partials": True, "level": "full"} | options))
    stream.measure(clock=lambda: 0.0)
    return stream


def _texts(events: list[Event], *, final: bool) -> list[Text]:
    return [event for event in events if isinstance(event, Text) and event.final == final]


def _drafts(stream: Stream) -> int:
    return sum(span.name == "draft" for span in stream.trace.spans)


def test_text_comes_while_the_user_talks_and_each_replaces_the_one_before(load: Callable) -> None:
    model = load()
    for seed in range(8):
        events = list(_stream(model).push(sound_of(FOUR, seed)))
        partials = _texts(events, final=False)
        assert [text.end_s for text in partials] == [CHUNK * chunks / RATE for chunks in (1, 2, 3, 4)]
        assert {text.start_s for text in partials} == {0.0}
        assert _texts(events, final=True) == []
        before = ""
        for text in partials:
            assert text.text
            assert text.stable_text.startswith(before)
            assert not text.revises
            before = text.stable_text
        assert partials[0].stable == 0


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    """Return a place to keep a model for all examples of a test."""
    return {}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 4 * PIECE), max_size=12),
    gate=st.sampled_from(["off", "sound"]),
    lag_ms=st.sampled_from([None, 21.0, 500.0]),
)
def test_any_split_gives_the_same_final_texts_as_without_partials(
    load: Callable, shared: dict[str, Any], cuts: list[int], gate: str, lag_ms: float | None
) -> None:
    model = shared.setdefault("model", None) or load()
    shared["model"] = model
    quiet = np.zeros(12_000, np.float32)
    samples = np.concatenate([quiet, sound_of(PIECE * 2 + 777), quiet, sound_of(3000, seed=1), quiet[:801]])
    parts = np.split(samples, sorted(cuts))
    plain = run(model.stream(gate=gate, level="full"), [samples])
    stream = _stream(model, gate=gate)
    events = [event for part in parts for event in stream.push(part, lag_ms=lag_ms)] + list(stream.finish())
    assert _texts(events, final=True) == _texts(plain, final=True)
    if lag_ms is None:
        assert events == run(_stream(model, gate=gate), [samples])
    assert (_drafts(stream) > 5) == (lag_ms is None)


def test_with_a_real_clock_the_final_texts_are_the_same_too(load: Callable) -> None:
    model = load()
    samples = sound_of(PIECE * 3 + 5)
    plain = _texts(run(model.stream(level="full"), [samples]), final=True)
    assert _texts(run(model.stream(level="full", partials=True), [samples]), final=True) == plain


def test_without_partials_nothing_is_drafted(load: Callable) -> None:
    stream = load().stream(level="full")
    list(stream.push(sound_of(PIECE)))
    assert {span.name for span in stream.trace.spans}.isdisjoint({"draft", "decode"})


def test_drafts_have_spans_of_their_own_and_leave_the_answers_alone(load: Callable) -> None:
    stream = _stream(load())
    list(stream.push(sound_of(FOUR)))
    names = [span.name for span in stream.trace.spans]
    assert names.count("draft") == 4
    assert {"prefill", "decode"}.isdisjoint(names)
    list(stream.finish())
    after = Counter(span.name for span in stream.trace.spans) - Counter(names)
    assert "draft" not in after
    assert "prefill" in after


def test_after_the_end_only_what_changes_is_shown_and_all_of_it_is_stable(load: Callable) -> None:
    model = load()
    shown = [event for event in run(_stream(model), [sound_of(PIECE - 1)]) if isinstance(event, Text)]
    texts = [(text.text, text.stable) for text in shown if not text.final]
    assert all(one != other for one, other in itertools.pairwise(texts))
    assert shown[-1].final
    assert shown[-1].stable == len(shown[-1].text)
    talking = [text for text in shown if text.end_s < (PIECE - 1) / RATE]
    answered = shown[len(talking) : -1]
    for text in answered:
        assert text.stable == len(text.text)
        assert not talking[-1].text.startswith(text.text)
        assert shown[-1].text.startswith(text.text.strip())


def test_an_answer_that_was_shown_already_comes_as_final_only(load: Callable) -> None:
    model = load(protocol=msgspec.structs.replace(load().manifest.protocol, max_tokens=2))
    same = 0
    for seed in range(8):
        stream = _stream(model)
        talking = list(stream.push(sound_of(FOUR, seed)))
        ended = [event for event in stream.finish() if isinstance(event, Text)]
        if _texts(talking, final=False)[-1].text == ended[-1].text:
            same += 1
            assert [text.final for text in ended] == [True]
        else:
            assert [text.final for text in ended][:1] == [False]
    assert 0 < same < 8


def test_each_piece_and_each_utterance_begins_with_a_draft_of_its_own(load: Callable) -> None:
    model = load()
    events = run(_stream(model), [sound_of(PIECE * 2 + 3 * CHUNK)])
    partials = _texts(events, final=False)
    assert {text.start_s for text in partials} == {0.0, 0.4, 0.8}
    for start in (0.0, 0.4, 0.8):
        piece = [text for text in partials if text.start_s == start]
        assert piece[0].stable == 0
        alone = run(_stream(model), [sound_of(PIECE * 2 + 3 * CHUNK)[int(start * RATE) :][: 3 * CHUNK]])
        assert piece[0].text == _texts(alone, final=False)[0].text


def test_neither_pre_roll_nor_a_pause_is_drafted(load: Callable) -> None:
    """The pre-roll is two chunks, and the second needs to hear a little beyond it; a pause does not close the gate."""
    gate = GateSettings(kind="sound", start=9.0, stop=5.0, min_silence_ms=800, pre_roll_ms=160, min_sound_ms=32)
    stream = _stream(load(gate=gate))
    quiet = np.zeros(RATE, np.float32)
    events = list(stream.push(quiet)) + list(stream.push(sound_of(4 * CHUNK)))
    (started,) = (event for event in events if isinstance(event, SpeechStarted))
    assert _texts(events, final=False)[0].end_s == pytest.approx(started.at_s + 3 * CHUNK / RATE)
    while stream.speech_probability >= gate.stop:
        list(stream.push(quiet[:512]))
    list(stream.push(quiet[:CHUNK]))
    before, heard = _drafts(stream), stream.frames_computed
    events = list(stream.push(quiet[: 4 * CHUNK]))
    assert stream.frames_computed >= heard + 3 * 8
    assert not any(isinstance(event, SpeechStopped) for event in events)
    assert _drafts(stream) == before


class Ticking:
    """A clock that a draft moves on by ``cost_s``."""

    def __init__(self, stream: Stream, cost_s: float) -> None:
        self.now, self._stream, self._cost_s = 0.0, stream, cost_s
        stream.measure(clock=self)
        self._partial = stream._answerer.partial
        stream._answerer.partial = self.partial  # type: ignore[method-assign]

    def __call__(self) -> float:
        return self.now

    def partial(self, *arguments: Any) -> tuple[int, ...]:
        """Write a partial, slowly."""
        self.now += self._cost_s
        return self._partial(*arguments)


@pytest.mark.parametrize(("cost_s", "drafts"), [(0.0, 4), (0.02, 4), (0.021, 2), (0.05, 2), (0.09, 1)])
def test_what_is_dear_comes_less_often(load: Callable, cost_s: float, drafts: int) -> None:
    stream = _stream(load())
    Ticking(stream, cost_s)
    list(stream.push(sound_of(FOUR)))  # a quarter of a chunk's 80 ms are 20 ms
    assert _drafts(stream) == drafts


def test_a_draft_does_not_change_the_level_nor_its_cost(load: Callable) -> None:
    model = load(protocol=load().manifest.protocol)
    stream = _stream(model, level=None)
    events = list(stream.push(sound_of(FOUR)))
    assert stream.level.name == "full"
    assert stream._work.levels._costs["answer"].ms == {}
    assert len(_texts(events, final=False)) == 4


def test_a_prefix_model_writes_no_drafts(load: Callable) -> None:
    with pytest.raises(
        UsageError, match="partials: tiny writes nothing before an utterance is over: it answers what it hears"
    ):
        _stream(load("prefix"))


def test_a_multilingual_model_may_change_its_mind_about_the_language(load: Callable) -> None:
    plain = load()
    languages = {f"l{token}": token for token in range(60)}  # any tokens do: the likeliest is taken
    model = load(protocol=msgspec.structs.replace(plain.manifest.protocol, languages=languages))
    changed = 0
    for seed in range(6):
        parts = np.array_split(sound_of(PIECE - 1, seed), 5)
        stream, prompts = _stream(model), set()
        events = []
        for part in parts:
            events += list(stream.push(part))
            prompts.add(tuple(stream._answerer._prompt))
        changed += len(prompts) > 2  # none before the first draft
        plain_events = run(model.stream(level="full"), parts)
        assert _texts(events + list(stream.finish()), final=True) == _texts(plain_events, final=True)
    assert changed


def test_a_loop_is_left_out_of_a_draft_too(load: Callable) -> None:
    plain = load()
    (final,) = _texts(run(plain.stream(level="full"), [sound_of(PIECE)]), final=True)
    others = tuple(token for token in range(plain.table.vocabulary) if token != final.tokens[0] and token != 256)
    babbling = msgspec.structs.replace(plain.manifest.protocol, suppress=others, max_tokens=40, max_repeats=3)
    stream = _stream(load(protocol=babbling))
    events = run(stream, [sound_of(PIECE - 1)])
    word = plain.tokenizer.decode(final.tokens[:1]).strip()
    assert _texts(events, final=True)[0].text == word


class Words:
    """A Tokenizer of whole words, with their spaces: a token is a place in the list."""

    texts = (" no", " one", " here", ".", " is", " mail", "box", " eins", "\ufffd")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return "".join(self.texts[token] for token in tokens)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of words."""
        return tuple(self.texts.index(word) for word in re.findall(r" mail|box| ?\w+|\.|\ufffd", text))


def drafts(kind: Any = "agreed", max_repeats: int | None = None) -> Partials:
    """Return Partials of an utterance in which somebody always speaks."""
    partials = Partials(RATE, CHUNK, Words(), max_repeats, kind)  # type: ignore[arg-type]
    partials.open(0)
    partials.hear(0, 10**9)
    return partials


def draft(text: str, *margins: float, end: float = 4.0, hidden: int = 0) -> Draft:
    """Return a Draft whose first tokens lead by so much, the others by as much as can be."""
    tokens = Words().tokens(text)
    return Draft(tokens, (*margins, *[4.0] * (len(tokens) - len(margins))), end, hidden)


def test_a_word_stands_once_it_is_certain_and_another_follows_it() -> None:
    shown = drafts()
    written = [shown.write(draft(text), at) for at, text in enumerate(["", " no", " no one", " no one", " no one is"])]
    assert written == [None, Partial("no", 0), Partial("no one", 2), None, Partial("no one is", 6)]
    shown.open(9)
    assert shown.write(draft(" here"), 10) == Partial("here", 0)


def test_what_stands_stays_though_a_later_draft_is_shorter() -> None:
    shown = drafts()
    shown.write(draft(" no one is here"), 1)
    assert shown.write(draft(" no one is"), 2) == Partial("no one is", 9)


@pytest.mark.parametrize(
    ("first", "second", "stable"),
    [
        (0.9, None, 0),
        (1.0, None, 2),
        (0.9, 0.9, 2),  # it did not change
        (0.8, 0.6, 0),  # 0.6 - 3 * 0.2
        (0.5, 0.45, 2),
        (0.05, 0.05, 0),
    ],
)
def test_a_word_that_is_less_certain_stands_if_its_lead_is_steady(
    first: float, second: float | None, stable: int
) -> None:
    shown = drafts()
    shown.write(draft(" no one", first), 1)
    if second is not None:
        shown.write(draft(" no one is", second), 2)
    assert len(shown.stable) >= stable
    assert (len(shown.stable) > 0) == (stable > 0)


def test_nothing_stands_behind_a_word_that_may_change() -> None:
    shown = drafts()
    assert shown.write(draft(" no one is here", 4.0, 0.5), 1) == Partial("no one is here", 2)


def test_a_word_of_which_a_part_may_change_does_not_stand() -> None:
    shown = drafts()
    assert shown.write(draft(" no mailbox", 4.0, 4.0, 0.1), 1) == Partial("no mailbox", 2)
    assert shown.write(draft(" no mailbox is"), 2) == Partial("no mailbox is", 10)


def test_a_mark_behind_a_word_stands_when_a_word_follows() -> None:
    shown = drafts()
    assert shown.write(draft(" no one."), 1) == Partial("no one.", 2)
    assert shown.write(draft(" no one. is", 4.0, 4.0, 0.3), 2) == Partial("no one. is", 6)
    assert shown.write(draft(" no one. is"), 3) == Partial("no one. is", 7)


def test_the_last_word_stands_in_a_pause_where_the_model_ends() -> None:
    for silent_s, end, stable in ((0.2, 4.0, 6), (0.19, 4.0, 2), (0.2, 0.9, 2), (0.2, -math.inf, 2)):
        shown = drafts()
        shown._voice = (0, RATE)
        assert shown.write(draft(" no one", end=end), round((1 + silent_s) * RATE)) == Partial("no one", stable)


def test_another_language_takes_back_what_stood_by_name() -> None:
    shown = drafts()
    shown.write(draft(" no one is"), 1)
    assert shown.write(draft(" no eins is"), 2) == Partial("no eins is", 7, "one")
    assert shown.write(draft(" here"), 3) == Partial("here", 0, "no eins")


def test_words_of_the_answer_before_are_neither_shown_nor_stand() -> None:
    shown = drafts("committed")
    assert shown.write(draft(" no one is here", hidden=2), 1) == Partial("is here", 2)
    assert shown.known == Known("is here", "is", True, Begun(Words().tokens(" no one is"), 2))


def test_what_stood_is_no_part_of_a_loop_that_is_left_out() -> None:
    shown = drafts(max_repeats=3)
    shown.write(draft(" one" * 5), 1)
    assert shown.stable == "one one one one"
    assert shown.write(draft(" one" * 12), 2) == Partial("one one one one", 15)


def test_where_the_sound_may_go_to_two_answers_nothing_more_stands() -> None:
    shown = drafts()
    shown.write(draft(" no one"), 1)
    assert shown.write(draft(" no one is here"), 2, grows=False) == Partial("no one is here", 2)


def test_half_a_character_does_not_stand() -> None:
    shown = drafts()
    assert shown.write(draft(" no one\ufffd"), 1) == Partial("no one", 2)


@pytest.mark.parametrize(
    ("text", "rest", "begins"),
    [
        ("no", " one", True), ("no", "body", False), ("no", ", one", True), ("3", ".5", False), ("re", "-do", False),
        ("it", "'s", False), ("no", "", True), ("no", "...", True), ("你", "好", True), ("ok", "好", True),
        ("你", "ok", True), ("你", "。好", True), ("no ", "one", True),
    ],
)  # fmt: skip
def test_where_a_word_ends(text: str, rest: str, begins: bool) -> None:
    assert begins_word(text, rest) == begins


def test_texts_that_are_heard_alike_are_one_word() -> None:
    tokens = [" No", " no", "no", ".", ",", "", "\ufffd", " one"]
    spelling = Spelling(lambda chosen: "".join(tokens[one] for one in chosen))
    alike = [[spelling(one) == spelling(other) for other in range(8)] for one in range(8)]
    assert [sum(row) for row in alike] == [2, 2, 1, 2, 2, 1, 1, 1]


def test_a_draft_is_due_where_there_is_voice_that_the_last_one_did_not_know() -> None:
    drafts = Partials(RATE, CHUNK, Words())  # type: ignore[arg-type]
    drafts.open(1000)
    assert not drafts.due(2000, 0.0)
    drafts.hear(2000, 2500)
    assert [drafts.due(end, 0.0) for end in (2000, 2001, 4000)] == [False, True, True]
    drafts.write(draft(" no"), 2200)  # the rest of the window is still to be drafted
    assert drafts.due(3000, 0.0)
    drafts.write(draft(" no"), 2500)
    assert not drafts.due(9000, 0.0)
    drafts.hear(5000, 5500)
    assert [drafts.due(end, 0.0) for end in (5000, 5001)] == [False, True]


def test_a_draft_may_add_what_is_said_in_the_time_since_the_last() -> None:
    drafts = Partials(RATE, CHUNK, Words())  # type: ignore[arg-type]
    drafts.open(1000)
    assert [drafts.max_steps(1000 + samples) for samples in (0, 1, 2000, 2001, RATE)] == [0, 1, 1, 2, 8]
