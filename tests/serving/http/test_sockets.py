"""The websocket for sound, by a websocket's own client: samples in, events out, whatever is sent."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edgekit.errors import UsageError
from edgekit.runtime.events import SpeechStarted, Text, to_json
from edgekit.serving.guard import offered
from edgekit.serving.http.sockets import _CODES, stream_query
from edgekit.serving.limits import Limits
from edgekit.serving.served import Reason
from edgekit.serving.watch import MOST_WATCHERS, Watch
from tests.serving.http.conftest import CLIP, WAIT_S, settle

WORDS = "He might even have been made amiable himself."


@pytest.fixture(scope="module")
def service(serving, tiny_model):
    return serving(tiny_model)


@pytest.fixture(scope="module")
def spoken() -> bytes:
    """Return a sentence as bare samples, with silence behind it."""
    samples, rate = soundfile.read(CLIP, dtype="int16")
    assert rate == 16_000
    return np.concatenate([samples, np.zeros(rate, np.int16)]).astype("<i2").tobytes()


@contextmanager
def listening(service, query: str = "", path: str = "/v1/listen", **options) -> Iterator[ClientConnection]:
    with connect(
        f"{service.ws}{path}?{query}", open_timeout=WAIT_S, close_timeout=WAIT_S, max_size=None, **options
    ) as ws:
        yield ws


def received(ws: ClientConnection) -> list:
    """Return everything that comes until the server closes: messages, and bytes of sound."""
    found = []
    try:
        while True:
            message = ws.recv(timeout=WAIT_S)
            found.append(json.loads(message) if isinstance(message, str) else message)
    except ConnectionClosed:
        return found


def until(ws: ClientConnection, kind: str) -> dict:
    """Return the next message of a kind."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        message = ws.recv(timeout=WAIT_S)
        if isinstance(message, str) and json.loads(message)["event"] == kind:
            return json.loads(message)
    raise AssertionError(f"no {kind} came")


def events(messages: list) -> list[dict]:
    """Return the events of the stream among them."""
    return [one for one in messages if one["event"] not in {"opened", "ended", "status", "error"}]


def closed(ws: ClientConnection) -> tuple[int, str]:
    return ws.close_code, ws.close_reason


def say(ws: ClientConnection, **message) -> None:
    ws.send(json.dumps(message))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def alone(model, data: bytes, **options) -> list[dict]:
    with model.stream(**options) as stream:
        return [to_json(one) for one in [*stream.push(np.frombuffer(data, "<i2")), *stream.finish()]]


@pytest.mark.parametrize("size", [640, 1_279, 77, 1 << 19])
def test_the_events_are_those_of_a_stream_wherever_frames_are_cut(service, spoken, size):
    expected = json.loads(json.dumps(alone(service.server.model, spoken, level="full")))
    with listening(service, "level=full") as ws:
        for piece in pieces(spoken, size):
            ws.send(piece)
        say(ws, type="finish")
        messages = received(ws)
        assert closed(ws) == (1000, "finished")
    assert messages[0] == {
        "event": "opened", "model": "edgekit-tiny", "sample_rate_hz": 16_000, "channels": 1, "encoding": "s16le",
    }  # fmt: skip
    assert messages[-1] == {"event": "ended", "reason": "finished", "error": ""}
    assert events(messages) == expected
    assert [one["text"] for one in messages if one.get("final")] == [WORDS]


def test_floats_of_two_channels_at_another_rate_are_heard(service, spoken):
    samples = np.frombuffer(spoken, "<i2").astype("<f4") / 32768
    up = np.interp(np.arange(len(samples) * 3) / 3, np.arange(len(samples)), samples).astype("<f4")
    data = np.stack([up, up], axis=1).tobytes()
    with listening(service, "encoding=f32le&channels=2&sample_rate_hz=48000") as ws:
        for piece in pieces(data, 99_999):
            ws.send(piece)
        say(ws, type="finish")
        assert [one["text"] for one in received(ws) if one.get("final")] == [WORDS]


