"""One server, several streams: who is taken, whose turn it is, why each ends, and that no other notices."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from edgekit.errors import BackendError, RefusedError, UsageError
from edgekit.runtime.events import Event, Provisional, SpeechStopped, Withdrawn, to_json
from edgekit.runtime.model import Model
from edgekit.serving import server as serving
from edgekit.serving.latencies import Latencies
from edgekit.serving.limits import Limits
from edgekit.serving.reading import Reader
from edgekit.serving.served import LONGEST_TEXT, MOST_QUESTIONS, Ended, Served, waited
from edgekit.serving.server import Server
from edgekit.serving.turn import Turn
from tests.runtime.streams import KINDS, RATE, Logged, LoggedCall, roomy, run, sound_of, splits

QUIET = np.zeros(RATE, np.float32)
SOUND = np.concatenate([QUIET, sound_of(9000), QUIET, sound_of(5000, seed=1), QUIET])
WAIT_S = 20.0  # for what comes at once, unless something is broken
Open = Callable[..., "Client"]


class Client:
    """A stream of a server and what came out of it."""

    def __init__(self, server: Server, **options: object) -> None:
        self.woken = threading.Event()
        given = options.pop("options", None) or (pinned(server.model) if server.model else None)
        self.served: Served = server.open(given, name="test", wake=self.woken.set, **options)
        self.events: list[Event] = []

    def push(self, sound: np.ndarray) -> None:
        """Push sound, whenever there is room."""
        for start in range(0, len(sound), RATE // 4):
            until(lambda: self.served.room or self.served.ended)
            self.served.push(sound[start : start + RATE // 4])

    def read(self) -> list[Event]:
        """Read to the end."""
        self.events += waited(self.served, self._wait)
        return self.events

    def _wait(self) -> None:
        assert self.woken.wait(WAIT_S), "nothing came"
        self.woken.clear()


class Held(Logged):
    """An Engine that waits before each run until it may; with an ``error`` it breaks."""

    def __init__(self, engine) -> None:
        super().__init__(engine)
        self.may, self.waits = threading.Event(), threading.Event()
        self.may.set()
        self.error = None

    def bind(self, sizes) -> "HeldCall":
        """Bind the engine."""
        return HeldCall(self.engine.bind(sizes), self)


class HeldCall(LoggedCall):
    """A Call of a Held engine."""

    def __init__(self, call, held: Held) -> None:
        super().__init__(call, [])
        self._held = held

    def run(self, inputs):
        """Wait, then run or break."""
        self._held.waits.set()
        assert self._held.may.wait(WAIT_S)
        if self._held.error is not None:
            raise self._held.error
        return super().run(inputs)


def until(true: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


def held(model: Model) -> tuple[Model, Held]:
    """Return the model with an encoder that can be held back."""
    encoder = Held(model.engines["encoder"])
    return dataclasses.replace(model, engines=model.engines | {"encoder": encoder}), encoder


def pinned(model: Model) -> dict:
    """Return options with which lag changes nothing."""
    return {"level": model.manifest.levels[-1].name}


def alone(model: Model, *sound: np.ndarray) -> list[dict]:
    """Return what a stream gives that has no neighbour."""
    return plain(run(model.stream(**pinned(model)), list(sound)))


def plain(events: list[Event]) -> list[dict]:
    """Return events as data that can be compared."""
    return [to_json(event) for event in events]


@pytest.fixture
def serve(load) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server; it is stopped at the end."""
    started = []

    def start(model: Model | None = None, clock: Callable[[], float] = time.monotonic, **limits) -> Server:
        server = Server(model or load(), Limits(**limits), clock=clock)
        server.__enter__()
        started.append(server)
        return server

    yield start
    for server in started:
        server.__exit__(None, None, None)


@pytest.mark.parametrize(("attention", "grid"), KINDS)
def test_streams_side_by_side_give_the_events_that_each_gives_alone(serve, load, attention, grid):
    model = load(attention, **grid)
    sounds = (SOUND, SOUND[5000:], SOUND[::-1].copy())
    server = serve(model)
    clients = [Client(server, live=index != 1) for index in range(3)]
    for client, sound in zip(clients, sounds, strict=True):
        for part in splits(sound, "random"):
            client.push(part)
        client.served.finish()
    assert [plain(client.read()) for client in clients] == [alone(model, sound) for sound in sounds]
    assert [client.served.ended.reason for client in clients] == ["finished"] * 3


