"""The daemon's two threads: who talks into an answer, what ends either side, and that both always end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from edgekit.errors import AudioError, BackendError, DeviceError
from edgekit.runtime.audio.playback import Playback, TurnTaking
from edgekit.runtime.audio.ring import Ring
from edgekit.runtime.events import Audio, Event, Interrupted, Lag, SpeechStarted, Text
from edgekit.runtime.model import Model
from edgekit.runtime.stream import Stream
from edgekit.serving.daemon import Daemon
from tests.runtime.audio.portaudio import FakePortAudio
from tests.runtime.streams import final_texts, sound_of
from tests.runtime.test_door import disturbed
from tests.runtime.voices import conversing, reading, speaking

RATE, BLOCK = 16_000, 1600
QUIET = np.zeros(2 * RATE, np.float32)  # the gate forgets how loud it was, and closes
LOUD = sound_of(8000)
WAIT_S = 20.0  # for what comes at once, unless something is broken


@pytest.fixture(autouse=True)
def voice() -> Iterator[None]:
    """Let bundles speak as the toy does."""
    with reading():
        yield


class Scripted:
    """A Source whose sound comes as a generator yields it, one block at each wait; it ends with the generator."""

    sample_rate_hz, channels, overflows, fresh_s, away = RATE, 1, 0, None, False

    def __init__(self, sound: Iterator[np.ndarray], buffer_s: float = 10.0) -> None:
        self.ring = Ring(round(buffer_s * RATE))
        self._sound = sound
        self.exited = False

    def __enter__(self) -> object:
        """Begin."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End."""
        self.exited = True

    @property
    def dropped_samples(self) -> int:
        """Count what the ring dropped."""
        return self.ring.dropped_samples

    def wait(self, timeout_s: float) -> bool:
        """Record the next block."""
        del timeout_s
        block = next(self._sound, None)
        if block is None:
            self.ring.close()
        else:
            self.ring.write(block.astype(np.float32))
        return self.ring.available_samples > 0

    def read(self, max_samples: int) -> np.ndarray:
        """Return what waits."""
        return self.ring.read(max_samples).reshape(-1, 1)


def blocks(*sounds: np.ndarray) -> Iterator[np.ndarray]:
    joined = np.concatenate(sounds)
    for start in range(0, len(joined), BLOCK):
        yield joined[start : start + BLOCK]


def assert_over(daemon: Daemon, source: Scripted) -> None:
    tally = daemon.tally
    assert tally.captured == tally.processed + tally.gated + tally.dropped
    assert min(tally.processed, tally.gated, tally.dropped) >= 0
    assert tally.waiting == 0
    assert source.exited
    assert not [thread for thread in threading.enumerate() if thread.name == "edgekit-taker"]


def stream_of(model: Model, **options: Any) -> Stream:
    return model.stream(**{"gate": "sound", "level": "full", "turns": "all"} | options)


@pytest.mark.parametrize("spoken", [False, True])
def test_who_talks_into_an_answer_interrupts_it_within_a_push_and_a_step(load: Callable, *, spoken: bool) -> None:
    model = speaking(load, max_tokens=12)
    stream = stream_of(model, speak=spoken)
    answering, talked_into = threading.Event(), threading.Event()

    def sound() -> Iterator[np.ndarray]:
        yield from blocks(QUIET, LOUD, QUIET)
        assert answering.wait(WAIT_S)
        yield from blocks(LOUD, QUIET)

    portaudio = FakePortAudio(rates=(24_000,))
    source = Scripted(sound())
    events: list[Event] = []
    with Playback(24_000, portaudio=portaudio) as playback:
        turns = TurnTaking(playback, stream.interrupt)

        def show(event: Event) -> None:
            events.append(event)
            turns.event(event)
            begun = Audio if spoken else Text
            if isinstance(event, begun) and not answering.is_set():
                answering.set()
                assert talked_into.wait(WAIT_S)

        def talked() -> None:
            turns.talked(stream.answering)
            if answering.is_set():
                assert not playback.playing
                talked_into.set()

        daemon = Daemon(source, stream, show, talked)
        daemon.run()
    assert_over(daemon, source)
    (end,) = [event for event in events if isinstance(event, Interrupted)]
    assert end.answer == 1
    begun = next(at for at, event in enumerate(events) if isinstance(event, Audio if spoken else Text))
    assert events.index(end) <= begun + 2, "what the step under way had made, no more"
    (final,) = final_texts(events)
    assert final.answer == 2
    assert [event.kind for event in events if isinstance(event, SpeechStarted)] == ["speech_started"] * 2