def test_partials_come_while_sound_still_goes_on(service, spoken):
    with listening(service, "partials=true&level=full") as ws:
        ws.send(spoken[:-48_000])
        assert not until(ws, "text")["final"]
        say(ws, type="close")
        messages = received(ws)
        assert closed(ws) == (1000, "closed")
    assert messages[-1] == {"event": "ended", "reason": "closed", "error": ""}


def test_figures_come_where_they_are_wanted(service):
    with listening(service, "status=true") as ws:
        message = until(ws, "status")
    assert message["stream"]["level"]
    assert message["stream"]["latencies"]["final"] == {"count": 0, "p50_ms": None, "p95_ms": None}
    assert (message["streams"], message["most_streams"]) == (1, 4)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("partial=true", "partial: no option of a stream; did you mean 'partials'?"),
        ("sample_rate_hz=44.1", "sample_rate_hz: '44.1', a whole number from 1,000 to 768,000 Hz is heard"),
        ("sample_rate_hz=" + "9" * 5000, "sample_rate_hz: "),
        ("channels=0", "channels: 0, a whole number, 1 to 64, is needed"),
        ("channels=1&channels=2", "channels: given twice; give it once"),
        ("encoding=mp3", "encoding: 'mp3' is not known; choose one of: s16le, f32le"),
        ("partials=1", "partials: '1' is not known; choose one of: true, false, agreed, committed"),
        ("think=True", "think: 'True' is not known; choose one of: true, false, a number from 0"),
        ("think=-1", "think: '-1'"),
        ("speak=yes", "speak: 'yes' is not known; choose one of: true, false"),
        ("speak=true", "speak: "), ("status=yes", "status: "),
        ("level=turbo", "level: 'turbo' is not in this bundle"), ("temperature=warm", "temperature: 'warm', a number"),
        ("temperature=nan", "temperature: nan"), ("turns=2", "turns: 2"), ("budget=1", "budget: no option of a stream"),
        ("sampling=1", "sampling: no option of a stream"), ("%00=%ff", "\\x00: no option"), ("system=x", "system: 'x'"),
        ("prompt=" + "x" * 7000, "prompt: "), ("level=%ED%A0%80", "level: "),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_in_one_line(service, query, says):
    with listening(service, query) as ws:
        [message] = received(ws)
        code, reason = closed(ws)
    assert (message["event"], message["reason"]) == ("error", "usage")
    assert message["error"].startswith(says), message["error"]
    assert message["error"].isprintable()
    assert code == 1008
    assert reason == message["error"].encode()[:120].decode(errors="ignore")
    assert not service.server.streams


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "text frame: "),
        ("hello", "text frame: JSON is malformed: invalid character (byte 0); send samples in binary frames"),
        ("{", "text frame: "), ("[]", "text frame: "),
        ("[" * 100_000, "text frame: "), ('{"type": "dance"}', "text frame: "),
        ('{"type": "finish", "now": 1}', "text frame: "),
        ('{"type": "ask"}', "text frame: Object missing required field `text`; docs/http.md lists the messages"),
        ('{"type": "interrupt", "answer": "x"}', "text frame: "),
        ('{"type": "interrupt", "answer": 1, "heard_s": -1}', "heard_s: -1"),
        ('{"type": "interrupt", "answer": 1}', "interrupt: this bundle writes down speech"),
        ('{"type": "ask", "text": "why?"}', "ask: this bundle writes down speech"),
        ('{"type": "hush", "hushed": 1}', "text frame: "),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_done_is_answered_and_no_word_is_lost(service, spoken, text, says):
    half = len(spoken) // 4 * 2
    with listening(service) as ws:
        ws.send(spoken[:half])
        ws.send(text)
        ws.send(spoken[half:])
        say(ws, type="finish")
        messages = received(ws)
    [error] = [one for one in messages if one["event"] == "error"]
    assert (error["reason"], error["error"][: len(says)]) == ("usage", says)
    assert [one["text"] for one in messages if one.get("final")] == [WORDS]


def test_a_byte_too_many_at_the_end_is_told_and_so_is_sound_after_it(service, spoken):
    with listening(service) as ws:
        ws.send(spoken + b"\x00")
        say(ws, type="finish")
        ws.send(spoken[:100])
        messages = received(ws)
    errors = [one["error"] for one in messages if one["event"] == "error"]
    assert errors[0] == "finish: 1 bytes are left over, no whole sample; left out"
    assert errors[1:] in ([], ["binary frame: 100 bytes after finish; open another websocket"]), (
        "it may have ended before"
    )
    assert [one["text"] for one in messages if one.get("final")] == [WORDS]