def test_one_stream_too_many_is_refused_with_the_reason_and_taken_once_another_ends(serve):
    server = serve(streams=2)
    clients = [Client(server) for _ in range(2)]
    with pytest.raises(RefusedError, match="2 are open, at most 2 may be; try again") as refused:
        Client(server)
    assert refused.value.reason == "streams"
    clients[0].served.close()
    Client(server)
    assert server.counts.refused == {"streams": 1}


def test_no_further_live_stream_begins_while_those_that_there_are_come_late(serve, load):
    ahead = [0.0]
    model, encoder = held(load())
    server = serve(model, late_s=1.0, clock=lambda: time.monotonic() + ahead[0])
    encoder.may.clear()
    client = Client(server)
    client.push(np.tile(sound_of(RATE), 3))
    Client(server).served.close()  # it came faster than it is said: nobody is late yet
    ahead[0] = 2.0
    with pytest.raises(RefusedError, match=r"s late, 1 s may be") as refused:
        Client(server)
    assert refused.value.reason == "late"
    Client(server, live=False).served.close()  # a file waits its turn and makes nobody late
    encoder.may.set()
    until(lambda: server.late_s < 1.0)
    Client(server)


def test_who_pauses_and_then_hurries_makes_nobody_late_and_who_does_not_read_neither(serve, load):
    ahead = [0.0]
    model, encoder = held(load())
    server = serve(model, late_s=1.0, events=16, clock=lambda: time.monotonic() + ahead[0])
    client = Client(server)
    client.push(QUIET)
    until(lambda: not client.served.behind_s)
    encoder.may.clear()
    ahead[0] = 60.0
    client.push(np.tile(sound_of(RATE), 4))
    assert server.late_s < 1.0
    ahead[0] = 62.0
    assert server.late_s > 1.0
    encoder.may.set()
    until(lambda: client.served.blocked or not client.served.behind_s)
    ahead[0] = 66.0
    assert server.late_s == 0.0 or not client.served.blocked


@pytest.mark.parametrize(("model", "stopping", "reason"), [(False, False, "loading"), (True, True, "stopping")])
def test_nothing_begins_before_the_model_is_there_or_while_it_stops(load, model, stopping, reason):
    with Server(load() if model else None) as server:
        assert server.ready == model
        if stopping:
            server.stop()
        with pytest.raises(RefusedError) as refused:
            Client(server)
        assert refused.value.reason == reason
        assert not server.ready


def test_options_that_the_bundle_lacks_are_an_error_of_who_opens_and_hold_no_place(serve):
    server = serve(streams=1)
    with pytest.raises(UsageError, match="choose one of"):
        Client(server, options={"level": "best"})
    with pytest.raises(UsageError, match="no such option"):
        Client(server, options={"lvel": "best"})
    Client(server)


def test_a_client_that_never_reads_is_ended_by_name_and_harms_nobody(serve, load):
    ahead = [0.0]
    server = serve(load(), events=16, slow_s=30.0, clock=lambda: time.monotonic() + ahead[0])
    deaf, other = Client(server), Client(server)
    pusher = threading.Thread(target=lambda: [deaf.push(SOUND) for _ in range(8)], daemon=True)
    pusher.start()
    until(lambda: deaf.served.blocked)
    other.push(SOUND)
    other.served.finish()
    assert plain(other.read()) == alone(server.model, SOUND)
    assert deaf.served.ended is None, "it may still begin to read"
    ahead[0] = 31.0
    until(lambda: deaf.served.ended)
    pusher.join(WAIT_S)
    assert deaf.served.ended.reason == "slow"
    assert len(deaf.served.read()) >= 16, "what was made can still be read"
    until(lambda: server.counts.ended["slow"] == 1)


def test_who_reads_late_loses_no_event(serve, load):
    server = serve(load(), events=16)
    client = Client(server)
    pusher = threading.Thread(target=lambda: ([client.push(SOUND) for _ in range(8)], client.served.finish()))
    pusher.start()
    until(lambda: client.served.blocked)
    events = client.read()
    pusher.join()
    assert plain(events) == alone(server.model, *[SOUND] * 8)


