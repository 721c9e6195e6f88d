"""Clients of Wyoming, by the package's own client on loopback: sound in, one transcript out, and every refusal."""

import asyncio
import dataclasses
import json
import logging
import threading

import msgspec
import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from edgekit.bundle import Question
from edgekit.errors import BackendError
from edgekit.serving.wyoming.messages import Format
from tests.runtime.conftest import special
from tests.runtime.streams import RATE, sound_of
from tests.runtime.voices import reading, sound_in, speaking
from tests.serving.test_server import held
from tests.serving.wyoming.conftest import WAIT_S

SOUND = (sound_of(30_011) * 32_000).clip(-32_768, 32_767).astype(np.int16)
START, STOP = AudioStart(RATE, 2, 1), AudioStop()


def pieces(sound=SOUND, sizes=(1, 333, 1024, 5, 4096)):
    """Return sound as chunks of awkward sizes."""
    chunks, start = [], 0
    while start < len(sound):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(AudioChunk(RATE, 2, 1, sound[start : start + size].tobytes()))
        start += size
    return chunks


def recording(sound=SOUND):
    return [START, *pieces(sound), STOP]


def transcript_of(events):
    """Return the text of a transcript that came as the protocol has it, and its chunks."""
    kinds = [event.type for event in events]
    chunks = [TranscriptChunk.from_event(one).text for one in events if one.type == "transcript-chunk"]
    assert kinds == ["transcript-start", *["transcript-chunk"] * len(chunks), "transcript", "transcript-stop"]
    text = Transcript.from_event(events[-2]).text
    assert "".join(chunks) == text
    return text


def reason_of(event):
    error = Error.from_event(event)
    assert event.type == "error"
    assert "\n" not in error.text
    return error.code


def languages_of(load):
    """Return a model of two languages."""
    model = load()
    protocol = msgspec.structs.replace(
        model.manifest.protocol, languages={"en": special("<en>"), "de": special("<de>")},
        tasks={"transcribe": special("<transcribe>")},
    )  # fmt: skip
    return load(protocol=protocol)


def test_a_recording_in_awkward_pieces_becomes_the_transcript_that_the_model_gives(listening, load):
    model = load()
    expected = model.transcribe(SOUND, level="full").text

    async def run():
        async with listening(model, fields={"level": "full"}) as at, at.client() as client:
            for _ in range(2):  # a client may go on
                await client.say(Transcribe(), *recording())
                assert transcript_of(await client.until("transcript-stop")) == expected

    assert expected
    asyncio.run(run())


def test_recordings_that_are_sent_at_once_are_heard_one_after_another(listening, load):
    """So one client never needs two streams, and its transcripts do not mingle."""
    model = load()
    sounds = [SOUND, SOUND[::-1].copy()]
    expected = [model.transcribe(sound, level="full").text for sound in sounds]

    async def run():
        async with listening(model, fields={"level": "full"}, streams=1) as at, at.client() as client:
            await client.say(*recording(sounds[0]), *recording(sounds[1]))
            return [transcript_of(await client.until("transcript-stop", "error")) for _ in sounds]

    assert asyncio.run(run()) == expected
    assert len(set(expected)) == 2


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_sound_of_other_formats_is_heard(listening, load, width, rate, channels):
    model = load()
    sound = np.repeat(SOUND[:, None], channels, axis=1).reshape(-1) if channels > 1 else SOUND
    raw = {
        1: ((sound >> 8) + 128).astype(np.uint8), 2: sound, 4: sound.astype(np.int32) << 16,
    }[width].tobytes()  # fmt: skip
    samples = Format(rate, width, channels).samples(raw)
    expected = model.transcribe(samples, sample_rate_hz=rate, level="full").text

    async def run():
        async with listening(model, fields={"level": "full"}) as at, at.client() as client:
            step = 999 * width * channels
            chunks = [AudioChunk(rate, width, channels, raw[i : i + step]) for i in range(0, len(raw), step)]
            await client.say(AudioStart(rate, width, channels), *chunks, STOP)
            return transcript_of(await client.until("transcript-stop"))

    assert asyncio.run(run()) == expected