@pytest.mark.parametrize(("sample", "says"), [(np.nan, "sample 0 is NaN or infinite"), (1e30, "sample 0 is ")])
def test_samples_that_are_no_sound_end_their_stream_with_the_reason(service, sample, says):
    with listening(service, "encoding=f32le") as ws:
        ws.send(np.full(1600, sample, "<f4").tobytes())
        messages = received(ws)
        code, reason = closed(ws)
    assert (code, messages[-1]["reason"]) == (1007, "usage")
    assert says in messages[-1]["error"]
    assert reason.startswith(f"input: {says}")


def test_what_was_said_before_samples_that_are_no_sound_is_answered(service, spoken):
    with listening(service, "encoding=f32le") as ws:
        ws.send((np.frombuffer(spoken[:-48_000], "<i2") / np.float32(32768)).astype("<f4").tobytes())
        ws.send(np.full(1600, np.nan, "<f4").tobytes())
        messages = received(ws)
    assert [one["text"] for one in messages if one.get("final")] == [WORDS]
    assert (messages[-1]["event"], messages[-1]["reason"]) == ("ended", "usage")


def test_a_frame_that_is_too_large_closes_its_websocket_alone(serving, tiny_model, spoken):
    service = serving(tiny_model, Limits(message_bytes=2048))
    with listening(service) as other, listening(service) as ws:
        ws.send(spoken[:4096])
        received(ws)
        assert ws.close_code == 1009
        for piece in pieces(spoken, 2048):
            other.send(piece)
        say(other, type="finish")
        assert [one["text"] for one in received(other) if one.get("final")] == [WORDS]


def test_who_sends_faster_than_it_is_heard_waits_and_loses_nothing(serving, tiny_model, spoken):
    service = serving(tiny_model, Limits(inbox_s=0.5, waiting_s=1.0))
    with listening(service, "level=full") as ws:
        sender = threading.Thread(target=lambda: [*map(ws.send, pieces(spoken * 8, 32_000)), say(ws, type="finish")])
        sender.start()
        messages = received(ws)
        sender.join(WAIT_S)
    expected = alone(service.server.model, spoken * 8, level="full")
    assert [one["text"] for one in messages if one.get("final")] == [
        one["text"] for one in expected if one.get("final")
    ]


def test_one_stream_too_many_is_refused_by_name(serving, load):
    service = serving(load(), Limits(streams=1))
    with listening(service) as kept:
        assert json.loads(kept.recv(timeout=WAIT_S))["event"] == "opened"
        with listening(service) as ws:
            [message] = received(ws)
            assert closed(ws) == (1013, "streams: 1 are open, at most 1 may be; try again when one ends")
        assert (message["event"], message["reason"]) == ("error", "streams")
    with listening(serving(None)) as ws:
        assert received(ws)[0]["reason"] == "loading"
        assert ws.close_code == 1013


def test_a_stream_that_is_ended_says_why(serving, load):
    service = serving(load(), Limits(audio_s=0.5))
    with listening(service) as ws:
        ws.send(bytes(32_000))
        assert received(ws)[-1] == {"event": "ended", "reason": "duration", "error": ""}
        assert closed(ws) == (1000, "duration")
    with listening(service) as ws:
        ws.recv(timeout=WAIT_S)
        service.server.stop(0.0)
        assert received(ws)[-1]["reason"] == "stopping"
        assert ws.close_code == 1001


def test_a_client_that_leaves_frees_its_place(serving, load):
    service = serving(load(), Limits(streams=1))
    for _ in range(5):
        with listening(service) as ws:
            assert json.loads(ws.recv(timeout=WAIT_S))["event"] == "opened"
        settle(service, lambda: not service.server.streams)
    assert dict(service.server.counts.refused) == {}