def test_who_talks_while_a_whole_answer_is_still_played_shortens_it_before_the_next_turn(load: Callable) -> None:
    model = speaking(load)
    for _ in range(10):
        stream = stream_of(model, speak=True)
        whole = threading.Event()

        def sound(whole: threading.Event = whole) -> Iterator[np.ndarray]:
            yield from blocks(QUIET, LOUD, QUIET)
            assert whole.wait(WAIT_S)
            yield from blocks(LOUD, QUIET)

        events: list[Event] = []
        with Playback(24_000, portaudio=FakePortAudio(rates=(24_000,))) as playback:
            turns = TurnTaking(playback, stream.interrupt)

            def show(
                event: Event,
                events: list[Event] = events,
                turns: TurnTaking = turns,
                whole: threading.Event = whole,
            ) -> None:
                events.append(event)
                turns.event(event)
                if event.kind == "audio_ended":
                    whole.set()  # nobody called back: nothing of it was played

            source = Scripted(sound())
            daemon = Daemon(source, stream, show, lambda turns=turns, stream=stream: turns.talked(stream.answering))
            daemon.run()
        assert_over(daemon, source)
        kinds = [event.kind for event in events]
        assert kinds.index("interrupted") < len(kinds) - 1 - kinds[::-1].index("speech_started")
        (end,) = [event for event in events if isinstance(event, Interrupted)]
        assert (end.answer, end.tokens) == (1, ())


@pytest.mark.parametrize("at", range(0, 12, 3))
def test_what_the_consumer_raises_ends_both_threads_and_every_sample_is_accounted_for(load: Callable, at: int) -> None:
    events: list[Event] = []

    def show(event: Event) -> None:
        events.append(event)
        assert 1 / (len(events) <= at or 0), "never"

    source = Scripted(blocks(QUIET, LOUD, QUIET, LOUD, QUIET, LOUD, QUIET))
    daemon = Daemon(source, stream_of(conversing(load)), show)
    with pytest.raises(ZeroDivisionError):
        daemon.run()
    assert len(events) == at + 1
    assert_over(daemon, source)


def test_what_is_left_in_the_ring_when_nobody_works_any_more_is_counted_as_dropped(load: Callable) -> None:
    raised = threading.Event()

    def show(_event: Event) -> None:
        raised.set()
        raise RuntimeError("no more")

    source = Scripted(iter([np.concatenate([QUIET, LOUD, LOUD, LOUD, LOUD])]))
    daemon = Daemon(source, stream_of(conversing(load)), show, lambda: raised.wait(WAIT_S) and None)
    with pytest.raises(RuntimeError, match="no more"):
        daemon.run()
    assert_over(daemon, source)
    assert daemon.tally.dropped > 0


def test_what_waits_to_be_heard_when_the_consumer_raises_is_counted_as_dropped(load: Callable) -> None:
    taken = threading.Event()

    def show(_event: Event) -> None:
        assert taken.wait(WAIT_S)
        raise OSError(28, "No space left on device")

    def sound() -> Iterator[np.ndarray]:
        yield from blocks(QUIET, *[LOUD] * 8, QUIET)
        taken.set()

    source = Scripted(sound())
    daemon = Daemon(source, stream_of(load(), turns=0), show)
    with pytest.raises(OSError, match="No space"):
        daemon.run()
    assert_over(daemon, source)
    assert daemon.tally.dropped > 4 * len(LOUD)
    assert daemon.tally.processed < 4 * len(LOUD)


def test_the_account_balances_where_the_end_itself_is_interrupted(load: Callable) -> None:
    raised, read = threading.Event(), threading.Event()

    def show(_event: Event) -> None:
        raised.set()
        raise RuntimeError("no more")

    def talked() -> None:
        if raised.wait(WAIT_S) and not read.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert read.wait(WAIT_S)

    source = Scripted(iter([np.concatenate([QUIET, LOUD, LOUD, LOUD, LOUD])]))
    daemon = Daemon(source, stream_of(conversing(load)), show, talked)
    with pytest.raises(KeyboardInterrupt):
        daemon.run()
    tally = daemon.tally
    read.set()
    assert tally.captured == tally.processed + tally.gated + tally.dropped
    assert tally.dropped > 0
    assert tally.waiting == 0
    pause = threading.Event()
    while not daemon._ended:  # an interrupted join has lost sight of the thread
        pause.wait(0.001)
    assert source.ring.available_samples == 0
    assert daemon.tally == tally


def test_what_fails_in_a_step_is_raised_and_what_was_not_taken_is_counted_as_dropped(load: Callable) -> None:
    def fail(runs: int) -> None:
        if runs == 2:
            raise BackendError("encoder: broken; export it again")

    source = Scripted(blocks(QUIET, LOUD, QUIET, LOUD, QUIET))
    daemon = Daemon(source, stream_of(disturbed(conversing(load), "encoder", fail)), lambda _event: None)
    with pytest.raises(BackendError, match="encoder: broken"):
        daemon.run()
    assert_over(daemon, source)
    assert daemon.tally.dropped > 0