def test_a_stream_without_sound_is_ended_after_its_time_and_one_with_sound_is_not(serve):
    ahead = [0.0]
    server = serve(idle_s=60.0, clock=lambda: time.monotonic() + ahead[0])
    silent, other = Client(server), Client(server)
    ahead[0] = 40.0
    other.push(QUIET)
    ahead[0] = 70.0
    assert silent.read() == []
    assert silent.served.ended.reason == "idle"
    assert other.served.ended is None


@pytest.mark.parametrize("more", [-1, 0, 1, 4000])
def test_a_stream_that_is_too_long_is_finished_there_and_says_so(serve, load, more):
    model = load()
    most = len(SOUND) - more
    server = serve(model, audio_s=most / RATE)
    client = Client(server)
    client.push(SOUND)
    client.served.finish()
    assert plain(client.read()) == alone(model, SOUND[:most])
    assert client.served.ended.reason == ("duration" if more > 0 else "finished")


def test_a_stream_whose_engine_breaks_ends_alone(serve, load):
    model, encoder = held(load())
    server = serve(model)
    client = Client(server)
    encoder.error = BackendError("encoder: broken; mend it")
    client.push(SOUND)
    client.read()
    assert client.served.ended == Ended("failed", "encoder: broken; mend it")
    encoder.error = None
    other = Client(server)
    other.push(SOUND)
    other.served.finish()
    assert plain(other.read()) == alone(server.model, SOUND)


@pytest.mark.parametrize("bad", [np.full(10, np.nan, np.float32), np.zeros((10, 2), np.float32)])
def test_sound_that_cannot_be_used_ends_its_stream_with_the_stream_s_own_words(serve, bad):
    server = serve()
    client = Client(server)
    client.served.push(bad)
    client.read()
    assert client.served.ended.reason == "usage"
    assert client.served.ended.error


def test_a_question_is_answered_in_the_order_that_it_came(serve, load):
    server = serve()
    client = Client(server)
    client.served.ask("what?")  # a bundle that writes down speech is asked nothing
    client.read()
    assert client.served.ended.reason == "usage"
    assert "ask" in client.served.ended.error or "text" in client.served.ended.error


def test_more_sound_than_the_inbox_holds_is_refused_and_taken_once_there_is_room(serve, load):
    model, encoder = held(load())
    server = serve(model, inbox_s=0.5, waiting_s=1.0)
    client = Client(server)
    encoder.may.clear()
    loud = sound_of(RATE)
    pushed = 0
    for _ in range(40):
        if not client.served.room:
            break
        client.served.push(loud[:1600])
        pushed += 1600
        time.sleep(0.002)
    with pytest.raises(RefusedError, match="send no faster") as refused:
        client.served.push(loud[:1600])
    assert refused.value.reason == "full"
    client.woken.clear()
    encoder.may.set()
    assert client.woken.wait(WAIT_S)
    until(lambda: client.served.room)
    client.served.finish()
    client.read()
    assert client.served.stream.samples_received == pushed


@pytest.mark.parametrize("close_after", [0, 1, 7])
def test_the_account_of_sound_balances_however_streams_end(serve, load, close_after):
    model, encoder = held(load())
    server = serve(model)
    clients = [Client(server) for _ in range(3)]
    encoder.may.clear()
    for client in clients[:2]:
        client.push(SOUND)
    for _ in range(close_after):
        time.sleep(0.001)
    clients[0].served.close()
    encoder.may.set()
    clients[1].served.finish()
    clients[1].read()
    clients[2].served.close()
    until(lambda: sum(server.counts.ended.values()) == 3)
    counts = server.counts
    assert counts.opened == 3
    assert counts.received_s == pytest.approx(2 * len(SOUND) / RATE)
    assert counts.abandoned_s <= len(SOUND) / RATE, "of the one that was closed"
    assert counts.heard_s + counts.gated_s >= len(SOUND) / RATE - 1e-9
    assert counts.heard_s + counts.gated_s + counts.abandoned_s == pytest.approx(counts.received_s)


