"""What fails or is closed, wherever it may: the account balances, every call says so, no lock stays taken."""

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgekit.errors import BackendError, EdgeKitError, UsageError
from edgekit.runtime.events import Event
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from tests.runtime.streams import PIECE, RATE, run, sound_of, splits
from tests.runtime.voices import conversing, reading, speaking

SOUND = np.concatenate([sound_of(PIECE + 900), np.zeros(RATE, np.float32), sound_of(3000, seed=1)])


class Trap:
    """Counts calls, and lets something happen at one of them: by default an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.at: int | None = None
        self.falls: Callable[[], None] = self._raise
        self._error = error or BackendError("trap: it fell")

    def __call__(self) -> None:
        """Count a call."""
        self.calls += 1
        if self.calls - 1 == self.at:
            self.falls()

    def _raise(self) -> None:
        raise self._error


class Trapped:
    """Any object, of which some methods fall into a trap before they do their work; what they make does so too."""

    def __init__(self, inner: Any, trap: Trap, *methods: str) -> None:
        self._inner, self._trap, self._methods = inner, trap, methods

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name == "bind":
            return lambda sizes: Trapped(value(sizes), self._trap, *self._methods)
        if name not in self._methods:
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            self._trap()
            return value(*arguments, **named)

        return call


@pytest.fixture(autouse=True)
def voice() -> Iterator[None]:
    """Let bundles speak as the toy does."""
    with reading():
        yield


def trapped(model: Model, trap: Trap, place: str) -> Model:
    """Return the model with a trap in one engine or in the tokenizer."""
    if place == "tokenizer":
        return dataclasses.replace(model, tokenizer=Trapped(model.tokenizer, trap, "encode", "decode"))
    if place not in model.engines:
        return model
    engines: Mapping[str, Any] = model.engines | {place: Trapped(model.engines[place], trap, "run")}
    return dataclasses.replace(model, engines=engines)


def opened(model: Model, trap: Trap, place: str) -> Stream:
    trap.at, trap.calls = None, 0
    converses = model.manifest.protocol.attention == "prefix"
    options = {"turns": "all"} if converses else {"partials": True}
    stream = trapped(model, trap, place).stream(
        gate="sound", level="full", speak=model.manifest.speech is not None, **options
    )
    stream.measure(clock=lambda: 0.0)
    if place == "gate":
        stream._gate._detector = Trapped(stream._gate._detector, trap, "score")
    if place == "resampler":
        stream._resampler = Trapped(stream._resampler, trap, "push", "finish")  # type: ignore[assignment]
    trap.calls = 0
    return stream


def use(stream: Stream, got: list[Event]) -> None:
    for part in np.array_split(SOUND, 5):
        got.extend(stream.push(part))
    if stream.converses:
        got.extend(stream.ask("a"))
    got.extend(stream.finish())


def use_and_push(stream: Stream) -> None:
    use(stream, [])
    stream.push(SOUND[:10])


def texts(events: list[Event]) -> list[str]:
    return [repr(event) for event in events if event.kind != "audio"]


def assert_failed(stream: Stream) -> None:
    counts = (
        stream.samples_heard, stream.samples_gated, stream.samples_waiting, stream.samples_abandoned,
    )  # fmt: skip
    assert min(counts) >= 0
    assert sum(counts) == stream.samples_received
    assert stream.samples_waiting == stream.waiting_s == 0
    assert not stream._taking.locked()
    assert not stream._working.locked()
    assert list(stream.events()) == []
    assert stream.done
    assert not stream.pending
    calls: list[Callable[[], Any]] = [
        lambda: stream.push(SOUND[:10]), lambda: stream.ask("a"), stream.finish, stream.step,
    ]  # fmt: skip
    calls += [lambda: stream.interrupt(1)] if stream.converses else []
    for _ in range(2):
        for call in calls:
            with pytest.raises(UsageError, match="this stream has failed .*; start another with model.stream"):
                call()
        stream.close()  # and it still says why


@pytest.mark.parametrize("kind", ["cross", "prefix", "spoken"])
@pytest.mark.parametrize("place", ["encoder", "adapter", "backbone", "tokenizer", "gate", "resampler"])
@pytest.mark.parametrize("error", [BackendError("trap: it fell"), KeyboardInterrupt("trap: it fell"), StopIteration()])
def test_whatever_fails_and_wherever_the_events_before_it_come_and_every_call_says_so(
    load: Callable, kind: str, place: str, error: BaseException
) -> None:
    model = {"cross": load, "prefix": lambda: conversing(load), "spoken": lambda: speaking(load)}[kind]()
    trap = Trap(error)
    expected: list[Event] = []
    use(opened(model, trap, place), expected)
    count = trap.calls
    assert count > 4
    for at in range(0, count, max(1, count // 25)):
        stream = opened(model, trap, place)
        trap.at = at
        got: list[Event] = []
        with pytest.raises((type(error), RuntimeError)):  # a StopIteration in a generator is a RuntimeError
            use(stream, got)
        if not stream._failed:  # it fell while a question was checked: the stream is as before
            assert place == "tokenizer"
            got += list(stream.ask("a")) if stream.converses else []
            got += list(stream.finish())
            assert texts(got) == texts(expected)
            continue
        got += list(stream.events())  # after a KeyboardInterrupt
        assert texts(got) == texts(expected)[: len(texts(got))]
        assert_failed(stream)


@pytest.mark.parametrize("kind", ["cross", "spoken"])
@pytest.mark.parametrize("place", ["encoder", "backbone", "tokenizer"])
def test_closing_from_another_thread_at_any_step_takes_effect_when_it_ends(
    load: Callable, kind: str, place: str
) -> None:
    model, trap = load() if kind == "cross" else speaking(load), Trap()
    use(opened(model, trap, place), [])
    count = trap.calls

    for at in range(0, count, max(1, count // 12)):
        stream = opened(model, trap, place)
        heard: list[int] = []

        def close(stream: Stream = stream, heard: list[int] = heard) -> None:
            thread = threading.Thread(target=stream.close)
            thread.start()
            thread.join()
            heard.append(stream.samples_abandoned)

        trap.at, trap.falls = at, close
        with pytest.raises(UsageError, match="this stream is closed"):
            use_and_push(stream)
        assert heard == [0] or place == "tokenizer"  # a question is read by who takes, and nobody works then
        assert_closed(stream)


def assert_closed(stream: Stream) -> None:
    assert stream.samples_waiting == 0
    assert stream.samples_received == stream.samples_heard + stream.samples_gated + stream.samples_abandoned
    assert stream.samples_abandoned >= 0
    assert not stream._taking.locked()
    assert not stream._working.locked()
    list(stream.events())
    assert stream.done
    assert stream.step() == []


def take_all(stream: Stream) -> None:
    try:
        for part in splits(SOUND, "windows"):
            stream.push(part)
        stream.ask("a")
        stream.finish()
    except UsageError as error:
        if "this stream is closed" not in str(error):
            raise


def read_all(stream: Stream, begun: threading.Event) -> None:
    while not stream.done:
        for _event in stream.events():
            begun.set()


def test_closing_at_any_moment_while_two_threads_take_and_work_ends_both(load: Callable) -> None:
    model = conversing(load)
    chance = random.Random(1)
    for _ in range(60):
        stream, begun = model.stream(gate="sound", level="full", turns="all"), threading.Event()
        with ThreadPoolExecutor(2) as threads:
            sides = [threads.submit(take_all, stream), threads.submit(read_all, stream, begun)]
            begun.wait(5)
            for _ in range(chance.randrange(3000)):
                pass
            stream.close()
            for side in sides:
                side.result(10)
        assert_closed(stream)


def test_no_count_is_negative_and_no_event_is_lost_while_both_sides_run(load: Callable) -> None:
    model = load()
    loud = np.concatenate([np.zeros(RATE, np.float32), sound_of(PIECE), np.zeros(RATE * 2, np.float32)])
    expected = run(model.stream(gate="sound", level="full"), [loud] * 6)
    stream = model.stream(gate="sound", level="full")
    ended = threading.Event()
    wrong: list[str] = []

    def watch() -> None:
        while not ended.is_set():
            before = stream.samples_heard + stream.samples_gated
            waiting, seconds, received = stream.samples_waiting, stream.waiting_s, stream.samples_received
            if waiting < 0 or seconds < 0 or before > received:
                wrong.append(f"{waiting} {seconds} {before} {received}")
            assert stream.level
            assert isinstance(stream.talking, bool)
            assert len(stream.trace.spans) >= 0

    def take() -> None:
        for _ in range(6):
            stream.push(loud)
        stream.finish()

    watcher, taker = threading.Thread(target=watch), threading.Thread(target=take)
    watcher.start()
    taker.start()
    events: list[Event] = []
    while not stream.done:
        events += stream.events()
    taker.join()
    ended.set()
    watcher.join()
    assert not wrong
    assert events == expected


def test_a_reader_that_is_given_up_at_any_event_loses_nothing(load: Callable) -> None:
    model = speaking(load)

    def converse(leave: int | None, how: str) -> list[Event]:
        stream = model.stream(gate="off", level="full", speak=True, turns="all")
        stream.push(SOUND[:4000])
        stream.ask("a")
        stream.finish()
        got: list[Event] = []
        reader = stream.events()
        for event in reader:
            got.append(event)
            if len(got) == leave:
                break
        if how == "close":
            reader.close()  # type: ignore[attr-defined]
        elif how == "throw":
            with pytest.raises(EdgeKitError):
                reader.throw(EdgeKitError("x"))  # type: ignore[attr-defined]
        else:
            del reader
        return got + list(stream.events())

    expected = converse(None, "del")
    for leave in range(1, len(expected)):
        for how in ("del", "close", "throw"):
            assert [repr(event) for event in converse(leave, how)] == [repr(event) for event in expected]


def test_sound_may_be_pushed_from_inside_the_reading_loop(load: Callable) -> None:
    model = load()
    parts = list(splits(SOUND, "windows"))
    expected = run(model.stream(gate="off", level="full"), parts)
    stream, waiting = model.stream(gate="off", level="full"), parts[1:]
    got = list(stream.push(parts[0]))
    while waiting:
        for event in stream.push(waiting.pop(0)):
            got.append(event)
            if waiting:
                stream.push(waiting.pop(0))  # its events come by the loop that is running
    assert got + list(stream.finish()) == expected


@pytest.mark.parametrize("gate", ["sound", "speech"])
def test_silence_behind_a_gate_does_not_wait_however_long_it_is(load: Callable, gate: Any) -> None:
    for rate in (11_025, 48_000):
        stream = load().stream(gate=gate, level="full", sample_rate_hz=rate)
        stream.push(np.zeros(rate * 62, np.float32))
        stream.push(np.zeros(rate * 62, np.float32))
        assert stream.waiting_s == 0
        assert stream.samples_gated > 122 * 16_000


@pytest.mark.parametrize("rate", [1000, 11_025, 44_100, 96_000])
def test_a_minute_is_a_minute_at_any_rate(load: Callable, rate: int) -> None:
    stream = load().stream(gate="off", level="full", sample_rate_hz=rate)
    loud = (0.5 * np.sin(np.arange(rate * 61) * 0.7)).astype(np.float32)
    message = r"6\d\.\d s of sound would wait, at most 60 s may; read .* or use model\.transcribe"
    with pytest.raises(UsageError, match=message):
        stream.push(loud)
    for _ in range(59):
        stream.push(loud[:rate])
    assert 58 < stream.waiting_s <= 60
    with pytest.raises(UsageError, match=message):
        stream.push(loud[: 2 * rate])
    assert 58 < stream.waiting_s <= 60
    list(stream.events())
    stream.push(loud[: 2 * rate])