@pytest.mark.parametrize("stops", [False, True])
def test_samples_that_are_refused_end_it_after_what_came_before_and_behind_them_was_answered(
    load: Callable, *, stops: bool
) -> None:
    """A device's NaN, while it listens or in what is left in the ring when it is stopped."""
    daemons: list[Daemon] = []

    def sound() -> Iterator[np.ndarray]:
        broken = np.full(BLOCK, np.nan)
        if stops:
            daemons[0].stop()
            yield np.concatenate([QUIET, LOUD, broken, LOUD[:BLOCK]])
        else:
            yield from blocks(QUIET, LOUD, broken, LOUD[:BLOCK])

    source, events = Scripted(sound()), list[Event]()
    daemons.append(Daemon(source, stream_of(conversing(load)), events.append))
    with pytest.raises(AudioError, match="is NaN or infinite"):
        daemons[0].run()
    assert_over(daemons[0], source)
    assert daemons[0].tally.dropped == BLOCK
    assert [event.kind for event in events][-1:] == ["text"]
    assert len(final_texts(events)) == 1


def test_a_worker_slower_than_the_sound_lets_the_ring_drop_and_the_account_balances(load: Callable) -> None:
    recorded = threading.Event()

    def sound() -> Iterator[np.ndarray]:
        for _ in range(600):  # a minute
            yield 0.1 * np.ones(BLOCK)

    class Live(Scripted):
        """Records from a thread of its own, whoever reads."""

        def __enter__(self) -> object:
            def record() -> None:
                for block in self._sound:
                    self.ring.write(block.astype(np.float32))
                self.ring.close()
                recorded.set()

            self.thread = threading.Thread(target=record)
            self.thread.start()
            return self

        def __exit__(self, *error: object) -> None:
            self.thread.join()
            super().__exit__(*error)

        def wait(self, timeout_s: float) -> bool:
            return self.ring.wait(timeout_s)

    source, events = Live(sound()), list[Event]()

    def wait(_runs: int) -> None:
        assert recorded.wait(WAIT_S)

    stuck = disturbed(load(), "encoder", wait)
    daemon = Daemon(source, stuck.stream(gate="off"), events.append)
    daemon.run()
    assert_over(daemon, source)
    assert daemon.tally.captured == 60 * RATE
    assert 25 * RATE < daemon.tally.dropped < 55 * RATE  # the ring holds ten seconds, twenty are taken
    assert sum(event.dropped_samples for event in events if isinstance(event, Lag)) == daemon.tally.dropped


def test_stopping_in_the_middle_of_an_answer_finishes_it_without_a_voice(load: Callable) -> None:
    stream = stream_of(speaking(load, max_tokens=12), speak=True)
    daemons, events = list[Daemon](), list[Event]()

    def show(event: Event) -> None:
        events.append(event)
        if isinstance(event, Audio):
            daemons[0].stop()

    source = Scripted(blocks(QUIET, LOUD, QUIET, QUIET))
    daemons.append(Daemon(source, stream, show))
    daemons[0].run()
    assert_over(daemons[0], source)
    assert sum(isinstance(event, Audio) for event in events) == 1
    assert len(final_texts(events)) >= 1
    assert stream.done


@pytest.mark.parametrize("how", ["stop", "device", "show"])
def test_both_threads_end_however_and_whenever_it_ends(load: Callable, how: str) -> None:
    model = conversing(load)
    for moment in range(40):
        daemons, events = list[Daemon](), list[Event]()

        def sound(moment: int = moment, daemons: list[Daemon] = daemons) -> Iterator[np.ndarray]:
            for at, block in enumerate(blocks(QUIET, LOUD, QUIET, LOUD, QUIET)):
                if at == moment and how == "stop":
                    daemons[0].stop()
                if at == moment and how == "device":
                    raise DeviceError("microphone: gone; plug it in")
                yield block

        def show(event: Event, moment: int = moment, events: list[Event] = events) -> None:
            events.append(event)
            if how == "show" and len(events) == moment + 1:
                raise RuntimeError("no more")

        source = Scripted(sound())
        stream = stream_of(model)
        daemons.append(Daemon(source, stream, show, lambda stream=stream: stream.interrupt(stream.answering or 1)))
        with suppress(DeviceError if how == "device" else RuntimeError if how == "show" else ()):
            daemons[0].run()
        assert_over(daemons[0], source)
        assert stream.done or how == "show"
