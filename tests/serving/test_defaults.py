"""What streams do not say is as the configuration has it, where it can be beside what they say; over every protocol."""

import asyncio
import io
import json

import httpx
import msgspec
import numpy as np
import pytest
import soundfile
from msgspec import structs
from websockets.sync.client import connect
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop

from edgekit.bundle import Question
from edgekit.errors import UsageError
from edgekit.serving.server import ONCE, Server
from edgekit.serving.service.life import defaults_of
from edgekit.serving.settings import Settings, StreamSettings
from tests.runtime.streams import RATE, sound_of
from tests.serving.http.conftest import WAIT_S, serving
from tests.serving.test_server import until
from tests.serving.wyoming.conftest import listening

__all__ = ["listening", "serving"]
SOUND = (sound_of(30_011) * 32_000).clip(-32_768, 32_767).astype(np.int16)


@pytest.fixture
def conversing(load):
    """Return a model that answers what it hears, unless it is asked to write that down."""
    protocol = msgspec.structs.replace(load("prefix").manifest.protocol, questions={"transcribe": Question(prompt="w")})
    return load("prefix", protocol=protocol)


def defaults(model, **stream):
    return defaults_of(Settings(stream=StreamSettings(**stream)), model)


def server_of(model, **stream) -> Server:
    server = Server(model)
    server.defaults = defaults(model, **stream)
    return server


@pytest.mark.parametrize(("said", "partials"), [({}, True), ({"partials": "committed"}, "committed")])
def test_who_asks_for_a_transcript_has_partials_and_who_asks_for_an_answer_has_none(conversing, said, partials):
    server = server_of(conversing, **said)
    opened = {prompt: server.open({"prompt": prompt}, name="test").stream.options for prompt in ("transcribe", "why")}
    assert opened["transcribe"].partials == partials
    assert not opened["why"].partials
    with pytest.raises(UsageError, match="partials: .* writes nothing before an utterance is over"):
        server.open({"prompt": "why", "partials": True}, name="test")  # said, not left to the server


def test_partials_that_no_stream_of_a_bundle_can_have_are_refused_in_a_configuration(load):
    model = load("prefix")
    assert server_of(model).open({}, name="test").stream.options.partials is False
    with pytest.raises(UsageError, match="stream.partials: .* it answers what it hears; "):
        defaults(model, partials="committed")


def test_a_default_that_has_no_effect_beside_what_a_stream_says_is_left_out(load):
    server = server_of(load(), temperature=0.7, top_k=5, repetition_penalty=1.5, seed=3)
    options = server.options({"sampling": {"temperature": 0.25}})
    assert options.sampling == {"temperature": 0.25, "top_k": 5, "repetition_penalty": 1.5}
    options = server.open({"sampling": {"temperature": 0.0}}, name="test").stream.options
    assert (options.sampling, options.seed) == ({"temperature": 0.0, "repetition_penalty": 1.5}, None)
    assert server.open({"floor": "clip"}, name="test").stream.options.partials is False
    server.defaults = {**server.defaults, "voice": "anna"}
    assert server.open({}, name="test", live=False).stream.options.voice is None


def test_a_recording_and_a_question_are_without_what_is_early(load):
    server = server_of(load(), partials="committed")
    options = server.options({}, without=ONCE)
    assert (options.partials, options.provisional_ms) == (False, None)
    assert server.options({}).partials == "committed"


def test_another_model_s_stream_has_what_that_model_can(load, conversing):
    server = server_of(load())
    assert server.options({}).partials is True
    assert server.options({}, model=conversing).partials is False


def test_by_websocket_the_words_of_a_transcript_come_while_sound_still_goes_on(serving, conversing):
    service = serving(conversing, defaults=defaults(conversing, gate="off"))
    with connect(f"{service.ws}/v1/listen?prompt=transcribe&level=full", open_timeout=WAIT_S) as ws:
        assert json.loads(ws.recv(timeout=WAIT_S))["event"] == "opened"
        assert [one.stream.options.partials for one in service.server.streams] == [True]
        ws.send(SOUND.tobytes())
        came = []
        until(lambda: came.append(json.loads(ws.recv(timeout=WAIT_S))) or came[-1]["event"] == "text")
        assert came[-1]["final"] is False


def test_by_http_a_recording_is_heard_with_the_defaults_that_hold_for_one(serving, conversing):
    fields = defaults(conversing, partials="committed", temperature=0.7, top_k=3, seed=1, max_tokens=3)
    service = serving(conversing, defaults={**fields, "voice": "anna"})
    file = io.BytesIO()
    soundfile.write(file, SOUND, RATE, format="WAV")
    expected = conversing.transcribe(
        SOUND, level="full", prompt="transcribe", sampling={"temperature": 0.7, "top_k": 3}, seed=1, max_tokens=3
    )
    service.server.defaults["level"] = "full"
    answer = httpx.post(f"{service.url}/v1/audio/transcriptions", files={"file": file.getvalue()}, timeout=WAIT_S)
    assert (answer.status_code, answer.json()["text"]) == (200, expected.text)


def test_by_wyoming_committed_words_of_a_bundle_that_converses_come_early(listening, conversing):
    fields = structs.asdict(StreamSettings(partials="committed"))
    fields = {name: value for name, value in fields.items() if value is not None} | {"level": "full", "turns": 2}
    opened = []

    async def run():
        async with listening(conversing, fields=fields) as at, at.client() as client:
            real = at.server.open
            at.server.open = lambda options, **more: opened.append(options) or real(options, **more)
            chunk = AudioChunk(RATE, 2, 1, SOUND.tobytes())
            await client.say(Transcribe(), AudioStart(RATE, 2, 1), chunk, AudioStop())
            await client.until("transcript-stop")

    asyncio.run(run())
    assert (opened[0].partials, opened[0].prompt, opened[0].turns) == ("committed", "transcribe", 0)
