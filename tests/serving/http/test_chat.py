"""POST /v1/chat/completions by OpenAI's client and by hand: text and sound in, text and sound out, all else by name."""

import base64
import io
import json

import numpy as np
import openai
import pytest
import soundfile

from edgekit.runtime.events import Audio, Text
from tests.serving.http.conftest import CLIP, WAIT_S, error_of

ROUTE = "/v1/chat/completions"
LIMITED = 6  # tokens: the random model seldom ends by itself


@pytest.fixture(scope="module")
def service(serving, speaking_model):
    return serving(speaking_model)


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
        yield client


@pytest.fixture
def by_hand(service):
    with service.client() as client:
        yield client


def sound_part(form: str = "wav") -> dict:
    samples, rate = soundfile.read(CLIP)
    file = io.BytesIO()
    soundfile.write(file, samples[:rate], rate, format=form.upper())
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(file.getvalue()).decode(), "format": form}}


def said(text: str = "hello") -> list[dict]:
    return [{"role": "user", "content": text}]


def expected(model, text: str | None = None, audio: bytes | None = None, **options) -> tuple[str, np.ndarray]:
    """Return text and sound of the answer that the model itself gives."""
    if audio is not None:
        samples, rate = soundfile.read(io.BytesIO(audio), dtype="float32")
        options |= {"sample_rate_hz": rate, "gate": "off", "floor": model.manifest.front_end.floor}
        with model.stream(**options) as stream:
            events = [*stream.push(samples), *stream.finish()]
    else:
        with model.stream(gate="off", **options) as stream:
            events = [*stream.ask(text), *stream.finish()]
    sound = [event.samples for event in events if isinstance(event, Audio)]
    text = "\n".join(event.text for event in events if isinstance(event, Text) and event.final)
    return text, np.concatenate([np.zeros(0, np.float32), *sound])


def test_a_question_in_text_is_answered(client, speaking_model):
    answer = client.chat.completions.create(model="", messages=said(), max_tokens=LIMITED)
    [choice] = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content == expected(speaking_model, "hello", max_tokens=LIMITED)[0] != ""
    assert answer.model == speaking_model.manifest.name


@pytest.mark.parametrize("form", ["wav", "mp3"])
def test_a_question_in_sound_with_words_about_it_is_answered(client, speaking_model, form):
    part = sound_part(form)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is that?"}, part]},
    ]
    answer = client.chat.completions.create(model="", messages=messages, max_completion_tokens=LIMITED)
    heard = base64.b64decode(part["input_audio"]["data"])
    options = {"system": "Be brief.", "prompt": "What is that?", "max_tokens": LIMITED}
    assert answer.choices[0].message.content == expected(speaking_model, audio=heard, **options)[0] != ""


