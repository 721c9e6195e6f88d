"""The end of speech in two steps: shown before it is sure, confirmed as it was shown, or withdrawn without residue."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle import GateSettings, Sampling, Thinking
from edgekit.errors import UsageError
from edgekit.runtime.events import (
    Audio,
    AudioEnded,
    Event,
    Interrupted,
    Lag,
    Provisional,
    SpeechStopped,
    Text,
    Thought,
    Withdrawn,
)
from edgekit.runtime.hear.ending import EndingRule
from edgekit.runtime.hear.gate import Gate
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.dictation import Piece, Written, dictate, dictating, in_segments, speech
from tests.runtime.streams import KINDS, PIECE, RATE, Loudest, final_texts, sound_of
from tests.runtime.test_rollback import carrying
from tests.runtime.voices import ReadingSpeech, conversing, reading, sound_in, speaking

WINDOW = 320  # samples: a block of the resampler, and a twentieth of the tiny grid's longest piece
# One window of sound opens the gate, eight of silence close it. A pause is three, and shown after two more, since no
# text of these bundles ends a sentence but by chance.
GATE = GateSettings(start=0.05, stop=0.02, min_sound_ms=20, min_silence_ms=160, pre_roll_ms=40)
RULE = EndingRule(pause_ms=60, open_ms=40, doubt=1.0, fall_db=0.0, patience=0.0)
EARLIER = msgspec.structs.replace(GATE, min_silence_ms=60)  # closes where the other one pauses
WARM = Sampling(temperature=1.5, repetition_penalty=1.2)
THINKING = Thinking(open="<de>", close="<en>", then="~", usual=True)
_MODELS: dict[str, Model] = {}


@pytest.fixture(autouse=True)
def voice() -> Iterator[None]:
    """Let bundles speak as the toy does."""
    with reading():
        yield


def stream_of(model: Model, rule: EndingRule | None = RULE, gate: GateSettings = GATE, **options: Any) -> Stream:
    """Return a stream with a gate that can be steered, and a clock that stands still."""
    return steered(model.stream(**{"level": "full", "gate": "sound"} | options), rule, gate)


def steered(stream: Stream, rule: EndingRule | None = RULE, gate: GateSettings = GATE) -> Stream:
    """Let a stream pause, and its gate and clock be steered."""
    stream._gate = Gate(gate, RATE, Loudest(WINDOW), rule=rule)
    stream._work._pause._rule = rule or RULE
    stream.measure(clock=lambda: 0.0)
    return stream


def said(script: str, seed: int = 0) -> np.ndarray:
    """Return sound of one window a letter: ``#`` sounds, ``.`` does not."""
    sound = sound_of(40_000, seed)[: len(script) * WINDOW]  # the same whatever follows
    loud = np.repeat([letter == "#" for letter in script], WINDOW)
    sound[::WINDOW] = 0.4  # in each window one sample that surely sounds
    return np.where(loud, sound, sound * 0.01).astype(np.float32)


def kept(load: Callable, kind: str) -> Model:
    """Return the model of a kind, loaded once: hypothesis comes again and again."""
    if kind not in _MODELS:
        thought: dict[str, Any] = {"thinking": THINKING} if "thought" in kind else {}
        if kind.startswith("spoken"):
            _MODELS[kind] = speaking(load, said=ReadingSpeech(temperature=1.3), **thought)
        elif kind in ("written", "thought"):
            _MODELS[kind] = conversing(load, **thought)
        else:
            attention, fields = KINDS[int(kind)]
            _MODELS[kind] = load(attention, **fields, context_tokens=120)
    return _MODELS[kind]


ALL_KINDS = ["0", "1", "2", "written", "thought", "spoken", "spoken after a thought"]


def options_of(kind: str, *, draws: bool, partials: bool = False) -> dict[str, Any]:
    options: dict[str, Any] = {"sampling": WARM} if draws else {}
    if draws:
        options["seed"] = 3
    if kind == "0":
        return options | {"partials": partials}
    if kind in ("1", "2"):
        return options
    return options | {"turns": "all", "speak": "spoken" in kind, "think": 4 if "thought" in kind else None}


