"""Bytes to events, however they are cut; damage is refused by its name before it is kept."""

import asyncio
import io
import json

import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk
from wyoming.event import Event, write_event

from edgekit.errors import RefusedError
from edgekit.serving.limits import Limits
from edgekit.serving.wyoming.framing import Framing

LIMITS = Limits(header_bytes=512, message_bytes=2048)


def written(*messages):
    """Return what the package's own writer sends."""
    file = io.BytesIO()
    for message in messages:
        write_event(message.event(), file)
    return file.getvalue()


def taken(framing):
    events = []
    while (event := framing.take()) is not None:
        events.append(event)
    return events


SENT = (
    Transcribe(language="de"), AudioChunk(16_000, 2, 1, b"\n" * 322), AudioChunk(16_000, 2, 1, b""),
    AudioChunk(48_000, 2, 2, bytes(range(256)) * 4),
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 333, 10_000])
def test_events_are_the_same_however_their_bytes_are_cut(size):
    data, framing, events = written(*SENT), Framing(LIMITS), []
    for start in range(0, len(data), size):
        framing.put(data[start : start + size])
        events += taken(framing)
    expected = [message.event() for message in SENT]
    assert [(one.type, one.data, one.payload) for one in events] == [
        (one.type, one.data, one.payload or None) for one in expected
    ]
    assert framing.between


def test_data_of_the_header_and_data_behind_it_are_one_and_the_latter_counts():
    framing = Framing(LIMITS)
    framing.put(b'{"type":"a","data":{"x":1,"y":2},"data_length":7,"later":null}\n{"x":3}')
    assert taken(framing) == [Event("a", {"x": 3, "y": 2})]


def header(**fields):
    return json.dumps({"type": "a"} | fields).encode() + b"\n"


DEEP = b'{"type":"a","data":' + b'{"a":' * 90 + b"1" + b"}" * 90 + b"}\n"
DAMAGED = {
    "a line that never ends": (b"x" * 513, "header"),
    "a line that is too long": (b'{"type":"a"}' + b" " * 512 + b"\n", "header"),
    "a request of a web page": (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "header"),
    "a list": (b"[]\n", "header"),
    "nothing": (b"\n", "header"),
    "no type": (b"{}\n", "header"),
    "an empty type": (header(type=""), "header"),
    "a type of a thousand letters": (header(type="x" * 200), "header"),
    "a type that is a number": (header(type=3), "header"),
    "half of a character": (b'{"type":"\\ud800"}\n', "header"),
    "no UTF-8": (b'{"type":"\xff"}\n', "header"),
    "a negative length": (header(payload_length=-1), "header"),
    "a length in words": (header(payload_length="12"), "header"),
    "a length that is a fraction": (header(data_length=1.5), "header"),
    "a length that is true": (header(data_length=True), "header"),
    "a length that is no number": (b'{"type":"a","data_length":NaN}\n', "header"),
    "a length of 400 digits": (b'{"type":"a","data_length":' + b"9" * 400 + b"}\n", "header"),
    "a payload of a terabyte": (header(payload_length=10**12), "length"),
    "data of one byte too many": (header(data_length=2049), "length"),
    "data and payload that are too much together": (header(data_length=1025, payload_length=1024), "length"),
    "data that is a list": (header(data_length=2) + b"[]", "data"),
    "data that is no JSON": (header(data_length=3) + b"{x}", "data"),
    "data that is cut by its length": (header(data_length=3) + b'{"a":1}', "data"),
    "data of a list in the header": (header(data=[1]), "header"),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_damage_is_refused_in_one_line(damaged):
    data, reason = DAMAGED[damaged]
    framing = Framing(LIMITS)
    framing.put(data)
    with pytest.raises(RefusedError) as refused:
        taken(framing)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_what_is_nested_deeper_than_it_can_be_read_is_refused():
    limits = Limits(header_bytes=2**20, message_bytes=2**22)
    framing = Framing(limits)
    framing.put(b'{"type":"a","data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}\n")
    with pytest.raises(RefusedError, match="nested too deep"):
        framing.take()


def test_what_is_nested_a_little_is_read():
    framing = Framing(Limits())
    framing.put(DEEP)
    assert len(taken(framing)) == 1


def test_events_before_the_damage_are_given():
    framing = Framing(LIMITS)
    framing.put(written(*SENT[:2]) + b"[]\n")
    assert [framing.take().type for _ in range(2)] == ["transcribe", "audio-chunk"]
    with pytest.raises(RefusedError):
        framing.take()


def test_the_package_s_own_reader_takes_what_is_refused_here():
    """So that this reader is still needed: the other waits for a terabyte that somebody only announces."""

    async def read():
        from wyoming.event import async_read_event

        reader = asyncio.StreamReader()
        reader.feed_data(header(payload_length=10**12) + b"x" * 4096)
        await asyncio.wait_for(async_read_event(reader), 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(read())
