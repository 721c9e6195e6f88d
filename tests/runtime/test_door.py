"""Events come through one door: taking is done at once, working by who reads, each event once and in order."""

import dataclasses
import json
import re
import threading
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgekit
from edgekit.bundle import Sampling
from edgekit.errors import AudioError, BackendError, UsageError
from edgekit.runtime import events as all_events
from edgekit.runtime.engine import Engine
from edgekit.runtime.events import (
    Audio,
    Event,
    Interrupted,
    LevelChanged,
    SpeechStarted,
    SpeechStopped,
    Text,
    to_json,
)
from edgekit.runtime.model import Model
from edgekit.runtime.options import StreamOptions
from edgekit.runtime.policy import Budget
from edgekit.runtime.stream import Stream
from tests.runtime.streams import (
    CHUNK,
    KINDS,
    PIECE,
    RATE,
    Logged,
    LoggedCall,
    final_texts,
    roomy,
    run,
    sound_of,
    splits,
)

QUIET = np.zeros(RATE, np.float32)
TURNS = {"again": "<stop>", "turn": "<start>{role}{text}<stop>", "roles": {"user": "u", "tool": "t"}, "max_tokens": 6}


@pytest.fixture
def conversing(load: Callable) -> Callable[..., Model]:
    """Return a function that loads a prefix bundle whose protocol has turns."""

    def make(context: int = 240, **fields: Any) -> Model:
        protocol = msgspec.structs.replace(load("prefix", **roomy(context)).manifest.protocol, **(TURNS | fields))
        return load("prefix", protocol=protocol)

    return make


class Disturbed(Logged):
    """An Engine that calls ``before`` ahead of each run, with the number of runs so far."""

    def __init__(self, engine: Engine, before: Callable[[int], None]) -> None:
        super().__init__(engine)
        self.before = before

    def bind(self, sizes: Mapping[str, int]) -> "DisturbedCall":
        """Bind the engine that is disturbed."""
        return DisturbedCall(self.engine.bind(sizes), self)