def test_who_begins_to_wait_gets_every_second_turn_and_none_that_were_saved_up(load):
    server = Server(load(), Limits())  # its threads are not started: turns are taken here
    first, second = Client(server).served, Client(server).served
    for _ in range(30):
        first.push(sound_of(1600))
        first.take()
    for _ in range(20):
        assert server._next() is first
        first.share_s += 1.0
    second.push(sound_of(RATE))
    for _ in range(10):
        second.take()
    turns = []
    for _ in range(10):
        turn = server._next()
        turn.share_s += 1.0
        turns.append(turn)
    assert turns.count(second) in (5, 6)
    assert all(one is not other for one, other in pairwise(turns))


def test_a_file_waits_for_live_streams_and_not_for_ever(load):
    now = [0.0]
    server = Server(load(), Limits(), clock=lambda: now[0])
    file, live = Client(server, live=False).served, Client(server).served
    for served in (file, live):
        served.push(sound_of(RATE))
        while served.take():
            pass
    turns = []
    for _ in range(20):
        turn = server._next()
        turns.append(turn)
        turn.stepped_at = now[0]
        now[0] += serving.FILE_S / 4
    assert turns[0] is file, "it never had a turn"
    assert {turns.count(file), turns.count(live)} == {4, 16}


def test_stopping_finishes_what_was_said(serve, load):
    model = load()
    server = serve(model)
    client = Client(server)
    client.push(SOUND[:24000])
    server.stop()
    assert plain(client.read()) == alone(model, SOUND[:24000])
    assert client.served.ended.reason == "stopping"


def test_stopping_waits_no_longer_than_it_may_for_an_engine_that_hangs(serve, load):
    model, encoder = held(load())
    server = serve(model)
    client = Client(server)
    encoder.may.clear()
    client.push(SOUND)
    assert encoder.waits.wait(WAIT_S)
    begun = time.monotonic()
    server.stop(0.05)
    assert client.served.ended.reason == "stopping"
    assert time.monotonic() - begun < WAIT_S / 2
    encoder.may.set()


def test_an_engine_that_hangs_is_noticed_and_silence_is_not(serve, load):
    ahead = [0.0]
    model, encoder = held(load())
    server = serve(model, clock=lambda: time.monotonic() + ahead[0])
    client = Client(server)
    ahead[0] = 100.0
    assert not server.stuck(30.0)
    encoder.may.clear()
    client.push(SOUND)
    assert encoder.waits.wait(WAIT_S)
    assert not server.stuck(30.0)
    ahead[0] = 200.0
    assert server.stuck(30.0)
    encoder.may.set()
    until(lambda: not server.stuck(30.0))


def test_a_thousand_streams_that_come_and_go_leave_nothing(serve):
    server = serve()
    threads = threading.active_count()
    for index in range(1000):
        client = Client(server)
        client.served.push(QUIET[: index % 400])
        client.served.close()
    until(lambda: sum(server.counts.ended.values()) == 1000)
    assert not server._streams
    assert threading.active_count() == threads


def test_a_stream_that_its_owner_steps_goes_on_beside_the_others_and_takes_no_place_of_theirs(serve, load):
    model = load()
    server = serve(model, streams=1)
    own = server.adopt(model.stream(**pinned(model)), "microphone")
    other = Client(server)
    other.push(SOUND)
    other.served.finish()
    events = []
    for start in range(0, len(SOUND), 1600):
        own.hand_over(SOUND[start : start + 1600], lag_ms=0.0, dropped_samples=160 * (start == 16000))
        while own.stream.pending:
            events += own.step()
    own.stream.finish()
    while own.stream.pending:
        events += own.step()
    own.close("finished")
    alone = model.stream(**pinned(model))
    expected = []
    for start in range(0, len(SOUND), 1600):
        expected += alone.push(SOUND[start : start + 1600], lag_ms=0.0, dropped_samples=160 * (start == 16000))
    assert plain(events) == plain([*expected, *alone.finish()])
    assert plain(other.read()) == plain(run(model.stream(**pinned(model)), [SOUND]))
    until(lambda: sum(server.counts.ended.values()) == 2)
    assert server.counts.received_s == pytest.approx(2 * len(SOUND) / RATE)
    assert server.counts.events["text"] == sum(event.kind == "text" for event in [*events, *other.events])