def account(stream: Stream) -> None:
    received = stream.samples_heard + stream.samples_gated + stream.samples_waiting + stream.samples_abandoned
    assert stream.samples_received == received
    assert stream.samples_waiting >= 0


def run(stream: Stream, sound: np.ndarray, cuts: list[int], reads: list[int]) -> list[Event]:
    """Push a sound in parts; after each do so many steps, or all where it is negative. Balance the account always."""
    events: list[Event] = []
    for index, part in enumerate(np.split(sound, sorted(cut for cut in cuts if cut < len(sound)))):
        stream.push(part)
        account(stream)
        steps = reads[index % len(reads)]
        while stream.pending and steps:
            events += stream.step()
            account(stream)
            steps -= 1
    stream.finish()
    while stream.pending:
        events += stream.step()
        account(stream)
    assert stream.samples_waiting == 0
    return events


def in_windows(stream: Stream, sound: np.ndarray) -> list[Event]:
    """Push window by window, and read everything at once."""
    return run(stream, sound, list(range(WINDOW, len(sound), WINDOW)), [-1])


def shown(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, (Provisional, Withdrawn))]


def comparable(events: list[Event]) -> list[object]:
    """Return all other events in a form that can be compared, bit for bit, but for when the end became known."""
    return [
        (one.answer, one.samples.tobytes())
        if isinstance(one, Audio)
        else dataclasses.replace(one, decided_at_s=0.0)
        if isinstance(one, SpeechStopped)
        else one
        for one in events
        if not isinstance(one, (Provisional, Withdrawn))
    ]


SCRIPTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5)
CUTS = st.lists(st.integers(1, 20_000), max_size=30)
READS = st.lists(st.sampled_from([-1, 0, 1, 2, 5]), min_size=1, max_size=5)
PROPERTY: dict[str, Any] = {
    "deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture],
}  # fmt: skip


def as_script(parts: list[tuple[int, int]]) -> str:
    return "".join("#" * loud + "." * silent for loud, silent in parts)


@settings(max_examples=120, **PROPERTY)
@given(
    kind=st.sampled_from(ALL_KINDS), draws=st.booleans(), partials=st.booleans(), cuts=CUTS, reads=READS,
    parts=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 7)), min_size=1, max_size=5),
)  # fmt: skip
def test_what_was_withdrawn_leaves_no_residue(
    load: Callable, *, kind: str, draws: bool, partials: bool, cuts: list[int], reads: list[int],
    parts: list[tuple[int, int]],
) -> None:  # fmt: skip
    model, options = kept(load, kind), options_of(kind, draws=draws, partials=partials)
    sound = said(as_script(parts) + "#")  # it ends in sound: no pause is an end
    never = in_windows(stream_of(model, None, **options), sound)
    stream = stream_of(model, **options)
    events = run(stream, sound, cuts, reads)
    assert comparable(events) == comparable(never)
    pairs = shown(events)
    assert [type(event) for event in pairs] == [Provisional, Withdrawn] * (len(pairs) // 2)
    always = in_windows(stream_of(model, **options), sound)
    assert comparable(always) == comparable(never)


@settings(max_examples=120, **PROPERTY)
@given(
    kind=st.sampled_from(ALL_KINDS), draws=st.booleans(), cuts=CUTS, reads=READS,
    parts=st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 12).filter(lambda silent: silent < 3 or silent > 7)),
        min_size=1, max_size=5,
    ),
)  # fmt: skip
def test_a_confirmed_end_is_that_of_a_gate_that_closes_there(
    load: Callable, *, kind: str, draws: bool, cuts: list[int], reads: list[int], parts: list[tuple[int, int]]
) -> None:
    model, options = kept(load, kind), options_of(kind, draws=draws)
    sound = said(as_script(parts))
    closing = in_windows(stream_of(model, None, EARLIER, **options), sound)
    assert comparable(run(stream_of(model, **options), sound, cuts, reads)) == comparable(closing)