def test_a_conversation_by_websocket_is_asked_spoken_and_interrupted(serving, speaking_model):
    service = serving(speaking_model)
    query = "gate=off&speak=true&voice=default_male&max_tokens=40&temperature=0.7&seed=3&turns=all"
    with listening(service, query) as ws:
        say(ws, type="ask", text="hello", role="nobody")
        assert until(ws, "error")["error"] == "role: 'nobody' is not in this bundle; choose one of: tool, user"
        say(ws, type="ask", text="<|EOT|>")
        assert until(ws, "error")["error"].startswith("text: holds '<|EOT|>'")
        say(ws, type="ask", text="hello")
        messages = []
        while not (messages and isinstance(messages[-1], bytes)):
            message = ws.recv(timeout=WAIT_S)
            messages.append(json.loads(message) if isinstance(message, str) else message)
        told = messages[-2]
        assert (told["event"], len(messages[-1])) == ("audio", 2 * told["samples"])
        say(ws, type="hush", hushed=True)
        say(ws, type="interrupt", answer=told["answer"], heard_s=0.0)
        say(ws, type="finish")
        rest = received(ws)
    assert [one["answer"] for one in rest if isinstance(one, dict) and one["event"] == "interrupted"] == [
        told["answer"]
    ]


def test_a_browser_s_websocket_shows_the_token_of_the_page(service):
    own = service.url
    with pytest.raises(InvalidStatus) as refused, listening(service, origin=own):
        pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
    protocols = offered(service.site.access.page_token)
    with listening(service, origin=own, subprotocols=protocols) as ws:
        assert ws.subprotocol == "edgekit"
    with (
        pytest.raises(InvalidStatus) as refused,
        listening(service, origin="http://evil.example", subprotocols=protocols),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_the_microphone_s_own_stream_is_shown_to_whoever_looks(serving, load):
    watch = Watch()
    service = serving(load(), watch=watch)
    watch.served = service.server.open(name="microphone")
    with listening(service, path="/v1/watch") as one, listening(service, path="/v1/watch") as other:
        for ws in (one, other):
            assert json.loads(ws.recv(timeout=WAIT_S))["event"] == "status"
        watch.publish(SpeechStarted(1.5))
        watch.publish(Text("hello", True, 1.5, 2.0, stable=5))
        for ws in (one, other):
            assert until(ws, "text")["text"] == "hello"
        one.send(b"what a watcher sends is not read")
        watch.publish(SpeechStarted(3.0))
        watch.close()
        assert [m for m in received(one) if m["event"] != "status"] == [{"event": "speech_started", "at_s": 3.0}]
        assert closed(one) == (1001, "stopping")


def test_without_a_microphone_there_is_nothing_to_watch_and_too_many_watchers_are_refused(serving, service, load):
    with listening(service, path="/v1/watch") as ws:
        assert received(ws)[0]["error"] == "watch: this server has no microphone of its own; see /v1/listen"
    watch = Watch()
    watchers = [watch.watcher(lambda: None) for _ in range(MOST_WATCHERS)]
    with listening(serving(load(), watch=watch), path="/v1/watch") as ws:
        assert received(ws)[0]["reason"] == "watchers"
        assert ws.close_code == 1013
    watchers[3].end("gone")
    assert watch.watcher(lambda: None) is not None


def test_a_watcher_that_does_not_read_is_ended_and_the_others_see_everything():
    watch = Watch()
    slow, quick = watch.watcher(lambda: None), watch.watcher(lambda: None)
    seen = 0
    for index in range(1000):
        watch.say({"event": "x", "index": index})
        seen += len(quick.read())
    assert slow.ended == "slow: 256 messages wait to be read; read them"
    assert len(slow.read()) == 256
    assert (seen, quick.ended) == (1000, "")


NAMES = st.one_of(
    st.text(max_size=12), st.sampled_from(["channels", "partials", "level", "temperature", "turns", "status"])
)
VALUES = st.one_of(st.text(max_size=20), st.sampled_from(["true", "1", "-1", "all", "1e999", "nan", "0.5"]))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_any_query_is_understood_or_refused_in_one_line(items):
    refusal = ""
    fields: dict = {}
    try:
        fields, _, _ = stream_query(items)
    except UsageError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert len(fields) <= len(items)


def test_every_reason_of_an_end_has_a_code():
    assert set(_CODES) == set(get_args(Reason))