def test_samples_of_every_width_are_the_same_sound():
    sound = np.array([-32_768, -256, 0, 256, 32_512], np.int16)
    expected = sound / 32_768
    wide = Format(RATE, 4, 1).samples((sound.astype(np.int32) << 16).tobytes())
    narrow = Format(RATE, 1, 1).samples(((sound >> 8) + 128).astype(np.uint8).tobytes())
    assert (wide.dtype, narrow.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(wide, expected)
    np.testing.assert_array_equal(narrow, expected)
    np.testing.assert_array_equal(Format(RATE, 2, 1).samples(sound.tobytes()), sound)


def test_a_recording_without_a_sound_and_one_without_audio_start_have_transcripts(listening):
    async def run():
        async with listening() as at, at.client() as client:
            await client.say(START, STOP)
            assert transcript_of(await client.until("transcript-stop")) == ""
            await client.say(*pieces(), STOP)
            assert transcript_of(await client.until("transcript-stop"))

    asyncio.run(run())


def test_a_text_is_sent_while_sound_still_comes(listening):
    """The tiny grid hears 0.4 s at once, and goes on in another utterance."""

    async def run():
        async with listening() as at, at.client() as client:
            await client.say(START, *pieces())
            assert [one.type for one in await client.until("transcript-chunk")] == [
                "transcript-start", "transcript-chunk",
            ]  # fmt: skip
            await client.say(STOP)
            await client.until("transcript-stop")

    asyncio.run(run())


def test_a_client_that_closes_its_half_gets_its_transcript(listening):
    async def run():
        async with listening() as at, at.client() as client:
            await client.say(*recording())
            client.half_close()
            assert transcript_of(await client.until("transcript-stop"))
            assert await client.is_over()

    asyncio.run(run())


def test_describe_and_ping_are_answered_within_a_recording(listening):
    async def run():
        async with listening() as at, at.client() as client:
            await client.say(START, pieces()[1], Describe(), Ping("here?"), STOP)
            events = await client.until("transcript-stop")
            info = next(Info.from_event(one) for one in events if one.type == "info")
            assert [one.name for one in info.asr] == ["kitchen"]
            assert [one.data for one in events if one.type == "pong"] == [{"text": "here?"}]

    asyncio.run(run())


def test_events_that_are_not_known_are_passed_over(listening):
    async def run():
        async with listening() as at, at.client() as client:
            for kind in ("detect", "run-pipeline", "of-next-year"):
                await client.write_event(Event(kind, {"names": ["x"]}, b"payload"))
            await client.write_event(Event("select-program", {"name": "kitchen"}))
            await client.say(Ping())
            assert (await client.next()).type == "pong"

    asyncio.run(run())


def test_languages_go_to_the_stream_by_their_primary_subtag(listening, load, caplog):
    model = languages_of(load)
    expected = model.transcribe(SOUND, level="full", language="de")

    async def run():
        async with listening(model, fields={"level": "full"}) as at, at.client() as client:
            await client.say(Transcribe(language="de-AT"), *recording())
            events = await client.until("transcript-stop")
            assert transcript_of(events) == expected.text
            assert {event.data["language"] for event in events if "language" in (event.data or {})} == {"de"}

    asyncio.run(run())


def test_the_next_recording_is_not_heard_in_the_language_of_the_last(listening, load):
    model = languages_of(load)

    async def run():
        async with listening(model, fields={"language": "en"}) as at, at.client() as client:
            for asked, heard in ((Transcribe(language="de"), "de"), (None, "en")):
                await client.say(*([asked] if asked else []), *recording())
                assert (await client.until("transcript-stop"))[-2].data["language"] == heard

    asyncio.run(run())


WRONG = {
    "another language": ([Transcribe(language="fr-FR"), *recording()], "language"),
    "another model": ([Transcribe(name="whisper-large"), *recording()], "model"),
    "samples of three bytes": ([AudioStart(RATE, 3, 1), AudioChunk(RATE, 3, 1, bytes(30)), STOP], "format"),
    "samples of no byte": ([AudioStart(RATE, 0, 1), STOP], "format"),
    "no channel": ([AudioStart(RATE, 2, 0), STOP], "format"),
    "a thousand channels": ([AudioStart(RATE, 2, 1000), STOP], "format"),
    "a rate of nothing": ([AudioStart(0, 2, 1), STOP], "format"),
    "a negative rate": ([AudioStart(-RATE, 2, 1), STOP], "format"),
    "a rate of ten gigahertz": ([AudioStart(10**10, 2, 1), STOP], "format"),
    "a rate in words": ([AudioStart("16000", 2, 1), STOP], "data"),
    "a rate that is a fraction": ([AudioStart(16000.5, 2, 1), STOP], "data"),
    "half a sample": ([START, AudioChunk(RATE, 2, 1, bytes(3)), STOP], "format"),
    "another format within": ([START, *pieces()[:3], AudioChunk(48_000, 2, 1, bytes(40)), *pieces(), STOP], "format"),
    "audio-start twice": ([START, pieces()[1], *recording()], "order"),
    "audio-stop alone": ([STOP], "order"),
    "transcribe within": ([START, pieces()[1], Transcribe(), *pieces(), STOP], "order"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_heard_is_refused_once_and_the_next_recording_is_heard(listening, wrong):
    """By a client that reads the error and begins anew, without an audio-stop."""
    messages, reason = WRONG[wrong]
    refused = [one for one in messages if not isinstance(one, AudioStop) or reason == "order"]

    async def run():
        async with listening() as at, at.client() as client:
            last = refused if wrong == "audio-stop alone" else [one for one in refused if one is not STOP]
            await client.say(*last)
            assert reason_of(await client.next()) == reason
            await client.say(Transcribe(), *recording())
            assert transcript_of(await client.until("transcript-stop"))

    asyncio.run(run())


@pytest.mark.parametrize("wrong", [one for one in WRONG if one != "audio-stop alone"])
def test_a_refused_recording_that_is_sent_to_its_end_ends_the_connection(listening, wrong):
    """Home Assistant waits for a transcript or the end, and not always for an error."""
    messages, reason = WRONG[wrong]

    async def run():
        async with listening() as at, at.client() as client:
            await client.say(*messages)
            assert reason_of(await client.next()) == reason
            assert await client.is_over()
            async with at.client() as other:
                await other.say(*recording())
                assert transcript_of(await other.until("transcript-stop"))

    asyncio.run(run())


DAMAGED = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"\n", b"x" * 20_000, b'{"type":"ping","data_length":-1}\n',
    b'{"type":"audio-chunk","payload_length":1000000000000}\n', b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    b'{"type":"a","data":' + b'{"a":' * 2500 + b"1" + b"}" * 2500 + b"}\n", b'{"type":"transcribe","data":[]}\n',
)  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: repr(data[:30]))
def test_damage_ends_its_connection_and_no_other(listening, data):
    async def run():
        async with listening() as at, at.client() as other:
            await other.say(*recording()[:-1])
            async with at.client() as client:
                await client.send(data)
                assert reason_of(await client.next()) in {"header", "length", "data"}
                assert await client.is_over()
            await other.say(STOP)
            assert transcript_of(await other.until("transcript-stop"))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Event("ping", {"text": 3}), "data"), (Event("transcribe", {"language": ["en"]}), "data"),
        (Event("transcribe", {"language": {"a": [[]]}}), "data"), (Event("select-program", {}), "data"),
        (Event("select-program", {"name": "bath"}), "program"), (Event("transcript", {"text": "hello"}), "handle"),
        (Event("transcript", {}), "data"), (Event("audio-chunk", {}), "data"),
        (Synthesize("read this").event(), "tts"), (Event("synthesize", {"voice": {}}), "data"),
        (Event("synthesize", {"text": "a", "voice": "ann"}), "data"),
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_answered_is_refused_by_name(listening, event, reason):
    async def run():
        async with listening() as at, at.client() as client:
            await client.write_event(event)
            assert reason_of(await client.next()) == reason
            await client.say(Ping())
            assert (await client.next()).type == "pong"

    asyncio.run(run())


