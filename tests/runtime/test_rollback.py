"""Rollback: mark, anything, back, and the stream goes on bit for bit as if nothing had been."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.bundle import Sampling, Thinking
from edgekit.runtime.events import Audio, AudioEnded, Event, Interrupted
from edgekit.runtime.hear.gate import Closed, Opened, Sound
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.conftest import MAX_POSITIONS, MEL_BINS, TYPES, WIDTH, Graph, TinyBundle
from tests.runtime.streams import KINDS, PIECE, final_texts, run, sound_of
from tests.runtime.voices import ReadingSpeech, conversing, reading, speaking

WARM = Sampling(temperature=1.5, repetition_penalty=1.2)
THINKING = Thinking(open="<de>", close="<en>", then="~", usual=True)
_MODELS: dict[str, Model] = {}


@pytest.fixture(autouse=True)
def voice() -> Iterator[None]:
    """Let bundles speak as the toy does."""
    with reading():
        yield


def anything(stream: Stream, samples: int, seed: int, *, closes: bool, steps: int, interrupts: bool = False) -> None:
    """Let other sound of the same turn be heard, its end decided perhaps, and some of the answer be written."""
    work = stream._work
    for part in np.array_split(sound_of(samples, seed), 3):
        work.put(Sound(part, sounding=True))
    if closes:
        end = work._piece.end + samples
        work.put(Closed(end, end))
    while work.queue.waits(turn_open=work._turn_open):  # the last of them is begun and not ended
        work.step()
    for _ in range(steps):
        if work._task is not None:
            work.step()
    if interrupts and work._task is not None:
        work.interrupt(work._answer, 0.001)
        work.step()
    work._interruptions.clear()  # they would not go back
    work.made.clear()


def kept(load: Callable, attention: str, fields: dict[str, Any]) -> Model:
    """Return the model of a kind, loaded once: hypothesis comes again and again."""
    name = f"{attention} {fields}"
    if name not in _MODELS:
        _MODELS[name] = load(attention, **fields, context_tokens=120)
    return _MODELS[name]


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    before=st.integers(600, 3000),
    junk=st.integers(0, 2800),
    rest=st.integers(0, 4000),
    closes=st.booleans(),
    steps=st.integers(0, 20),
    draws=st.booleans(),
    partials=st.booleans(),
)
def test_what_goes_on_from_a_mark_is_what_would_have_been(
    load: Callable, *, kind: tuple[str, dict[str, Any]], before: int, junk: int, rest: int, closes: bool, steps: int,
    draws: bool, partials: bool,
) -> None:  # fmt: skip
    model = kept(load, *kind)
    options: dict[str, Any] = {"level": "full", "gate": "off"}
    options |= {"sampling": WARM, "seed": 3} if draws else {}
    options |= {"partials": partials and kind[0] == "cross"}
    first, last = sound_of(before), sound_of(rest, seed=1)
    plain, stream = (model.stream(**options) for _ in range(2))
    for one in (plain, stream):
        one.measure(clock=lambda: 0.0)
    expected = list(plain.push(first)) + list(plain.push(last)) + list(plain.finish())
    events: list[Event] = list(stream.push(first))
    mark = stream.mark()
    frames = stream.frames_computed
    anything(stream, junk, 7, closes=closes, steps=steps)
    stream.back(mark)
    assert stream.frames_computed >= frames  # a measure of work, which was done
    anything(stream, junk // 2, 8, closes=not closes, steps=steps // 2)
    stream.back(mark)  # a mark may serve again
    assert stream.waiting_s == 0
    events += list(stream.push(last)) + list(stream.finish())
    assert events == expected


def test_turns_and_draws_after_a_mark_are_remembered_as_if_nothing_had_been(load: Callable) -> None:
    fields = {"again": "<stop>", "turn": "<start>{role}{text}<stop>", "roles": {"user": "u"}, "max_tokens": 5}
    protocol = msgspec.structs.replace(load("prefix", context_tokens=400).manifest.protocol, **fields)
    model = load("prefix", protocol=protocol)
    said: list[list[Event]] = []
    for disturbs in (False, True):
        stream = model.stream(level="full", turns="all", sampling=WARM, seed=1)
        events = list(stream.ask("a")) + list(stream.push(sound_of(2000)))
        if disturbs:
            mark = stream.mark()
            anything(stream, 1500, 5, closes=True, steps=3)
            stream.back(mark)
        events += list(stream.push(sound_of(2000, seed=2))) + list(stream.finish())
        said.append(events)
    assert said[0] == said[1]


def test_a_mark_dies_with_its_turn(load: Callable) -> None:
    stream = load().stream(level="full", gate="off")
    list(stream.push(sound_of(1000)))
    mark = stream.mark()
    list(stream.push(sound_of(PIECE)))
    with pytest.raises(AssertionError, match="a mark dies with its turn"):
        stream.back(mark)


def test_a_mark_dies_with_its_piece(load: Callable) -> None:
    stream = load("prefix", context_tokens=120).stream(level="full", gate="off")
    list(stream.push(sound_of(PIECE - 1500)))
    mark = stream.mark()
    anything(stream, 1000, 1, closes=True, steps=50)
    stream.back(mark)  # its piece is over, and no other has begun
    anything(stream, 4000, 1, closes=False, steps=50)
    with pytest.raises(AssertionError, match="a mark dies with its piece"):
        stream.back(mark)


def test_a_mark_outlives_the_end_of_its_piece_until_the_next_one_is_encoded(load: Callable) -> None:
    model = load("prefix", context_tokens=120)
    first, rest = sound_of(PIECE - 700), sound_of(600, seed=1)
    expected = run(model.stream(level="full", gate="off"), [first, rest])
    stream = model.stream(level="full", gate="off")
    events = list(stream.push(first))
    mark = stream.mark()
    anything(stream, 800, 1, closes=False, steps=50)
    stream.back(mark)
    assert events + run(stream, [rest]) == expected


def test_partials_go_back_every_time(load: Callable) -> None:
    plain = load(context_tokens=120).manifest.protocol
    model = load(protocol=msgspec.structs.replace(plain, context_tokens=120, max_tokens=60))
    parts = np.split(sound_of(PIECE - 100), [2600, 4000, 5200])
    said: list[list[Event]] = []
    for disturbs in (False, True):
        stream = model.stream(level="full", gate="off", partials=True)
        stream.measure(clock=lambda: 0.0)
        events = list(stream.push(parts[0]))
        mark = stream.mark() if disturbs else None
        for junk in (1500, 3000) if mark else ():
            anything(stream, junk, 3, closes=False, steps=50)
            stream.back(mark)
        events += run(stream, parts[1:])
        said.append(events)
    assert sum(event.kind == "text" for event in said[0]) > 3
    assert said[0] == said[1]


def test_a_mark_is_made_between_items(load: Callable) -> None:
    stream = load().stream(level="full", gate="off")
    stream.push(sound_of(PIECE * 2))
    while stream._work._task is None:
        stream.step()
    with pytest.raises(AssertionError, match="between two items"):
        stream.mark()


# Conversations, voices, thoughts


def conversing_kind(load: Callable, kind: str) -> Model:
    if kind not in _MODELS:
        fields: dict[str, Any] = {"thinking": THINKING} if "thought" in kind else {}
        spoken = ReadingSpeech(temperature=1.3)
        make = speaking(load, said=spoken, **fields) if "spoken" in kind else conversing(load, **fields)
        _MODELS[kind] = make
    return _MODELS[kind]


def plain(mark: Any) -> object:
    """Return all that a mark holds, in a form that can be compared."""
    if isinstance(mark, np.ndarray):
        return mark.dtype.str, mark.shape, mark.tobytes()
    if dataclasses.is_dataclass(mark):
        return {one.name: plain(getattr(mark, one.name)) for one in dataclasses.fields(mark)}
    if isinstance(mark, dict):
        return {name: plain(value) for name, value in mark.items()}
    if isinstance(mark, (list, tuple)):
        return [plain(one) for one in mark]
    return plain(vars(mark)) if hasattr(mark, "role") else mark


@pytest.mark.parametrize("kind", ["cross", "written", "thought", "spoken"])
def test_after_going_back_a_mark_is_as_the_one_before(load: Callable, kind: str) -> None:
    """What no later event would show is held here: another mark holds the same."""
    model = load(context_tokens=120) if kind == "cross" else conversing_kind(load, kind)
    options: dict[str, Any] = {"partials": True} if kind == "cross" else {"turns": "all", "speak": kind == "spoken"}
    stream = model.stream(level="full", gate="off", sampling=WARM, **options)
    stream.measure(clock=lambda: 0.0)
    for sound in (sound_of(700), sound_of(2500, seed=1), sound_of(2800, seed=2)):
        list(stream.push(sound))
        mark = stream.mark()
        before = plain(dataclasses.replace(mark, listener=dataclasses.replace(mark.listener, piece=0)))
        for closes, steps in ((False, 3), (True, 0), (True, 4), (True, 1000)):
            anything(stream, min(2500, stream._listener.room_samples), 5, closes=closes, steps=steps)
            stream.back(mark)
            again = stream.mark()
            assert plain(dataclasses.replace(again, listener=dataclasses.replace(again.listener, piece=0))) == before
            stream.back(mark)
    if kind != "cross":  # beyond the piece's last sample, and nothing of the next is encoded yet
        anything(stream, stream._listener.room_samples + 300, 5, closes=False, steps=1000)
        stream.back(mark)
        assert plain(stream.mark()) == plain(mark)


def comparable(events: list[Event]) -> list[object]:
    """Return events that can be compared, bit for bit."""
    return [(one.answer, one.samples.tobytes()) if isinstance(one, Audio) else one for one in events]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["written", "thought", "spoken", "spoken after a thought"]),
    turns=st.sampled_from([0, 1, "all"]),
    script=st.lists(st.sampled_from(["hear", "ask", "pause"]), min_size=2, max_size=6),
    junk=st.lists(st.tuples(st.integers(1, 2500), st.booleans(), st.integers(0, 40), st.booleans()), max_size=6),
)
def test_a_conversation_goes_on_as_if_nothing_had_been_after_several_marks(
    load: Callable, kind: str, turns: Any, script: list[str], junk: list[tuple[int, bool, int, bool]]
) -> None:
    model = conversing_kind(load, kind)
    said: list[list[object]] = []
    for disturbs in (False, True):
        stream = model.stream(
            level="full", gate="sound", turns=turns, seed=2, sampling=WARM, speak="spoken" in kind,
            think=4 if "thought" in kind else None,
        )  # fmt: skip
        stream.measure(clock=lambda: 0.0)
        events: list[Event] = []
        for at, act in enumerate(script):
            match act:
                case "hear":
                    events += stream.push(sound_of(3000, seed=at))
                case "ask":
                    events += stream.ask(str(at))
                case _:
                    events += stream.push(np.zeros(14_000, np.float32))
            disturbance = junk[at : at + 1] if disturbs and stream._work._turn_open else []
            for wanted, closes, steps, interrupts in disturbance:
                samples = min(wanted, stream._listener.room_samples // 2)  # a mark dies with its piece
                first = stream.mark()
                anything(stream, samples, at, closes=False, steps=steps)
                stream.back(first)
                anything(stream, samples // 3, at + 50, closes=False, steps=1000)
                second = stream.mark()
                anything(stream, samples, at + 90, closes=closes, steps=steps, interrupts=closes and interrupts)
                stream.back(second)
                anything(stream, samples // 2, at + 99, closes=closes, steps=steps)
                stream.back(first)
        events += stream.finish()
        said.append(comparable(events))
    assert said[0] == said[1]


@pytest.mark.parametrize("kind", ["written", "thought", "spoken", "spoken after a thought"])
def test_an_answer_that_is_whole_was_not_interrupted_after_going_back(load: Callable, kind: str) -> None:
    model = conversing_kind(load, kind)
    ends: list[list[object]] = []
    for disturbs in (False, True):
        stream = model.stream(
            level="full", turns="all", speak="spoken" in kind, sampling=WARM, think=4 if "thought" in kind else None
        )
        list(stream.ask("0"))
        if disturbs:
            mark = stream.mark()
            for _ in range(2):
                stream.interrupt(1, 0.0)
                (event,) = stream.events()
                assert isinstance(event, Interrupted)
                stream.back(mark)
        stream.interrupt(1)
        events = list(stream.events())
        assert [event.kind for event in events] == ["interrupted"]
        ends.append(comparable([*events, *stream.ask("1")]))
    assert ends[0] == ends[1]


def test_a_voice_that_read_on_speaks_as_if_it_had_not(load: Callable) -> None:
    model = conversing_kind(load, "spoken")
    said: list[list[object]] = []
    for disturbs in (False, True):
        stream = model.stream(level="full", gate="off", turns="all", speak=True, seed=1)
        events = list(stream.push(sound_of(2000)))
        if disturbs:
            mark = stream.mark()
            anything(stream, 2500, 5, closes=True, steps=60)  # read, said, and drawn from
            stream.back(mark)
        events += run(stream, [sound_of(2000, seed=2)])
        assert isinstance(events[-1], AudioEnded)
        said.append(comparable(events))
    assert said[0] == said[1]


def test_a_voice_whose_context_was_full_has_room_again(load: Callable) -> None:
    model = speaking(load, said=ReadingSpeech(context=23, frames=2))
    stream = model.stream(level="full", gate="off", turns="all", speak=True)
    events = list(stream.push(sound_of(1500)))
    mark = stream.mark()
    for junk in (4800, 500):  # there is room for the second, and not for the first
        anything(stream, junk, 5, closes=True, steps=100)
        full = stream._answerer._speaker._full  # type: ignore[attr-defined]
        assert full == (junk == 4800)
        stream.back(mark)
    events += stream.finish()
    expected = run(model.stream(level="full", gate="off", turns="all", speak=True), [sound_of(1500)])
    assert comparable(events) == comparable(expected)
    assert any(isinstance(event, Audio) for event in events)


@pytest.mark.parametrize("kind", ["written", "thought", "spoken"])
def test_a_turn_that_comes_to_nothing_after_going_back_leaves_no_trace(load: Callable, kind: str) -> None:
    model = conversing_kind(load, kind)
    said: list[list[object]] = []
    for disturbs in (False, True):
        stream = model.stream(
            level="full", turns="all", speak="spoken" in kind, sampling=WARM, think=4 if "thought" in kind else None
        )
        events = list(stream.ask("0"))
        stream._work.put(Opened(0))
        events += stream.events()
        if disturbs:
            mark = stream.mark()
            anything(stream, 2500, 5, closes=True, steps=1000)
            stream.back(mark)
        stream._work.put(Closed(0, 0))
        events += [*stream.events(), *stream.ask("1")]
        said.append(comparable(events))
    assert said[0] == said[1]


# State that the encoder carries


def carrying(tiny: TinyBundle, dtype: str) -> Model:
    """Return the model of a bundle whose encoder hands its last row from chunk to chunk."""
    g = Graph("encoder", 1)
    mel, start = g.input("mel", "float32", (MEL_BINS, "mel_frames")), g.input("start", "int64", (1,))
    axis = g.constant(np.array([0]))
    x = g.node("Conv", g.node("Unsqueeze", mel, axis), g.random(WIDTH, MEL_BINS, 4, scale=0.5), strides=[2])
    x = g.node("Tanh", g.node("Transpose", g.node("Squeeze", x, axis), perm=[1, 0]))
    x = g.attention(x, start, MAX_POSITIONS, causal=False)
    past = g.input("past.seen", dtype, (1, WIDTH), "carried")
    x = g.node("Tanh", g.node("Add", x, g.node("Cast", past, to=TYPES["float32"])))
    last = g.node("Slice", x, g.constant(np.array([-1])), g.constant(np.array([2**62])), axis)
    g.node("Cast", last, outs=("present.seen",), to=TYPES[dtype])
    g.output("present.seen", dtype, (1, WIDTH), "carried")
    g.output(g.node("Identity", x, outs=("frames",)), "float32", ("frames", WIDTH))
    tiny.change(components=tiny.manifest.components | {"encoder": g.save(tiny.folder)})
    return edgekit.load(tiny.folder, threads=1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_state_that_an_encoder_carries_goes_back_and_ends_with_its_piece(
    tiny_bundle: Callable, attention: str, dtype: str
) -> None:
    model = carrying(tiny_bundle(attention, context_tokens=120), dtype)
    sound, rest = sound_of(2500), sound_of(1800, seed=1)
    expected = run(model.stream(level="full", gate="off"), [sound, rest])
    other = run(model.stream(level="full", gate="off"), [sound_of(2500, seed=4), rest])
    assert final_texts(other) != final_texts(expected)
    stream = model.stream(level="full", gate="off")
    events = list(stream.push(sound))
    mark = stream.mark()
    for steps in (0, 1, 9):
        anything(stream, 2600, 7, closes=bool(steps), steps=steps)
        stream.back(mark)
        assert all(array.any() for array in stream._listener._encoder.save().values())
    assert events + run(stream, [rest]) == expected
    # The next piece begins where every first one does.
    (left,) = stream._listener._encoder.save().values()
    assert left.dtype == dtype
    assert not left.any()


def test_sound_that_was_begun_and_taken_back_does_not_wait(load: Callable) -> None:
    stream = load().stream(level="full", gate="off")
    list(stream.push(sound_of(1000)))
    mark = stream.mark()
    stream.push(sound_of(5000, seed=1))
    stream.step()
    assert stream.waiting_s > 0
    stream.back(mark)
    assert stream.waiting_s == 0
    assert stream.samples_received == stream.samples_heard + stream.samples_waiting
    list(stream.push(sound_of(200)))
    assert stream.waiting_s == 0