def test_an_answer_comes_word_by_word(client, speaking_model):
    chunks = list(client.chat.completions.create(model="", messages=said(), max_tokens=LIMITED, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == expected(speaking_model, "hello", max_tokens=LIMITED)[0]
    assert len(chunks) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"


@pytest.mark.parametrize(("form", "exact"), [("wav", 2e-5), ("flac", 2e-5), ("pcm16", 2e-5)])
def test_an_answer_is_spoken(client, speaking_model, form, exact):
    answer = client.chat.completions.create(
        model="", messages=said(), max_tokens=40, seed=3, temperature=0.7, modalities=["text", "audio"],
        audio={"voice": "default_male", "format": form},
    )  # fmt: skip
    options = {"max_tokens": 40, "seed": 3, "speak": True, "voice": "default_male", "sampling": {"temperature": 0.7}}
    text, sound = expected(speaking_model, "hello", **options)
    assert len(sound), "or nothing is shown"
    message = answer.choices[0].message
    assert (message.content, message.audio.transcript) == (None, text)
    data = base64.b64decode(message.audio.data)
    got = np.frombuffer(data, "<i2") / 32768 if form == "pcm16" else soundfile.read(io.BytesIO(data))[0]
    assert np.abs(got - np.clip(sound, -1, 1)).max() <= 1 / 32768 + exact


def test_a_spoken_answer_comes_piece_by_piece(client, speaking_model):
    chunks = client.chat.completions.create(
        model="", messages=said(), max_tokens=40, seed=3, temperature=0.7, modalities=["text", "audio"],
        audio={"voice": "default_male", "format": "pcm16"}, stream=True,
    )  # fmt: skip
    pieces, text = b"", ""
    for chunk in chunks:
        audio = (chunk.choices[0].delta.model_extra or {}).get("audio") or chunk.choices[0].delta.audio
        if audio:
            audio = audio if isinstance(audio, dict) else audio.model_dump()
            pieces += base64.b64decode(audio.get("data") or "")
            text += audio.get("transcript") or ""
    options = {"max_tokens": 40, "seed": 3, "speak": True, "voice": "default_male", "sampling": {"temperature": 0.7}}
    expected_text, sound = expected(speaking_model, "hello", **options)
    assert text == expected_text
    assert np.abs(np.frombuffer(pieces, "<i2") / 32768 - np.clip(sound, -1, 1)).max() <= 1 / 32768


def test_tools_are_given_as_text_where_the_bundle_was_made_for_them(by_hand):
    tools = [{"type": "function", "function": {"name": "lamp", "parameters": {}}}]
    answer = by_hand.post(ROUTE, json={"messages": said(), "tools": tools, "max_tokens": 3, "tool_choice": "auto"})
    assert answer.status_code == 200 or error_of(answer, 400)["param"] == "tools"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"), ({"n": 1.5}, "n"), ({"n": True}, "n"),
        ({"stop": ["x"]}, "stop"), ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"), ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"reasoning_effort": "high"}, "reasoning_effort"), ({"store": True}, "store"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"temperature": "warm"}, "temperature"), ({"temperature": -1}, "temperature"), ({"top_p": 0.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 10**9}, "max_tokens"),
        ({"seed": -1, "temperature": 1}, "seed"),
        ({"max_tokens": 4, "max_completion_tokens": 4}, "max_tokens"), ({"modalities": ["text", "audio"]}, "audio"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["audio"], "audio": {"voice": "alloy", "format": "wav"}}, "voice"),
        ({"modalities": ["audio"], "audio": {"format": "opus"}}, "audio.format"),
        ({"modalities": ["audio"], "audio": {"format": "wav"}, "stream": True}, "audio.format"),
        ({"messages": []}, "messages"), ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [*said(), *said()]}, "messages"),
        ({"messages": [*said(), {"role": "assistant", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [sound_part(), sound_part()]}]}, "messages"),
        ({"messages": [{"role": "system", "content": [sound_part()]}, *said()]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages"), ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "to": 1}]}, "messages[0].to"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused_by_name(by_hand, more, param):
    error = error_of(by_hand.post(ROUTE, json={"messages": said(), **more}), 400)
    assert error["param"] == param, error["message"]


def test_what_clients_send_anyway_is_taken(by_hand):
    usual = {
        "model": None, "n": 1, "stop": None, "stream": False, "logprobs": False, "presence_penalty": 0,
        "frequency_penalty": 0.0, "response_format": {"type": "text"}, "user": "somebody", "metadata": {"a": "b"},
        "modalities": ["text"], "store": False, "max_tokens": 2, "audio": None, "logit_bias": {}, "top_logprobs": None,
    }  # fmt: skip
    assert by_hand.post(ROUTE, json={"messages": said(), **usual}).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no JSON"), (b"{", "no JSON"), (b"\xff\xfe", "no JSON"),
        (b"[]", 'body: Expected `object`, got `array`; send {"messages": [{"role": "user", "content": "..."}]}'),
        (b'{"mesages": []}', "mesages: Object contains unknown field `mesages`; did you mean 'messages'?"),
        (b"{}", "messages: Object missing required field `messages`; add it"),
        (b'{"messages": [{"role": "user", "x`y": 1}]}',
         "messages[0].x`y: Object contains unknown field `x`y`; leave it out"),
        (b'{"messages": ' + b"[" * 100_000, "Expected `object`"),
        (b'{"frob": ' + b"[" * 100_000, "unknown field"), (b"[" * 10**7, "Expected `object`"),
        (b'{"messages": [], "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 1000, "no JSON"),
        (b'{"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "?"}}]}]}',
         "base64"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(by_hand, body, says):
    error = error_of(by_hand.post(ROUTE, content=body, headers={"content-type": "application/json"}), 400)
    assert says in error["message"]


def test_ten_megabytes_of_json_are_read_and_refused_like_any_other(by_hand):
    body = json.dumps({"messages": said(), "filler": "x" * 10 * 2**20})
    error = error_of(by_hand.post(ROUTE, content=body, headers={"content-type": "application/json"}), 400)
    assert (error["param"], error["code"]) == ("filler", "invalid_value")
    body = json.dumps({"messages": said(), "metadata": {str(index): "x" for index in range(500_000)}, "frob": 1})
    assert (
        error_of(by_hand.post(ROUTE, content=body, headers={"content-type": "application/json"}), 400)["param"]
        == "frob"
    )


def test_a_text_with_a_mark_of_the_model_s_own_is_refused(by_hand):
    error = error_of(by_hand.post(ROUTE, json={"messages": said("<|EOT|>")}), 400)
    assert error["param"] == "text"
    error = error_of(by_hand.post(ROUTE, json={"messages": [{"role": "system", "content": "<|EOT|>"}, *said()]}), 400)
    assert error["param"] == "system"


def test_another_content_type_is_unsupported(by_hand):
    error_of(by_hand.post(ROUTE, content=b"{}", headers={"content-type": "text/plain"}), 415)


def test_a_bundle_that_writes_down_speech_is_no_partner_for_a_chat(serving, load):
    service = serving(load())
    with service.client() as client:
        error = error_of(client.post(ROUTE, json={"messages": said()}), 400)
        assert error["message"].endswith("does not converse; send it to /v1/audio/transcriptions")


def test_a_recording_is_transcribed_by_the_bundle_s_own_question(by_hand, speaking_model):
    file = base64.b64decode(sound_part()["input_audio"]["data"])
    answer = by_hand.post("/v1/audio/transcriptions", files={"file": file})
    assert answer.json() == {"text": speaking_model.transcribe(file, prompt="transcribe").text}
    own = by_hand.post("/v1/audio/transcriptions", files={"file": file}, data={"prompt": "Who speaks?"})
    assert own.json() == {"text": speaking_model.transcribe(file, prompt="Who speaks?").text}