def test_a_text_to_be_read_aloud_that_comes_in_pieces_first_is_refused_once(listening):
    async def run():
        async with listening() as at, at.client() as client:
            pieces = [SynthesizeStart(), *[SynthesizeChunk("read ")] * 5]
            await client.say(*pieces, Synthesize("read read"), SynthesizeStop(), Ping())
            assert [event.type for event in await client.until("pong")] == ["error", "pong"]

    asyncio.run(run())


@pytest.mark.parametrize("cut", ["within a header", "within a payload", "within a recording"])
def test_a_connection_that_ends_too_soon_is_told_so_and_its_stream_is_gone(listening, cut):
    data = {
        "within a header": b'{"type":"pi', "within a payload": b'{"type":"audio-chunk","payload_length":9}\n1234',
        "within a recording": b"",
    }[cut]  # fmt: skip

    async def run():
        async with listening() as at, at.client() as client:
            await client.say(*recording()[:-1])
            await client.until("transcript-chunk")
            await client.send(data)
            client.half_close()
            assert reason_of((await client.until("error"))[-1]) == ("length" if data else "order")
            assert await client.is_over()
            assert at.server.streams == []

    asyncio.run(run())


def test_one_stream_too_many_is_refused_with_the_reason_and_heard_once_there_is_room(listening):
    async def run():
        async with listening(streams=1) as at, at.client() as first, at.client() as second:
            await first.say(*recording()[:-1])
            await first.until("transcript-chunk")
            await second.say(START, *pieces())
            assert reason_of(await second.next()) == "streams"
            await first.say(STOP)
            await first.until("transcript-stop")
            await second.say(*recording())
            assert transcript_of(await second.until("transcript-stop"))

    asyncio.run(run())


