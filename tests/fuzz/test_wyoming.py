"""Damaged bytes of a client of Wyoming become events or a refusal, and what they hold is bounded."""

import io
import json

from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import write_event
from wyoming.info import Describe
from wyoming.ping import Ping

from edgekit.errors import RefusedError
from edgekit.serving.limits import Limits
from edgekit.serving.wyoming import messages
from edgekit.serving.wyoming.framing import Framing
from tests.fuzz.worker import must_work

LIMITS = Limits(header_bytes=16 << 10, message_bytes=1 << 20)
KINDS = {
    "transcribe": messages.Transcribe, "ping": messages.Ping, "select-program": messages.SelectProgram,
    "transcript": messages.Said,
}  # fmt: skip


def _written(*said):
    file = io.BytesIO()
    for message in said:
        write_event(message.event(), file)
    return file.getvalue()


SOUND = AudioChunk(16_000, 2, 1, bytes(range(256)) * 2)
WHOLE = (
    _written(Describe(), Transcribe(name="tiny", language="en-US", context={"a": [1]})),
    _written(AudioStart(48_000, 4, 2, timestamp=3), AudioChunk(48_000, 4, 2, bytes(64)), AudioStop(timestamp=9)),
    _written(Ping("a"), AudioStart(16_000, 2, 1), SOUND, SOUND, AudioStop()),
    b'{"type":"select-program","data":{"name":"kitchen"}}\n{"type":"transcript","data_length":13}\n{"text":"on"}',
    b'{"type":"audio-chunk","data":{"rate":8000,"width":1,"channels":1},"payload_length":3}\n\x00\x80\xff',
)
HEADERS = ('{"type":"audio-chunk","data":{"rate":8000,"width":1,"channels":1},"payload_length":3,"data_length":2}',)


def _taken(data, step):
    """Return what is made of the bytes of a client, given in pieces."""
    framing, events = Framing(LIMITS), []
    for start in range(0, len(data), step):
        framing.put(data[start : start + step])
        assert len(framing._held) <= LIMITS.header_bytes + LIMITS.message_bytes + 2 * step
        while (event := framing.take()) is not None:
            events.append(event)
    return events


def _outcome(data, step):
    try:
        return _taken(data, step), ""
    except RefusedError as error:
        return [], str(error)


def test_damaged_bytes_of_a_client_become_events_or_a_refusal(fuzz):
    def attempt(case):
        data = case.data(case.chosen(WHOLE))
        events, fault = _outcome(data, 1 << 16)
        with must_work():
            for step in (1, 7):  # the same, however it is cut
                others, other_fault = _outcome(data, step)
                assert repr(others) == repr(events)
                assert other_fault == fault
        for event in events:
            _use(event)
        if fault:
            raise RefusedError("again", fault)

    fuzz("wyoming bytes", attempt, whole=len(WHOLE))


def test_a_damaged_header_and_damaged_data_are_read_or_refused(fuzz):
    def attempt(case):
        data = case.document(case.chosen(HEADERS)).replace(b"\n", b" ") + b"\n{}\x00\x80\xff"
        for event in _taken(data, 1 << 16):
            _use(event)

    fuzz("wyoming headers", attempt)


def test_wild_data_of_an_event_is_taken_or_refused(fuzz):
    events = [
        {"type": "transcribe", "data": {"name": "tiny", "language": "en", "transcript_names": ["a"]}},
        {"type": "ping", "data": {"text": "a"}}, {"type": "select-program", "data": {"name": "a"}},
        {"type": "transcript", "data": {"text": "a"}},
        {"type": "audio-start", "data": {"rate": 8000, "width": 1, "channels": 1, "timestamp": None}},
        {"type": "audio-chunk", "data": {"rate": 16_000, "width": 2, "channels": 2, "timestamp": 5}},
    ]  # fmt: skip

    def attempt(case):
        for event in _taken(case.document(json.dumps(case.chosen(events))).replace(b"\n", b" ") + b"\n", 1 << 16):
            _use(event)

    fuzz("wyoming events", attempt, whole=len(events))


def _use(event):
    """Read the data of an event as a connection does."""
    if event.type in KINDS:
        messages.message(KINDS[event.type], event.type, event.data)
    elif event.type in {"audio-start", "audio-chunk"}:
        given = messages.audio_format(event.type, event.data)
        samples = given.samples(event.payload or b"")
        with must_work():
            assert abs(samples).max(initial=0) <= 32_768
            assert samples.size == len(event.payload or b"") // given.width