def test_a_server_that_stops_leaves_alone_what_others_step(serve, load):
    server = serve()
    own = server.adopt(server.model.stream(), "microphone")
    server.stop(0.0)
    assert own.ended is None
    own.close()


def test_a_turn_is_given_in_the_order_in_which_it_is_asked_for():
    turn, order, started = Turn(), [], []

    def step(name: int) -> None:
        started.append(name)
        with turn:
            order.append(name)

    with turn:
        threads = []
        for name in range(5):
            threads.append(threading.Thread(target=step, args=(name,)))
            threads[-1].start()
            until(lambda name=name: len(turn._waiting) == name + 2)
        order.append("first")
        with pytest.raises(ZeroDivisionError), Turn():
            raise ZeroDivisionError
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["first", 0, 1, 2, 3, 4]
    assert not turn._waiting


def test_who_records_gets_the_sound_that_was_pushed_and_what_was_said(serve, load):
    server = serve()
    seen, said = [], []

    class Tap:
        def pushed(self, samples, missing_samples=0) -> None:
            seen.append((samples, missing_samples))

        def event(self, event) -> None:
            said.append(event)

    server.taps = lambda _name, _options: Tap()
    client = Client(server)
    client.push(SOUND)
    client.served.finish()
    client.read()
    assert np.array_equal(np.concatenate([samples for samples, _ in seen]), SOUND)
    assert said == client.events
    own = server.adopt(server.model.stream(), "microphone")
    own.hand_over(SOUND[:1600], lag_ms=0.0, dropped_samples=7)
    own.close()
    assert [missing for _, missing in seen if missing] == [7]


def test_a_bug_ends_its_stream_alone_and_stands_in_the_log_not_before_the_client(serve, load, caplog):
    model, encoder = held(load())
    server = serve(model)
    client = Client(server)
    encoder.error = ZeroDivisionError("secret")
    client.push(SOUND)
    client.read()
    assert client.served.ended == Ended("failed", "internal error; see the log")
    assert isinstance(client.served.failure, ZeroDivisionError)
    assert "secret" in caplog.text
    caplog.clear()


def test_latency_is_counted_from_the_arrival_of_the_last_word(serve, load):
    server = serve(load())
    client = Client(server)
    client.push(SOUND)
    client.served.finish()
    utterances = sum(isinstance(event, SpeechStopped) for event in client.read())
    latencies = client.served.latencies
    assert len(latencies.decided_ms) == utterances > 0
    assert 1 <= len(latencies.final_ms) <= utterances, (
        "of an utterance whose last piece was full nothing is left to write"
    )
    assert 0 <= min(latencies.decided_ms) <= max(latencies.final_ms)


def test_a_provisional_text_counts_from_the_last_word_once_it_is_confirmed_and_not_if_it_is_withdrawn():
    latencies = Latencies()
    for at_s in range(10):
        latencies.arrived(float(at_s), 100.0 + at_s)
    latencies.delivered(Provisional("a", 1, 2.0, 2.2, 0.0), 102.25)
    latencies.delivered(Withdrawn(1, 2.5), 102.5)
    latencies.delivered(SpeechStopped(3.0, 3.5), 103.5)
    assert not latencies.provisional_ms
    latencies.delivered(Provisional("b", 2, 5.0, 5.2, 4.0), 105.25)
    latencies.delivered(SpeechStopped(5.0, 5.5), 105.5)
    assert list(latencies.provisional_ms) == [250.0]
    assert list(latencies.decided_ms) == [500.0, 500.0]


def test_a_reader_pushes_once_there_is_room_and_gets_every_event(serve, load):
    model = load()
    server = serve(model, inbox_s=0.5, waiting_s=1.0, events=16)

    async def talk() -> list[Event]:
        async with Reader(server, pinned(model), name="test") as reader:

            async def push() -> None:
                for _ in range(4):
                    for start in range(0, len(SOUND), 1600):
                        await reader.push(SOUND[start : start + 1600])
                reader.served.finish()

            pushing = asyncio.ensure_future(push())
            events = [event async for event in reader]
            await pushing
            assert reader.ended.reason == "finished"
            return events

    assert plain(asyncio.run(talk())) == alone(model, *[SOUND] * 4)