def test_clients_at_once_get_their_own_transcripts(listening, load):
    model = load()
    sounds = [SOUND, SOUND[7000:], SOUND[::-1].copy()]
    expected = [model.transcribe(sound, level="full").text for sound in sounds]

    async def one(at, sound):
        async with at.client() as client:
            for message in recording(sound):
                await client.say(message)
                await asyncio.sleep(0)
            return transcript_of(await client.until("transcript-stop"))

    async def run():
        async with listening(model, fields={"level": "full"}) as at:
            return await asyncio.gather(*(one(at, sound) for sound in sounds))

    assert asyncio.run(run()) == expected
    assert len(set(expected)) == 3


def test_while_the_model_is_loaded_describe_and_recordings_are_refused(listening):
    async def run():
        async with listening(loaded=False) as at:
            async with at.client() as client:
                await client.say(Describe())
                assert reason_of(await client.next()) == "loading"
                assert await client.is_over()  # Home Assistant asks again then
            async with at.client() as client:
                await client.say(*recording())
                assert reason_of(await client.next()) == "loading"

    asyncio.run(run())


def test_a_recording_longer_than_a_stream_may_be_is_cut_and_said_so(listening):
    async def run():
        async with listening(audio_s=1.0) as at, at.client() as client:
            await client.say(START, *pieces())
            events = await client.until("transcript-stop")
            cut = next(index for index, event in enumerate(events) if event.type == "error")
            assert reason_of(events.pop(cut)) == "duration"
            assert transcript_of(events)
            await client.say(STOP)
            assert await client.is_over()

    asyncio.run(run())


def test_an_engine_that_fails_is_told_and_the_connection_ends(listening, load):
    model, encoder = held(load())
    encoder.error = BackendError("encoder: broken; mend it")

    async def run():
        async with listening(model) as at, at.client() as client:
            await client.say(*recording())
            assert reason_of(await client.next()) == "failed"
            assert await client.is_over()

    asyncio.run(run())


def test_a_bug_of_ours_is_told_logged_and_no_other_client_s_business(listening, monkeypatch, caplog):
    from edgekit.serving.wyoming import connection

    class Broken(connection.Texts):
        def take(self, event):
            raise ZeroDivisionError

    async def run():
        async with listening() as at:
            monkeypatch.setattr(connection, "Texts", Broken)
            async with at.client() as client:
                await client.say(*recording())
                assert reason_of(await client.next()) == "failed"
                assert await client.is_over()
            monkeypatch.undo()
            async with at.client() as client:
                await client.say(*recording())
                assert transcript_of(await client.until("transcript-stop"))

    asyncio.run(run())
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_sends_nothing_is_let_go(listening):
    async def run():
        async with listening(idle_s=0.2) as at, at.client() as client:
            assert reason_of(await client.next()) == "idle"
            assert await client.is_over()

    asyncio.run(run())


@pytest.mark.parametrize("before", [[], [START, pieces()[3]]], ids=["nothing", "a recording"])
def test_a_client_whose_event_comes_letter_by_letter_is_let_go(listening, before):
    async def run():
        async with listening(idle_s=0.4) as at, at.client() as client:
            await client.say(*before)
            reading = asyncio.ensure_future(client.next())
            for _ in range(200):
                await client.send(b" ")
                if (await asyncio.wait({reading}, timeout=0.05))[0]:
                    break
            error = Error.from_event(reading.result())
            assert (error.code, error.text) == ("idle", "connection: no whole event for 0.4 s; connect again")

    asyncio.run(run())


def test_an_event_that_begins_late_has_its_time_to_be_whole(listening):
    async def run():
        async with listening(idle_s=2.0) as at, at.client() as client:
            reading = asyncio.ensure_future(client.next())
            for part in (b"{", b'"type": "ping"', b"}\n"):
                done, _ = await asyncio.wait({reading}, timeout=0.7)
                assert not done
                await client.send(part)
            assert (await reading).type == "pong"

    asyncio.run(run())


def test_a_client_that_waits_for_a_slow_answer_is_not_idle(listening, load):
    model, encoder = held(load())
    encoder.may.clear()

    async def run():
        async with listening(model, idle_s=0.2) as at, at.client() as client:
            await client.say(*recording())
            threading.Timer(0.7, encoder.may.set).start()
            assert transcript_of(await client.until("transcript-stop"))

    asyncio.run(run())