class DisturbedCall(LoggedCall):
    """A Call of it."""

    def __init__(self, call: Any, engine: Disturbed) -> None:
        super().__init__(call, engine.calls)
        self._engine = engine

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Disturb, then run."""
        self._engine.before(len(self._engine.calls))
        return super().run(inputs)


def disturbed(model: Model, name: str, before: Callable[[int], None]) -> Model:
    return dataclasses.replace(model, engines=model.engines | {name: Disturbed(model.engines[name], before)})


def raising(at: int, error: type[BaseException]) -> Callable[[int], None]:
    """Return a disturbance that raises once, at a run."""

    def before(runs: int) -> None:
        if runs == at:
            raise error("in the middle")

    return before


def balanced(stream: Stream) -> bool:
    counted = stream.samples_heard + stream.samples_gated + stream.samples_waiting + stream.samples_abandoned
    return stream.samples_received == counted


# Taking


def test_what_is_pushed_is_taken_at_once_copied_and_not_worked_on(load: Callable) -> None:
    model = load()
    samples = sound_of(PIECE // 2)
    expected = run(model.stream(level="full"), [samples])
    stream = model.stream(level="full")
    given_away = samples.copy()
    events = stream.push(given_away)  # nothing is read yet
    given_away[:] = 0.5
    assert stream.samples_received == len(samples)
    assert stream.frames_computed == 0
    assert stream.pending
    assert stream.waiting_s > 0
    assert [*events, *stream.finish()] == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([np.nan],), AudioError, "sample 3000 is NaN"),
        ((np.zeros((4, 2)),), UsageError, r"samples: shape \(4, 2\)"),
        (([[0.0, 0.0]],), UsageError, r"samples: shape \(1, 2\), \(n,\) or \(n, 1\) is needed"),
        ((None,), UsageError, "samples: NoneType, an array is needed"),
        ((["a"],), UsageError, "samples: <U1"),
        ((QUIET, {"lag_ms": "x"}), UsageError, "lag_ms: 'x', 0 or more milliseconds"),
        ((QUIET, {"lag_ms": -1.0}), UsageError, "lag_ms: -1.0"),
        ((QUIET, {"lag_ms": float("nan")}), UsageError, "lag_ms: nan"),
        ((QUIET, {"lag_ms": True}), UsageError, "lag_ms: True"),
        ((QUIET, {"dropped_samples": -5}), UsageError, "dropped_samples: -5, a whole number, 0 or more"),
        ((QUIET, {"dropped_samples": 0.5}), UsageError, "dropped_samples: 0.5"),
        ((sound_of(RATE * 61),), UsageError, "push: .* s of sound would wait, at most 60 s may; .*model.transcribe"),
    ],
)
def test_after_a_push_that_is_refused_the_stream_is_as_before(
    load: Callable, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    model = load()
    samples = sound_of(6000)
    expected = run(model.stream(level="full"), [samples])
    stream = model.stream(level="full")
    events = list(stream.push(samples[:3000]))
    options: dict[str, Any] = arguments[1] if len(arguments) > 1 else {}
    with pytest.raises(error, match=message) as caught:
        stream.push(arguments[0], **options)
    assert "\n" not in str(caught.value)
    assert not stream.pending
    assert events + run(stream, [samples[3000:]]) == expected


def test_only_sound_that_counts_waits_and_no_more_than_a_minute_of_it(load: Callable) -> None:
    model = load()
    stream = model.stream(gate="sound", level="full")
    stream.push(np.zeros(RATE * 300, np.float32))
    stream.push(np.zeros(RATE * 300, np.float32))
    assert stream.waiting_s == 0
    assert stream.samples_gated > RATE * 599
    stream = model.stream(gate="off", level="full")
    stream.push(np.zeros(RATE * 60, np.float32))
    with pytest.raises(UsageError, match=r"60\.\d s of sound would wait"):
        stream.push(np.zeros(2048, np.float32))
    list(stream.events())
    assert stream.waiting_s == 0
    stream.push(np.zeros(2048, np.float32))


def test_the_account_balances_at_every_instant(load: Callable) -> None:
    model = load()
    stream = model.stream(gate="sound", sample_rate_hz=24_000)
    samples = np.concatenate([QUIET, sound_of(9000), QUIET, sound_of(5000, seed=2), QUIET])
    for part in splits(samples, "random"):
        stream.push(part)
        assert balanced(stream)
    while stream.pending:
        stream.step()
        assert balanced(stream)
    stream.finish()
    assert balanced(stream)
    list(stream.events())
    assert stream.samples_waiting == stream.samples_abandoned == 0
    assert stream.samples_heard > 0


def test_the_user_talks_as_of_the_last_push_ahead_of_the_events(load: Callable) -> None:
    stream = load().stream(gate="sound")
    assert not stream.talking
    events = stream.push(np.concatenate([QUIET, sound_of(6000)]))
    assert stream.talking
    assert any(isinstance(event, SpeechStarted) for event in events)
    events = stream.push(np.concatenate([QUIET, QUIET]))
    assert not stream.talking
    assert any(isinstance(event, SpeechStopped) for event in events)


# Reading


def habits() -> st.SearchStrategy[str]:
    return st.sampled_from(["push", "later", "step", "break", "drop", "next"])


def read(stream: Stream, habit: str, events: Iterator[Event]) -> list[Event]:
    """Return what a reader of some habit reads after a push; what it leaves comes later."""
    match habit:
        case "push":
            return list(events)
        case "later":
            return []
        case "step":
            return [event for _ in range(7) for event in (stream.step() if stream.pending else [])]
        case "drop":
            list(zip(range(2), events, strict=False))  # these two are read
            del events
            return list(stream.events())
        case "next":
            return [event for event in [next(events, None)] if event is not None]
    taken = []
    for event in events:
        taken.append(event)
        if len(taken) == 3:
            break
    return taken


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    gate=st.sampled_from(["off", "sound"]),
    cuts=st.lists(st.integers(0, 45_000), max_size=10),
    reading=st.lists(habits().filter(lambda habit: habit != "drop"), min_size=11, max_size=11),
)
def test_any_split_and_any_habit_of_reading_gives_the_same_events(
    load: Callable, kind: tuple[str, dict[str, Any]], gate: str, cuts: list[int], reading: list[str]
) -> None:
    model = _kept(load, *kind)
    samples = np.concatenate([QUIET[:12_000], sound_of(PIECE + 777), QUIET, sound_of(3000, seed=1), QUIET[:801]])
    expected = run(model.stream(gate=gate, level="full"), [samples])
    stream = model.stream(gate=gate, level="full")
    events: list[Event] = []
    for part, habit in zip(np.split(samples, sorted(cuts)), reading, strict=False):
        events += read(stream, habit, stream.push(part))
    events += list(stream.finish())
    assert events == expected
    assert stream.done


_MODELS: dict[str, Model] = {}


def _kept(load: Callable, attention: str, fields: dict[str, Any]) -> Model:
    """Return the model of a kind, loaded once: hypothesis comes again and again."""
    return _MODELS.setdefault(f"{attention} {fields}", None) or _MODELS.update(
        {f"{attention} {fields}": load(attention, **fields)}
    ) or _MODELS[f"{attention} {fields}"]  # fmt: skip


def test_leaving_a_reader_early_loses_nothing(load: Callable) -> None:
    model = load()
    expected = run(model.stream(level="full"), [sound_of(PIECE * 2)])
    stream = model.stream(level="full")
    first = next(stream.push(sound_of(PIECE * 2)))
    assert [first, *stream.events(), *stream.finish()] == expected
    assert list(stream.events()) == []


def test_a_reader_that_raises_between_events_loses_nothing(load: Callable) -> None:
    model = load()
    expected = run(model.stream(level="full"), [sound_of(PIECE * 2)])
    stream, got = model.stream(level="full"), list[Event]()

    def consume() -> None:
        for event in stream.push(sound_of(PIECE * 2)):
            got.append(event)
            assert 1 / (len(got) < 4)

    with pytest.raises(ZeroDivisionError):
        consume()
    assert got + list(stream.finish()) == expected


def test_a_step_is_a_chunk_or_a_token_and_no_more(load: Callable) -> None:
    model = load()
    stream = model.stream(level="full")
    stream.push(sound_of(PIECE * 2))
    stream.finish()
    most: dict[str, int] = {}
    while stream.pending:
        before = [span.name for span in stream.trace.spans]
        texts = [event for event in stream.step() if isinstance(event, Text)]
        names = [span.name for span in stream.trace.spans]
        for name in ("encoder", "decode", "prefill"):
            most[name] = max(most.get(name, 0), names.count(name) - before.count(name))
        most["texts"] = max(most.get("texts", 0), len(texts))
    assert most == {"encoder": 1, "decode": 1, "prefill": 1, "texts": 1}


def test_a_stream_is_done_when_it_is_finished_and_read(load: Callable) -> None:
    stream = load().stream()
    assert not stream.pending
    assert not stream.done
    list(stream.push(sound_of(1000)))
    assert not stream.done
    stream.finish()
    assert not stream.done
    list(stream.events())
    assert stream.done
    assert stream.step() == []


@pytest.mark.parametrize("attention", ["cross", "prefix"])
def test_speech_stops_before_its_final_text(load: Callable, attention: str) -> None:
    kinds = [event.kind for event in run(load(attention).stream(level="full"), [sound_of(PIECE - 1000)])]
    assert kinds[0] == "speech_started"
    assert set(kinds[1 : kinds.index("speech_stopped")]) <= {"text"}
    assert set(kinds[kinds.index("speech_stopped") + 1 :]) == {"text", "text_cut"}


# Asking


def order(events: list[Event]) -> list[int]:
    return [event.answer for event in final_texts(events)]


def test_a_question_is_answered_after_what_the_user_is_saying(conversing: Callable) -> None:
    model = conversing()
    stream = model.stream(gate="off", level="full", turns="all")
    list(stream.push(sound_of(CHUNK * 2)))
    assert stream.talking
    assert list(stream.ask("x")) == []  # it waits, and is refused by nobody
    events = list(stream.finish())
    spoken, asked = final_texts(events)
    assert (spoken.answer, asked.answer) == (1, 2)
    assert spoken.end_s > spoken.start_s
    assert asked.end_s == asked.start_s


def test_a_tools_result_goes_before_sound_that_waits_and_a_question_behind_it(conversing: Callable) -> None:
    model = conversing()
    sound = np.concatenate([QUIET, sound_of(6000), QUIET, QUIET])
    for role, first in (("tool", "asked"), ("user", "heard")):
        stream = model.stream(gate="sound", level="full", turns="all")
        stream.push(sound)
        stream.ask("1", role=role)
        stream.finish()
        finals = final_texts(list(stream.events()))
        assert len(finals) == 2
        assert ("asked" if finals[0].end_s == finals[0].start_s else "heard") == first


def test_a_question_that_cannot_be_asked_is_refused_at_once(conversing: Callable, load: Callable) -> None:
    stream = conversing().stream(level="full")
    for text, role, message in [
        ("x", "king", "role: 'king' is not in this bundle; choose one of: tool, user"),
        ("a<stop>", "user", "text: holds '<stop>'"),
        (7, "user", "text: 7, a str is needed"),
        ("a\ud800", "user", r"text: '.ud800' at 1 is half of a character"),
        ("x", None, "role: None, a str is needed"),
    ]:
        with pytest.raises(UsageError, match=message):
            stream.ask(text, role=role)  # type: ignore[arg-type]
    assert not stream.pending
    with pytest.raises(UsageError, match="answers no questions"):
        load().stream().ask("x")


# Interrupting


def test_an_answer_ends_at_the_next_step_and_the_turn_keeps_what_was_said(conversing: Callable) -> None:
    model = conversing()
    whole = final_texts(list(model.stream(level="full", turns="all").ask("0")))[0]
    stream = model.stream(level="full", turns="all")
    events: list[Event] = []
    for event in stream.ask("0"):
        events.append(event)
        if isinstance(event, Text) and len(event.text) == 2:
            stream.interrupt(event.answer)
    last = events[-1]
    assert isinstance(last, Interrupted)
    assert final_texts(events) == []
    assert last.answer == 1
    assert last.exact
    assert 0 < len(last.tokens) < len(whole.tokens)
    assert whole.tokens[: len(last.tokens)] == last.tokens
    assert whole.text.startswith(last.text)
    # The next answer is that of a conversation in which no more was said.
    again = final_texts(list(stream.ask("1")))[0]
    other = model.stream(level="full", turns="all", max_tokens=len(last.tokens))
    list(other.ask("0"))
    other._answerer._setting = dataclasses.replace(other._answerer._setting, max_tokens=6)  # as the first has it
    assert again.tokens == final_texts(list(other.ask("1")))[0].tokens


def test_an_answer_that_is_whole_is_shortened_and_once_a_later_turn_follows_nothing_happens(
    conversing: Callable,
) -> None:
    model = conversing()
    stream = model.stream(level="full", turns="all")
    (final,) = final_texts(list(stream.ask("0")))
    stream.interrupt(final.answer)
    (event,) = stream.events()
    assert event == Interrupted(final.text, final.tokens, True, final.end_s, 1)
    stream.interrupt(final.answer)
    assert list(stream.events()) == []  # it is over already
    (later,) = final_texts(list(stream.ask("1")))
    stream.interrupt(final.answer)
    assert list(stream.events()) == []
    stream.interrupt(99)
    assert list(stream.events()) == []
    assert later.answer == 2


def test_a_thought_is_interrupted_too_and_the_question_is_remembered(conversing: Callable) -> None:
    thinking = {"open": "<de>", "close": "<en>", "then": "~", "usual": True}
    model = conversing(thinking=msgspec.convert(thinking, edgekit_thinking()))
    stream = model.stream(level="full", turns="all")
    events = []
    for event in stream.ask("0"):
        events.append(event)
        stream.interrupt(1)
    assert isinstance(events[-1], Interrupted)
    assert (events[-1].text, events[-1].tokens) == ("", ())
    assert len(stream._answerer._past) == 1  # type: ignore[attr-defined]
    assert final_texts(list(stream.ask("1")))


def edgekit_thinking() -> Any:
    from edgekit.bundle import Thinking

    return Thinking


def test_no_word_of_what_is_written_down_can_be_interrupted(load: Callable, conversing: Callable) -> None:
    with pytest.raises(UsageError, match="interrupt: this bundle writes down speech, and no word of it is dropped"):
        load().stream().interrupt(1)
    stream = conversing().stream()
    for arguments, message in [(("1",), "answer: '1'"), ((1, -0.5), "heard_s: -0.5"), ((1, "x"), "heard_s: 'x'")]:
        with pytest.raises(UsageError, match=message):
            stream.interrupt(*arguments)


# Closing and failing


def test_a_closed_stream_drops_its_work_counts_it_and_takes_nothing(load: Callable) -> None:
    stream = load().stream(level="full")
    stream.push(sound_of(PIECE * 2))
    stream.step()
    heard = stream.samples_heard
    stream.close()
    stream.close()
    assert stream.samples_abandoned == stream.samples_received - heard > 0
    assert balanced(stream)
    list(stream.events())
    assert stream.done
    assert not stream.pending
    assert stream.waiting_s == 0
    for call in (lambda: stream.push(QUIET), lambda: stream.ask("x"), stream.finish):
        with pytest.raises(UsageError, match="this stream is closed"):
            call()


def test_close_takes_effect_when_the_step_ends(load: Callable) -> None:
    streams: list[Stream] = []
    closing = []

    def before(runs: int) -> None:
        if runs == 1:
            thread = threading.Thread(target=streams[0].close)
            thread.start()
            thread.join()
            closing.append(streams[0].samples_abandoned)

    model = disturbed(load(), "encoder", before)
    streams.append(model.stream(level="full"))
    list(streams[0].push(sound_of(PIECE * 2)))
    assert closing == [0]
    assert streams[0].done
    assert streams[0].samples_abandoned > 0


def test_leaving_a_with_block_closes_and_warns_of_unread_work(load: Callable) -> None:
    model = load()
    with pytest.warns(RuntimeWarning, match="stream closed with unread work"), model.stream() as stream:
        stream.push(sound_of(PIECE))
    assert stream.done
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with model.stream() as stream:
            assert run(stream, [sound_of(PIECE)])
        with pytest.raises(UsageError, match="lag_ms"), model.stream() as stream:
            stream.push(sound_of(PIECE), lag_ms=iter([stream.push(QUIET)]))  # type: ignore[arg-type]
    assert stream.done


@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_error_in_a_step_comes_after_the_events_before_it(load: Callable, at: int) -> None:
    plain = load()
    expected = run(plain.stream(level="full"), [sound_of(PIECE * 2)])
    stream = disturbed(plain, "encoder", raising(at, BackendError)).stream(level="full")
    got: list[Event] = []
    with pytest.raises(BackendError, match="in the middle"):
        got.extend(stream.push(sound_of(PIECE * 2)))
    assert got
    assert got == expected[: len(got)]
    assert stream.done
    assert balanced(stream)
    assert stream.samples_abandoned > 0
    for call in (lambda: stream.push(QUIET), stream.finish, stream.step, lambda: stream.interrupt(1)):
        with pytest.raises(UsageError, match=r"failed \(a step was ended by BackendError\)|writes down"):
            call()


def test_a_keyboard_interrupt_in_a_step_comes_at_once_and_events_made_can_still_be_read(load: Callable) -> None:
    counted = disturbed(load(), "encoder", lambda _runs: None)
    expected = run(counted.stream(level="full"), [sound_of(PIECE - 1000)])
    last = len(counted.engines["encoder"].calls) - 1  # type: ignore[attr-defined]
    stream = disturbed(load(), "encoder", raising(last, KeyboardInterrupt)).stream(level="full")
    events = [*stream.push(sound_of(PIECE - 1000))]
    stream.finish()
    with pytest.raises(KeyboardInterrupt):
        list(stream.events())
    events += [*stream.events()]
    assert events == expected[: len(events)]
    assert events[-1].kind == "speech_stopped"  # made in that very step
    assert stream.done
    with pytest.raises(UsageError, match=r"failed \(a step was ended by KeyboardInterrupt\)"):
        stream.push(QUIET)


def test_a_take_that_does_not_end_leaves_the_stream_failed(load: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = load().stream(gate="sound", level="full")
    list(stream.push(sound_of(3000)))

    def broken(_samples: np.ndarray) -> list[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream._gate, "push", broken)
    with pytest.raises(KeyboardInterrupt):
        stream.push(sound_of(3000))
    for call in (lambda: stream.push(QUIET), stream.finish, stream.step):
        with pytest.raises(UsageError, match=r"failed \(push was ended by KeyboardInterrupt\)"):
            call()


# Threads


def test_one_thread_takes_while_another_works_and_the_events_are_the_same(load: Callable) -> None:
    model = load()
    samples = np.concatenate([QUIET, sound_of(PIECE * 3), QUIET, sound_of(5000, seed=2), QUIET])
    expected = run(model.stream(gate="sound", level="full"), [samples])
    stream, taken = model.stream(gate="sound", level="full"), threading.Event()

    def take() -> None:
        for part in splits(samples, "windows"):
            stream.push(part)
            taken.set()
        stream.finish()
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    events: list[Event] = []
    while not stream.done:
        taken.wait(10)
        taken.clear()
        events += list(stream.events())
    thread.join()
    assert events == expected


def test_overlap_of_two_that_take_or_two_that_work_is_refused(load: Callable) -> None:
    streams, messages = list[Stream](), []

    def before(_runs: int) -> None:
        for call in (streams[0].step, lambda: next(streams[0].events())):
            with pytest.raises(UsageError, match="another thread works on this stream") as caught:
                call()
            messages.append(str(caught.value))
        streams[0].push(QUIET[:10])  # taking is another matter

    streams.append(disturbed(load(), "encoder", before).stream(level="full"))
    list(streams[0].push(sound_of(CHUNK * 2)))
    assert len(messages) >= 2
    stream = load().stream()
    with stream._taking, pytest.raises(UsageError, match="push: another thread pushes, asks or finishes"):
        stream.push(QUIET)


def test_no_lock_is_held_while_an_event_is_read(load: Callable) -> None:
    stream = load().stream(level="full")
    for event in stream.push(sound_of(PIECE * 2)):
        assert event
        stream.push(QUIET[:100])
        stream.hushed = False


# Lag


def test_where_nothing_is_live_no_level_falls(load: Callable) -> None:
    model = load()
    events = run(model.stream(budget=Budget(deadline_ms=0.0)), [sound_of(PIECE * 4)])
    assert not [event for event in events if isinstance(event, LevelChanged)]


def test_lag_is_the_newest_that_was_told_and_the_sound_taken_behind(load: Callable) -> None:
    model = load()
    for lag_ms, seconds, falls in [(0.0, 0.9, False), (0.0, 1.6, True), (900.0, 0.6, True), (1001.0, 0.41, True)]:
        events = run(model.stream(gate="off"), [sound_of(round(seconds * RATE))], lag_ms=lag_ms)
        changes = [event.level for event in events if isinstance(event, LevelChanged)]
        assert bool(changes) == falls, (lag_ms, seconds)


def test_what_is_said_behind_an_utterance_makes_it_late_and_silence_in_between_does_not(load: Callable) -> None:
    model, silence = load(), np.zeros(RATE * 3, np.float32)

    def changes(*behind: np.ndarray) -> list[tuple[str, float]]:
        events = model.stream(gate="sound").push(np.concatenate([QUIET, sound_of(4000), *behind]), lag_ms=0.0)
        return [(event.level, event.at_s) for event in events if isinstance(event, LevelChanged)]

    alone, followed = changes(silence), changes(silence, sound_of(RATE, seed=1), silence, sound_of(4000, seed=2))
    assert [level for level, _ in alone] == [level for level, _ in followed] == ["light", "full"]
    assert alone == changes(*[silence] * 9)
    assert alone[1][1] < 2.0
    assert followed[1][1] > 5.0, "late until the last of them is nearly heard"


def test_a_slow_reader_changes_no_cost(load: Callable) -> None:
    now = [0.0]
    stream = load().stream(budget=Budget(deadline_ms=50.0))
    stream.measure(clock=lambda: now[0])
    for part in splits(sound_of(PIECE * 3), "windows"):
        for event in stream.push(part, lag_ms=0.0):
            assert not isinstance(event, LevelChanged)
            now[0] += 5.0
    assert all(span.seconds == 0 for span in stream.trace.spans)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 50}, "budget: 50, a Budget is needed"),
        ({"promt": "x"}, "promt: 'x', a stream has no such option; did you mean 'prompt'"),
        ({"sample_rate_hz": 44100.5}, "sample_rate_hz: 44100.5 Hz, a whole number from 1,000 to 768,000 Hz"),
        ({"sample_rate_hz": 10**12}, "sample_rate_hz: 1000000000000 Hz, a whole number"),
        ({"sample_rate_hz": 999}, "sample_rate_hz: 999 Hz, a whole number"),
        ({"sample_rate_hz": True}, "sample_rate_hz: True, a whole number"),
        ({"channels": "2"}, "channels: '2', a whole number, 1 to 64"),
        ({"gate": "loud"}, "gate: 'loud' is not known; choose one of: speech, sound, off"),
        ({"level": 3}, "level: 3, a str is needed"),
        ({"partials": "yes"}, "partials: 'yes' is not known; choose one of: True, False, agreed, committed"),
        ({"turns": -1}, "turns: -1, a whole number, 0 or more, is needed; correct it, or say 'all'"),
        ({"turns": None}, "turns: None, a whole number"),
        ({"think": -1}, "think: -1, a whole number"),
        ({"seed": -1}, "seed: -1, a whole number, 0 or more"),
        ({"seed": 1.5}, "seed: 1.5"),
        ({"max_tokens": 0}, "max_tokens: 0, a whole number, 1 or more"),
        ({"turns": np.zeros(3)}, "turns: <float64 3>, a whole number"),
        ({"gate": np.zeros(3)}, "gate: <float64 3> is not known"),
        ({"sampling": {1: 2}}, "sampling: '1' is no field of it"),
        ({"seed": -(10**5000)}, "seed: <int>, a whole number, 0 or more"),
        ({"sample_rate_hz": 10**5000}, "sample_rate_hz: a number of many digits, a whole number"),
        ({"system": "a\ud800"}, r"system: '\\ud800' at 1 is half of a character"),
        ({"prompt": "y" * 10**6, "turns": "z" * 10**6}, "turns: 'z{79}…', a whole number"),
        ({"sampling": 0.7}, "sampling: 0.7, a Sampling or some of its fields"),
        ({"sampling": {"temperature": 1e-320}}, "temperature: 1e-320, 0, or 0.001 or more is needed"),
        ({"sampling": {"temperature": float("inf")}}, "temperature: inf"),
        ({"sampling": {"temprature": 1}}, "sampling: 'temprature' is no field of it; did you mean 'temperature'"),
        ({"sampling": {"temperature": 1, "top_k": 2.5}}, "top_k: 2.5, 1 or more is needed"),
        ({"sampling": Sampling(temperature=1.0, top_p=0.0)}, "top_p: 0.0, more than 0, up to 1"),
        ({"sampling": {"temperature": 1, "repetition_penalty": 0}}, "repetition_penalty: 0, more than 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name_in_one_line(
    load: Callable, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load().stream(**options)
    assert "\n" not in str(caught.value)


def test_a_stream_takes_options_whole_or_by_name_and_not_both(load: Callable) -> None:
    model, options = load(), StreamOptions(level="light", gate="off")
    assert model.stream(options).options is options
    for arguments, fields in [((options,), {"level": "full"}), (({"level": "full"},), {})]:
        with pytest.raises(UsageError, match="options: .*StreamOptions or its fields by name are needed"):
            model.stream(*arguments, **fields)


def test_options_are_checked_when_they_are_made() -> None:
    assert StreamOptions(sample_rate_hz=1_000, channels=64, turns="all", seed=0, think=0).turns == "all"
    with pytest.raises(UsageError, match="sample_rate_hz: 768001 Hz"):
        StreamOptions(sample_rate_hz=768_001)


# JSON


def test_every_event_has_a_kind_of_its_own_and_one_form_in_json() -> None:
    kinds = typing.get_args(Event)
    assert len({kind.kind for kind in kinds}) == len(kinds) == 14
    values: dict[str, Any] = {
        "samples": np.zeros(12, np.float32), "sample_rate_hz": 24_000, "text": "hé", "level": "full",
        "reason": "frames", "final": True, "exact": False, "tokens": (1, 2),
    }  # fmt: skip
    for kind in kinds:
        event = kind(**{one.name: values.get(one.name, 1) for one in dataclasses.fields(kind)})
        plain = to_json(event)
        assert next(iter(plain.items())) == ("event", kind.kind)
        assert json.loads(json.dumps(plain)) == {**plain, **({"tokens": [1, 2]} if "tokens" in plain else {})}
    assert to_json(Audio(np.zeros(12, np.float32), 24_000, 3)) == {
        "event": "audio", "samples": 12, "seconds": 0.0005, "sample_rate_hz": 24_000, "answer": 3,
    }  # fmt: skip
    assert edgekit.events is all_events


def test_the_page_of_events_names_every_kind_with_its_fields_in_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `"): re.findall(r"`(\w+)`", row[1]) for row in rows if "event`" not in row[0]}
    values: dict[str, Any] = {"samples": np.zeros(1, np.float32), "sample_rate_hz": 1, "text": "", "revises": ""}
    expected = {
        kind.kind: list(to_json(kind(**{one.name: values.get(one.name, 1) for one in dataclasses.fields(kind)})))[1:]
        for kind in typing.get_args(Event)
    }
    assert told == expected