def test_a_reader_whose_loop_is_gone_disturbs_no_server(serve):
    server = serve()

    async def leave() -> Served:
        return Reader(server, name="test").served

    served = asyncio.run(leave())
    served.push(SOUND)
    served.finish()
    until(lambda: served.ended)
    assert served.ended.reason == "finished"


@pytest.mark.parametrize("during", ["the end is taken", "a step"])
def test_a_thread_that_looks_in_the_midst_of_another_s_work_ends_no_stream_early(load, monkeypatch, during):
    """Both threads look who is done: one that looked while the other was at it lost the last texts."""
    model = load()
    server = Server(model)
    client = Client(server)
    served, stream = client.served, client.served.stream
    seen: list[Ended | None] = []

    def look() -> None:
        served.look(server.clock())
        seen.append(served.ended)

    served.push(SOUND[: RATE * 2])
    while served.take() or served.pending:
        served.work()
    if during == "a step":
        step = stream.step
        monkeypatch.setattr(served, "stream", Between(stream, step=lambda: (step(), look())[0]))
    else:
        real = stream._gate.finish
        monkeypatch.setattr(stream._gate, "finish", lambda: (look(), real())[1])
    served.finish()
    while served.take() or served.pending:
        served.work()
    assert set(seen) == {None}
    assert served.ended == Ended("finished")
    assert plain(served.read()) == alone(model, SOUND[: RATE * 2])


class Between:
    """An object of which some methods are others."""

    def __init__(self, inner: object, **methods: Callable) -> None:
        self.__dict__.update(methods)
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.fixture
def conversing(load) -> Model:
    """Return a model that answers texts."""
    turns = {
        "again": "<stop>",
        "turn": "<start>{role}{text}<stop>",
        "roles": {"user": "u", "tool": "t"},
        "max_tokens": 6,
    }
    protocol = msgspec.structs.replace(load("prefix", **roomy(240)).manifest.protocol, **turns)
    return load("prefix", protocol=protocol)


def test_a_text_is_refused_before_tokens_are_made_of_it_if_it_is_too_long(conversing, monkeypatch):
    """Ten megabytes took 20 s and 1 GB, in which nobody's sound was taken."""
    model = conversing
    encoded = []
    real = type(model.tokenizer).encode
    monkeypatch.setattr(type(model.tokenizer), "encode", lambda self, text: encoded.append(text) or real(self, text))
    long = "a" * (LONGEST_TEXT + 1)
    with Server(model) as server:
        for name in ("system", "prompt", "tools"):
            with pytest.raises(UsageError, match=f"{name}: 131,073 characters, at most 131,072 are taken"):
                server.open({name: long}, name="test")
        client = Client(server)
        with pytest.raises(UsageError, match="text: 131,073 characters"):
            client.served.ask(long)
        assert max(map(len, encoded), default=0) <= LONGEST_TEXT
        client.served.ask("a")
        client.served.finish()
        assert any(event.kind == "text" for event in client.read())


@pytest.mark.parametrize("role", ["user", "tool"])
def test_questions_that_wait_are_bounded_and_places_come_free(conversing, role):
    served = Server(conversing).open(name="test")

    def refused() -> bool:
        try:
            served.ask("a", role)
        except RefusedError as error:
            return error.reason == "full"
        return False

    assert [refused() for _ in range(MOST_QUESTIONS + 1)] == [False] * MOST_QUESTIONS + [True]
    while served.take():
        assert refused()
    assert served.stream.waiting_questions == MOST_QUESTIONS
    while served.stream.waiting_questions == MOST_QUESTIONS:
        served.work()
    assert [refused(), refused()] == [False, True]
    served.close()
    assert served.stream.waiting_questions == 0


def test_an_inbox_is_full_by_its_bytes_too(load):
    """Ten seconds of 64 channels at 768 kHz would be 2 GB."""
    server = Server(load())
    woken = []
    served = server.open({"sample_rate_hz": 768_000, "channels": 64}, name="test", wake=lambda: woken.append(1))
    second = np.zeros((384_000, 64), np.float32)  # 94 MB
    served.push(second)
    assert served.inbox_s < server.limits.inbox_s / 2
    assert not served.room
    with pytest.raises(RefusedError):
        served.push(second)
    while not woken:
        assert served.take()
    assert served.room