@settings(max_examples=100, **PROPERTY)
@given(
    kind=st.sampled_from(ALL_KINDS),
    draws=st.booleans(),
    partials=st.booleans(),
    cuts=CUTS,
    reads=READS,
    parts=SCRIPTS,
)
def test_every_split_and_habit_of_reading_gives_the_same_events_and_what_was_shown_is_confirmed_or_withdrawn(
    load: Callable, *, kind: str, draws: bool, partials: bool, cuts: list[int], reads: list[int],
    parts: list[tuple[int, int]],
) -> None:  # fmt: skip
    model, options = kept(load, kind), options_of(kind, draws=draws, partials=partials)
    sound = said(as_script(parts))
    whole = in_windows(stream_of(model, **options), sound)
    events = run(stream_of(model, **options), sound, cuts, reads)
    assert comparable(events) == comparable(whole)
    for one in (whole, events):
        assert_in_order(one)
    # Who reads at once is shown every pause, whatever the parts are, if none spans one and its end.
    small = run(stream_of(model, **options), sound, sorted({*range(91, len(sound), 291), *cuts}), [-1])
    assert [repr(event) for event in shown(small)] == [repr(event) for event in shown(whole)]


def assert_in_order(events: list[Event]) -> None:
    """What is shown is confirmed by the same text, or withdrawn; nothing else of an answer comes before its end."""
    open_one: Provisional | None = None
    finals = 0
    for index, event in enumerate(events):
        match event:
            case Provisional():
                assert open_one is None
                assert event.text
                open_one = event
            case Withdrawn():
                assert open_one is not None
                assert event.answer == open_one.answer
                open_one = None
            case SpeechStopped() if open_one is not None:
                assert event.at_s == open_one.at_s
                assert event.decided_at_s >= open_one.decided_at_s  # the same where the input ends
                text = next(one for one in events[index:] if isinstance(one, Text) and one.final)
                assert (text.text, text.tokens, text.answer) == (open_one.text, open_one.tokens, open_one.answer)
                assert (text.start_s, text.end_s) == (open_one.start_s, open_one.at_s)
                open_one = None
            case Text(final=True) | Audio() | Thought():
                assert open_one is None
                finals += isinstance(event, Text)
            case _:
                pass
    assert open_one is None
    assert finals == len(final_texts(events))


# By hand


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("silent", "expected"),
    [(0, ""), (1, ""), (2, ""), (3, ""), (4, ""), (5, "PW"), (6, "PW"), (7, "PW"), (8, "P"), (9, "P")],
)
def test_it_is_shown_once_the_silence_is_long_enough(load: Callable, kind: str, silent: int, expected: str) -> None:
    stream = stream_of(kept(load, kind), **options_of(kind, draws=False))
    events = in_windows(stream, said("######" + "." * silent + "##"))
    assert "".join(type(event).__name__[0] for event in shown(events)) == expected
    if expected:
        provisional = shown(events)[0]
        assert isinstance(provisional, Provisional)
        assert (provisional.at_s, provisional.decided_at_s) == (0.12, 0.22)  # after 6 and 11 windows
    if expected == "PW":
        assert shown(events)[1] == Withdrawn(1, (6 + silent) * WINDOW / RATE)