def test_a_client_that_never_reads_is_let_go_and_harms_nobody(listening):
    """Its pings are answered until nobody takes the answers."""

    async def run():
        async with listening(slow_s=0.3) as at, at.client() as rude, at.client() as other:
            ping = json.dumps({"type": "ping", "data": {"text": "x" * 8000}}).encode() + b"\n"

            async def flood():
                while True:
                    await rude.send(ping)

            with pytest.raises(ConnectionError):
                await asyncio.wait_for(flood(), WAIT_S)
            await other.say(*recording())
            assert transcript_of(await other.until("transcript-stop"))

    asyncio.run(run())


def test_a_bundle_that_converses_answers_texts_and_writes_down_by_its_question(listening, load):
    model = load("prefix")
    protocol = msgspec.structs.replace(
        model.manifest.protocol, questions={"transcribe": Question(prompt="w")}, roles={"user": "u"},
        turn="<sound>{role}{text}</sound>",
    )  # fmt: skip
    model = load("prefix", protocol=protocol)
    expected = model.transcribe(SOUND, level="full", prompt="transcribe").text
    with model.stream(level="full") as stream:
        answer = [event.text for event in [*stream.ask("hello"), *stream.finish()] if getattr(event, "final", False)]

    async def run():
        async with listening(model, fields={"level": "full", "language": "en"}) as at, at.client() as client:
            await client.say(Transcript("hello", language="en"))
            handled = await client.next()
            assert (handled.type, handled.data["text"]) == ("handled", " ".join(answer))
            await client.say(Transcribe(language="sv"), *recording())
            assert transcript_of(await client.until("transcript-stop")) == expected

    assert answer
    asyncio.run(run())


def test_a_bundle_that_has_the_question_for_it_reads_a_text_aloud(listening, load):
    """The toy's voice; no family asks that question yet, so it is told, not guessed, that a bundle reads."""

    async def run(model):
        async with listening(model, fields={"level": "full"}) as at, at.client() as client:
            await client.say(Describe())
            info = Info.from_event(await client.next())
            await client.say(Synthesize("0", voice=SynthesizeVoice(name="default")))
            events = await client.until("audio-stop", "error")
            await client.say(Synthesize("0", voice=SynthesizeVoice(name="ann")))
            return info, events, await client.next()

    with reading():
        plain = speaking(load)
        info, events, _ = asyncio.run(run(plain))
        assert (info.tts, reason_of(events[-1])) == ([], "tts")
        model = speaking(load, questions={"read": Question(system="r")})
        with model.stream(level="full", speak=True, prompt="read") as stream:
            expected = sound_in([*stream.ask("0"), *stream.finish()])
        info, events, other = asyncio.run(run(model))
    assert [voice.name for voice in info.tts[0].voices] == ["default"]
    assert [event.type for event in events] == ["audio-start", *["audio-chunk"] * (len(events) - 2), "audio-stop"]
    assert {event.data["rate"] for event in events[:-1]} == {24_000}
    sound = np.frombuffer(b"".join(event.payload for event in events[1:-1]), "<i2") / 32_767
    np.testing.assert_allclose(sound, expected.clip(-1, 1), atol=0.6 / 32_767)  # rounded
    assert len(sound) > 50
    assert reason_of(other) == "voice"


def test_a_bundle_that_only_answers_is_no_recogniser(listening, load):
    async def run():
        async with listening(load("prefix")) as at, at.client() as client:
            await client.say(Transcribe(), *recording())
            assert reason_of(await client.next()) == "asr"
            assert await client.is_over()

    asyncio.run(run())


def test_no_text_is_in_the_log(listening, load, caplog):
    caplog.set_level(logging.DEBUG)
    model = load()
    said = model.transcribe(SOUND, level="full").text

    async def run():
        async with listening(model, fields={"level": "full"}) as at, at.client() as client:
            await client.say(*recording(), Transcript("a secret"))
            await client.until("error")

    asyncio.run(run())
    assert caplog.records
    assert said not in caplog.text
    assert "a secret" not in caplog.text


def test_a_model_that_is_replaced_is_described_anew(listening, load):
    model = load()

    async def run():
        async with listening(model, name="") as at, at.client() as client:
            other = dataclasses.replace(
                model, bundle=dataclasses.replace(model.bundle, manifest=msgspec.structs.replace(
                    model.manifest, name="another"))
            )  # fmt: skip
            names = []
            for served in (model, other):
                at.server.model = served
                await client.say(Describe())
                names.append(Info.from_event(await client.next()).asr[0].name)
            assert names == ["tiny", "another"]

    asyncio.run(run())