class Writing:
    """A tokenizer all of whose tokens are one letter."""

    def __init__(self, tokenizer: Any, letter: str) -> None:
        self._tokenizer, self._letter = tokenizer, letter

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the letter so often."""
        return self._letter * len(tokens)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize(
    ("kind", "letter", "decided_s"),
    [
        ("0", "!", 0.18),  # after three windows
        ("0", "a", 0.22),  # after two more
        ("1", "!", 0.22),  # such a model answers, and the sentence is its own
    ],
)
def test_a_text_that_ends_a_sentence_is_shown_as_soon_as_the_pause_begins(
    load: Callable, kind: str, letter: str, decided_s: float
) -> None:
    model = kept(load, kind)
    model = dataclasses.replace(model, tokenizer=Writing(model.tokenizer, letter))  # type: ignore[arg-type]
    (event,) = shown(in_windows(stream_of(model), said("######.........")))
    assert isinstance(event, Provisional)
    assert event.decided_at_s == decided_s


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_at_whichever_step_speech_goes_on_nothing_of_the_pause_is_left(load: Callable, kind: str) -> None:
    model, options = kept(load, kind), options_of(kind, draws=True)
    before, after = said("########....."), said("####........", seed=1)
    never = comparable(in_windows(stream_of(model, None, **options), np.concatenate([before, after[: 4 * WINDOW]])))
    steps, all_steps = 0, False
    while not all_steps:
        stream = stream_of(model, **options)
        stream.push(before[: 10 * WINDOW])
        events = [*stream.events()]
        stream.push(before[10 * WINDOW :])
        for _ in range(steps):
            events += stream.step()
        all_steps = not stream.pending
        stream.push(after[: 4 * WINDOW])
        computed = stream.frames_computed
        events += stream.step()
        assert stream.frames_computed == computed or steps == 0 or all_steps  # no more work goes into what is over
        events += [*stream.events(), *stream.finish()]
        assert comparable(events) == never
        steps += 1
    assert steps > 3


def test_the_work_of_a_confirmed_end_is_done_before(load: Callable) -> None:
    stream = stream_of(kept(load, "0"))
    events = in_windows_open(stream, said("########......."))
    assert not stream.pending
    assert isinstance(events[-1], Provisional)
    frames, before = stream.frames_computed, len(stream._work_trace.spans)
    events = list(stream.push(said(".")))
    assert final_texts(events)
    assert len(stream._work_trace.spans) == before
    assert stream.frames_computed == frames
    assert not stream.talking


def in_windows_open(stream: Stream, sound: np.ndarray) -> list[Event]:
    """Push window by window, read everything at once, and do not finish."""
    return [event for part in np.split(sound, range(WINDOW, len(sound), WINDOW)) for event in stream.push(part)]


def test_the_user_talks_until_the_end_is_confirmed_and_nothing_is_being_answered(load: Callable) -> None:
    stream = stream_of(kept(load, "spoken"), **options_of("spoken", draws=False))
    events = in_windows_open(stream, said("########.."))
    stream.push(said("."))
    while stream.pending:
        assert stream.answering is None
        events += stream.step()
    events += in_windows_open(stream, said("...."))
    assert any(isinstance(event, Provisional) for event in events)
    assert not any(isinstance(event, (Audio, Text, SpeechStopped)) for event in events)
    assert stream.talking
    assert stream.answering is None
    stream.push(said("."))
    assert not stream.talking
    assert isinstance(next(stream.events()), SpeechStopped)
    assert list(stream.events())
    stream.close()


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("loud", [16, 17, 18, 19, 20, 37])  # a piece is twenty windows: the pause is three of them
def test_a_pause_may_be_where_a_piece_is_full(load: Callable, kind: str, loud: int) -> None:
    model, options = kept(load, kind), options_of(kind, draws=False)
    assert PIECE == 20 * WINDOW
    script = "#" * loud
    plain = in_windows(stream_of(model, None, EARLIER, **options), said(script + "........"))
    events = in_windows(stream_of(model, **options), said(script + "........"))
    assert comparable(events) == comparable(plain)
    assert_in_order(events)
    never = in_windows(stream_of(model, None, **options), said(script + ".......##"))
    events = in_windows(stream_of(model, **options), said(script + ".......##"))
    assert comparable(events) == comparable(never)


def ends_twice(model: Model, script: str) -> bool:
    """Return whether a gate that closes in the pause has more than one answer made after that."""
    events = in_windows(stream_of(model, None, EARLIER), said(script))
    stopped = next(at for at, event in enumerate(events) if isinstance(event, SpeechStopped))
    return len(final_texts(events[stopped:])) > 1


def assert_waits(make: Callable[[EndingRule | None, GateSettings], Stream], script: str) -> None:
    """A pause whose answer cannot be taken back as a whole is confirmed or withdrawn as any other."""
    ends, goes_on = said(script + "........"), said(script + ".......##")
    assert comparable(in_windows(make(RULE, GATE), ends)) == comparable(in_windows(make(None, EARLIER), ends))
    assert comparable(in_windows(make(RULE, GATE), goes_on)) == comparable(in_windows(make(None, GATE), goes_on))
    stream = make(RULE, GATE)
    in_windows_open(stream, goes_on[: -3 * WINDOW])
    assert not stream.pending
    stream.close()


@pytest.mark.parametrize(("context", "loud"), [(14, 5), (16, 9), (17, 9), (20, 9)])
def test_where_the_context_is_full_at_the_end_the_next_answer_waits_until_it_is_confirmed(
    load: Callable, context: int, loud: int
) -> None:
    plain = kept(load, "1").manifest.protocol
    protocol = msgspec.structs.replace(plain, max_tokens=4, context_tokens=context)
    model = load("prefix", protocol=protocol, context_tokens=context)
    assert ends_twice(model, "#" * loud + "........")
    assert_waits(lambda rule, gate: stream_of(model, rule, gate), "#" * loud)


def test_where_the_end_is_to_be_heard_again_that_waits_until_it_is_confirmed(load: Callable) -> None:
    """The model repeats itself: what its answer leaves of the last piece has another."""

    def writes(piece: Piece) -> Written:
        if piece.number:
            return in_segments(piece)
        whole = in_segments(Piece(**{**vars(piece), "words": piece.words[:2]}))
        return whole + [("zz", 0.9)] * 12

    model = dictating(load, resumes=False, aligns=True)

    def make(rule: EndingRule | None, gate: GateSettings) -> Stream:
        return steered(dictate(model, speech(4.0), writes, gate="sound").stream, rule, gate)

    assert_waits(make, "#" * 100)
    stream = make(RULE, GATE)
    events = in_windows_open(stream, said("#" * 100 + "......."))
    assert isinstance(events[-1], Provisional)
    assert stream.samples_heard_again == 0
    events = in_windows_open(stream, said("."))
    assert len(final_texts(events)) == 2
    assert stream.samples_heard_again > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_state_that_an_encoder_carries_goes_back_with_a_pause(
    tiny_bundle: Callable, attention: str, dtype: str
) -> None:
    model = carrying(tiny_bundle(attention, context_tokens=120), dtype)
    sound = said("#########.....###......##...#")
    never = in_windows(stream_of(model, None), sound)
    events = in_windows(stream_of(model), sound)
    assert len(shown(events)) == 4
    assert comparable(events) == comparable(never)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("silent", [3, 5, 7])
def test_finishing_in_a_pause_confirms_it(load: Callable, kind: str, silent: int) -> None:
    model, options = kept(load, kind), options_of(kind, draws=False)
    plain = in_windows(stream_of(model, None, EARLIER, **options), said("########..."))
    stream = stream_of(model, **options)
    events = in_windows_open(stream, said("########" + "." * silent))
    assert stream.samples_waiting == (silent - 3) * WINDOW
    events += stream.finish()
    assert comparable(events) == comparable(plain)
    assert stream.done
    assert stream.samples_gated == (silent - 3) * WINDOW
    account(stream)


@pytest.mark.parametrize("steps", [0, 1, 3, 1000])
def test_closing_in_a_pause_drops_its_work(load: Callable, steps: int) -> None:
    stream = stream_of(kept(load, "spoken"), **options_of("spoken", draws=False))
    stream.push(said("########....."))
    for _ in range(steps):
        stream.step()
    stream.close()
    assert not stream.pending
    assert stream.done
    assert stream.samples_abandoned > 0
    account(stream)


@pytest.mark.parametrize("kind", ["written", "spoken", "spoken after a thought"])
@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_an_answer_is_whole_before_an_interruption_in_its_pause_counts(load: Callable, kind: str, steps: int) -> None:
    stream = stream_of(kept(load, kind), **options_of(kind, draws=False))
    stream.push(said("########......"))
    events = [event for _ in range(steps + 10) for event in stream.step()]  # ten and a few go into what is heard
    assert stream.answering is None
    stream.interrupt(1)
    events += [*stream.events(), *stream.push(said("..")), *stream.finish()]
    assert_in_order(events)
    (provisional,) = shown(events)
    (final,) = final_texts(events)
    assert isinstance(provisional, Provisional)
    assert final.text == provisional.text
    assert isinstance(events[-1], Interrupted)


@pytest.mark.parametrize("kind", ["written", "spoken", "spoken after a thought"])
def test_an_interruption_in_a_pause_waits_for_its_end(load: Callable, kind: str) -> None:
    model, options = kept(load, kind), options_of(kind, draws=False)
    for goes_on in (False, True):
        stream = stream_of(model, **options)
        events = in_windows_open(stream, said("########......"))
        (provisional,) = shown(events)
        assert isinstance(provisional, Provisional)
        stream.interrupt(provisional.answer, 0.0)
        assert not stream.pending  # nobody would come to an end
        events += in_windows_open(stream, said("##......." if goes_on else ".."))
        interrupted = [event for event in events if isinstance(event, Interrupted)]
        if goes_on:  # it was of an answer that never was
            assert interrupted == []
            events += stream.push(said("."))
            assert final_texts(events)
        else:
            assert [event.answer for event in interrupted] == [1]
            assert isinstance(events[-1], Interrupted)
        with stream:
            assert list(stream.ask("0"))


@pytest.mark.parametrize("kind", ["written", "thought", "spoken"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_question_in_a_pause_is_answered_after_what_the_user_says(
    load: Callable, kind: str, *, goes_on: bool
) -> None:
    model, options = kept(load, kind), options_of(kind, draws=True)
    events: list[list[Event]] = []
    sound, asked = said("########....." + ("##" if goes_on else "...")), 13 * WINDOW
    for gate, rule in ((GATE, RULE), (GATE if goes_on else EARLIER, None)):
        stream = stream_of(model, rule, gate, **options)
        at = 10 * WINDOW if gate == EARLIER else asked  # while the user still talks
        made = [*in_windows_open(stream, sound[:at]), *stream.ask("0")]
        assert not final_texts(made)
        events.append([*made, *in_windows_open(stream, sound[at:]), *stream.finish()])
    early, plain = events
    assert [text.answer for text in final_texts(early)] == [1, 2]
    if goes_on:
        assert comparable(early) == comparable(plain)
    else:
        assert [text.tokens for text in final_texts(early)] == [text.tokens for text in final_texts(plain)]
        assert final_texts(early)[1].start_s == asked / RATE  # when it was asked, though silence was held back


@pytest.mark.parametrize("goes_on", [False, True])
def test_samples_that_are_lost_in_a_pause_move_what_comes_after_it(load: Callable, *, goes_on: bool) -> None:
    model, rest = kept(load, "0"), said("##...." if goes_on else "...")
    made: list[list[Event]] = []
    for rule in (RULE, None):
        stream = stream_of(model, rule)
        events = in_windows_open(stream, said("########....."))
        events += stream.push(rest, dropped_samples=1600)
        account(stream)
        made.append(events + list(stream.finish()))
    (early, _) = made
    assert [event for event in early if isinstance(event, Lag)] == [Lag(1600, 0.26)]
    stops = [[event for event in events if isinstance(event, SpeechStopped)] for events in made]
    assert stops[0] == stops[1]
    if goes_on:
        assert [event for event in early if isinstance(event, Withdrawn)] == [Withdrawn(1, 0.36)]
    else:
        (text,) = final_texts(early)
        assert text.end_s == 0.16


def test_no_more_sound_is_made_ahead_than_is_worth_it(load: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = kept(load, "spoken"), options_of("spoken", draws=False)
    plain = in_windows(stream_of(model, None, EARLIER, **options), said("########........"))
    whole_s = len(sound_in(plain)) / 24_000
    monkeypatch.setattr("edgekit.runtime.answer.early.provisional.MOST_SOUND_S", whole_s / 3)
    stream = stream_of(model, **options)
    events = in_windows_open(stream, said("########......."))
    assert not stream.pending
    made = stream._work._pause._made
    assert made is not None
    assert whole_s / 3 <= made.sound_s < whole_s
    events += in_windows_open(stream, said("."))
    assert comparable(events) == comparable(plain)


def test_a_text_is_shown_before_its_sound_is_made(load: Callable) -> None:
    model, options = kept(load, "spoken"), options_of("spoken", draws=False)
    whole = sound_in(in_windows(stream_of(model, None, EARLIER, **options), said("########........")))
    stream = stream_of(model, **options)
    stream.push(said("########......."))  # all of the pause waits
    events: list[Event] = []
    while not events or not isinstance(events[-1], Provisional):
        events += stream.step()
    assert stream._work._pause._made is not None
    assert stream._work._pause._made.sound_s < len(whole) / 24_000 - 1e-6  # some comes while the text is written
    assert stream.pending
    stream.close()


@pytest.mark.parametrize("hushed_after", [0, 3, 1000])
def test_a_voice_that_is_hushed_in_a_pause_is_not_heard_after_it(load: Callable, hushed_after: int) -> None:
    stream = stream_of(kept(load, "spoken"), **options_of("spoken", draws=False))
    stream.push(said("########......."))
    for _ in range(hushed_after):
        stream.step()
    stream.hushed = True
    events = [*stream.events(), *stream.push(said(".")), *stream.finish()]
    assert final_texts(events)
    assert not any(isinstance(event, (Audio, AudioEnded)) for event in events)


@pytest.mark.parametrize("kind", ["0", "1", "spoken after a thought"])
def test_one_thread_may_take_while_another_works_in_pauses(load: Callable, kind: str) -> None:
    model, options = kept(load, kind), options_of(kind, draws=True)
    sound = said("########.....##......####...##........###.....#.........")
    expected = comparable(in_windows(stream_of(model, **options), sound))
    for _ in range(10):
        stream = stream_of(model, **options)

        def take(stream: Stream = stream) -> None:
            for part in np.split(sound, range(WINDOW, len(sound), WINDOW)):
                stream.push(part)
            stream.finish()

        taker = threading.Thread(target=take)
        taker.start()
        events: list[Event] = []
        while not stream.done:
            events += stream.step()
        taker.join()
        assert comparable(events) == expected
        assert_in_order(events)
        account(stream)


def test_a_gate_that_tells_no_end_or_as_early_a_one_refuses_it(load: Callable) -> None:
    model = load(gate=GateSettings(kind="sound", start=0.1, stop=0.05, min_silence_ms=200))
    with pytest.raises(UsageError, match="^provisional_ms: 200, the gate tells it after 200 ms; choose less"):
        model.stream(provisional_ms=200)
    with pytest.raises(UsageError, match="^provisional_ms: 200, the gate tells no end of speech; choose less"):
        model.stream(provisional_ms=200, gate="off")
    with pytest.raises(UsageError, match="^provisional_ms: 0, a whole number, 1 or more, is needed"):
        model.stream(provisional_ms=0)
    assert model.stream(provisional_ms=199).options.provisional_ms == 199


def test_a_recording_is_heard_with_provisional_ends_too(load: Callable) -> None:
    model = load(gate=GateSettings(kind="sound", start=0.1, stop=0.05, min_silence_ms=300))
    assert model.transcribe(sound_of(RATE), sample_rate_hz=RATE, provisional_ms=100).text
