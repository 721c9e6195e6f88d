"""OpenAI's routes for recordings, by OpenAI's client and by hand: what they answer, and what they refuse by name."""

import asyncio
import io
import json
import tempfile

import httpx
import numpy as np
import openai
import pytest
import soundfile

from edgekit.bundle import TokenProtocol
from edgekit.serving.limits import Limits
from tests.runtime.conftest import CONTEXT, special
from tests.serving.http.conftest import CLIP, WAIT_S, error_of, settle

ROUTE = "/v1/audio/transcriptions"
NAMED = b'Content-Disposition: form-data; name="file"; filename="a"'
WORDS = "He might even have been made amiable himself."


@pytest.fixture(scope="module")
def service(serving, tiny_model):
    return serving(tiny_model)


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
        yield client


@pytest.fixture
def by_hand(service):
    with service.client() as client:
        yield client


def wav(samples: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def decode_protocol(*, tasks: tuple[str, ...], languages: tuple[str, ...]) -> TokenProtocol:
    """Return the protocol of a tiny bundle that has a choice of tasks and languages."""
    return TokenProtocol(
        attention="cross", stop=(special("<stop>"),), start=(special("<start>"),), start_tail=(special("<plain>"),),
        max_tokens=12, context_tokens=CONTEXT, vocabulary_limit=93,
        tasks={name: special(f"<{name}>") for name in tasks},
        languages={name: special(f"<{name}>") for name in languages},
    )  # fmt: skip


def two_sentences() -> bytes:
    """Return the clip twice, with a pause between."""
    spoken, rate = soundfile.read(CLIP)
    return wav(np.concatenate([spoken, np.zeros(rate * 2), spoken]), rate)


def test_openai_s_client_gets_the_text(client):
    with CLIP.open("rb") as file:
        assert client.audio.transcriptions.create(file=file, model="edgekit-tiny").text == WORDS


def test_the_answer_is_what_the_model_itself_writes_down(client, tiny_model):
    spoken = two_sentences()
    expected = tiny_model.transcribe(spoken, times="words")
    assert len(expected.segments) == 2, "or it tries too little"
    answer = client.audio.transcriptions.create(
        file=("two.wav", spoken), model="edgekit-tiny", response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )  # fmt: skip
    assert (answer.text, answer.language, answer.duration) == (
        expected.text, expected.language, pytest.approx(expected.audio_s, abs=1e-6),
    )  # fmt: skip
    assert [(one.text, one.start, one.end, tuple(one.tokens)) for one in answer.segments] == [
        (one.text, round(one.start_s, 6), round(one.end_s, 6), one.tokens) for one in expected.segments
    ]
    assert [(one.word, one.start, one.end) for one in answer.words] == [
        (word.text, round(word.start_s, 6), round(word.end_s, 6)) for one in expected.segments for word in one.words
    ]


@pytest.mark.parametrize(("form", "kind"), [("srt", "application/x-subrip"), ("vtt", "text/vtt")])
def test_subtitles_are_those_of_the_transcript(by_hand, tiny_model, form, kind):
    spoken = two_sentences()
    expected = tiny_model.transcribe(spoken, times="words")
    answer = by_hand.post(ROUTE, files={"file": spoken}, data={"response_format": form})
    assert answer.text == (expected.to_srt() if form == "srt" else expected.to_vtt())
    assert answer.headers["content-type"].startswith(kind)


def test_text_is_one_line(by_hand):
    answer = by_hand.post(ROUTE, files={"file": CLIP.read_bytes()}, data={"response_format": "text"})
    assert answer.text == f"{WORDS}\n"


def test_a_stream_s_pieces_are_its_text(client):
    events = list(
        client.audio.transcriptions.create(file=("two.wav", two_sentences()), model="edgekit-tiny", stream=True)
    )
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == f"{WORDS} {WORDS}"


async def _async_text(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=WAIT_S) as client:
        return (await client.audio.transcriptions.create(file=("a.flac", CLIP.read_bytes()), model="whisper-1")).text


def test_openai_s_client_for_asyncio_gets_the_text_by_the_name_that_many_programs_send(service):
    assert asyncio.run(_async_text(service.url)) == WORDS


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_recordings_of_any_form_rate_and_channels_are_heard(by_hand, form, subtype):
    spoken, rate = soundfile.read(CLIP)
    up = np.interp(np.arange(len(spoken) * 44_100 // rate) * rate / 44_100, np.arange(len(spoken)), spoken)
    file = wav(np.stack([up, 0.5 * up], axis=1), 44_100, form, subtype)
    assert by_hand.post(ROUTE, files={"file": file}).json() == {"text": WORDS}


def test_nothing_is_said_in_silence(by_hand):
    answer = by_hand.post(ROUTE, files={"file": wav(np.zeros(16_000))}, data={"response_format": "verbose_json"})
    assert (answer.json()["text"], answer.json()["segments"]) == ("", [])


@pytest.mark.parametrize(
    ("data", "param", "code"),
    [
        ({"model": "gpt-5"}, "model", "model_not_found"),
        ({"responseformat": "json"}, "responseformat", "unknown_parameter"),
        ({"response_format": "diarized_json"}, "response_format", "unsupported_value"),
        ({"temperature": "warm"}, "temperature", "invalid_value"),
        ({"temperature": "nan"}, "temperature", "invalid_value"),
        ({"temperature": "-1"}, "temperature", "invalid_value"),
        ({"language": "tlh"}, "language", "invalid_value"),
        ({"prompt": "EdgeKit, onnx"}, "prompt", "unsupported_value"),
        ({"stream": "perhaps"}, "stream", "invalid_value"),
        ({"stream": "true", "response_format": "srt"}, "response_format", "unsupported_value"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "unsupported_value"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities",
         "unsupported_value"),
        ({"include[]": "logprobs"}, "include", "unsupported_value"),
        ({"chunking_strategy": '{"type": "server_vad"}'}, "chunking_strategy", "unsupported_value"),
        ({"keywords[]": "EdgeKit"}, "keywords", "unsupported_value"),
        ({"known_speaker_names[]": "A"}, "known_speaker_names", "unsupported_value"),
        ({"language": ["en", "de"]}, "language", "invalid_value"),
        ({"file": "talk.wav"}, "file", None),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused_by_name(by_hand, data, param, code):
    error = error_of(
        by_hand.post(ROUTE, files={"file": CLIP.read_bytes()}, data=data), 404 if param == "model" else 400
    )
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize("data", [{"prompt": ""}, {"temperature": "0"}, {"chunking_strategy": "auto"}, {"language": ""},
                                  {"model": ""}, {"stream": "false"}, {"temperature": "0.0"}])  # fmt: skip
def test_what_clients_send_anyway_is_taken(by_hand, data):
    assert by_hand.post(ROUTE, files={"file": CLIP.read_bytes()}, data=data).json() == {"text": WORDS}


def test_a_model_that_is_not_served_is_not_found_and_the_one_that_is_gets_named(client):
    with pytest.raises(openai.NotFoundError, match="'gpt-4o-transcribe' is not served here; give 'edgekit-tiny'"):
        client.audio.transcriptions.create(file=("a.flac", CLIP.read_bytes()), model="gpt-4o-transcribe")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty, a recording is needed"),
        (b"no recording at all", "FILE"),
        (CLIP.read_bytes()[:5000], "truncated"),
        (wav(np.zeros(0)), "no samples in it"),
        (wav(np.full(99, np.nan), subtype="FLOAT"), "NaN or infinite"),
        (wav(np.zeros((99, 65))), "at most 64 are heard"),
    ],
)
def test_a_file_that_is_no_whole_recording_is_refused_with_the_reason(by_hand, content, says):
    error = error_of(by_hand.post(ROUTE, files={"file": ("talk.wav", content)}), 400)
    assert (error["param"], error["code"], error["type"]) == ("file", "invalid_audio", "invalid_request_error")
    assert says in error["message"]


def test_a_stream_of_a_file_that_breaks_off_ends_with_the_error(by_hand):
    ogg = wav(np.random.default_rng(1).uniform(-0.3, 0.3, 160_000), form="OGG", subtype="VORBIS")
    answer = by_hand.post(ROUTE, files={"file": ogg[: len(ogg) * 2 // 3]}, data={"stream": "true"})
    if answer.status_code == 200:
        last = json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))
        assert (last["type"], last["error"]["code"]) == ("error", "invalid_audio")
    else:
        assert error_of(answer, 400)["code"] == "invalid_audio"


def test_a_form_without_a_file_says_so(by_hand):
    error = error_of(by_hand.post(ROUTE, files={"model": (None, "edgekit-tiny")}), 400)
    assert (error["param"], error["code"]) == ("file", "missing_required_parameter")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "multipart/mixed", ""])
def test_another_content_type_is_unsupported(by_hand, kind):
    error_of(by_hand.post(ROUTE, content=b"{}", headers={"content-type": kind}), 415)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data; boundary=x", b"no part at all"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF',
        ),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=" + "x" * 200, b"--y--"),
    ],
)
def test_a_broken_form_is_refused_and_the_next_one_is_served(by_hand, kind, body):
    error_of(by_hand.post(ROUTE, content=body, headers={"content-type": kind}), 400)
    assert by_hand.get("/health").status_code == 200


def test_a_form_of_many_fields_or_of_a_large_one_is_refused(by_hand):
    many = [(f"a{index}", (None, "x")) for index in range(100)]
    assert "more than 64 parts" in error_of(by_hand.post(ROUTE, files=many), 400)["message"]
    large = {"prompt": (None, "x" * 100_000)}
    assert "prompt: larger than 65,536 bytes" in error_of(by_hand.post(ROUTE, files=large), 400)["message"]
    two = [("file", CLIP.read_bytes()), ("file", CLIP.read_bytes())]
    assert "file: there are two" in error_of(by_hand.post(ROUTE, files=two), 400)["message"]
    other = error_of(by_hand.post(ROUTE, files={"recording": CLIP.read_bytes()}), 400)
    assert (other["param"], other["code"]) == ("recording", "unknown_parameter")


def test_translations_of_a_bundle_that_does_not_translate_are_refused(by_hand, client):
    error = error_of(by_hand.post("/v1/audio/translations", files={"file": CLIP.read_bytes()}), 400)
    assert error["message"] == "translations: edgekit-tiny does not translate; use another"
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(openai.BadRequestError):
        client.audio.translations.create(file=("a.flac", CLIP.read_bytes()), model="whisper-1")


def test_a_bundle_that_translates_is_asked_to(serving, load):
    protocol = decode_protocol(tasks=("transcribe", "translate"), languages=("en",))
    service = serving(load(protocol=protocol))
    sound = wav(np.random.default_rng(3).uniform(-0.3, 0.3, 3210))
    with service.client() as client:
        expected = service.server.model.transcribe(sound, task="translate").text
        assert expected != service.server.model.transcribe(sound).text, "or nothing is shown"
        answer = client.post("/v1/audio/translations", files={"file": sound}, data={"response_format": "verbose_json"})
        assert (answer.json()["task"], answer.json()["text"]) == ("translate", expected)
        error = error_of(client.post("/v1/audio/translations", files={"file": sound}, data={"language": "en"}), 400)
        assert (error["param"], error["code"]) == ("language", "unknown_parameter")


def test_a_recording_longer_than_a_stream_may_be_is_not_cut_in_silence(serving, tiny_model):
    service = serving(tiny_model, Limits(audio_s=2.0))
    with service.client() as client:
        error = error_of(client.post(ROUTE, files={"file": CLIP.read_bytes()}), 413)
        assert (error["code"], error["param"]) == ("duration", "file")


def test_a_request_while_the_model_is_loaded_is_told_to_come_again(serving):
    service = serving(None)
    with service.client() as client:
        answer = client.post(ROUTE, files={"file": CLIP.read_bytes()})
        assert error_of(answer, 503)["code"] == "loading"
        assert answer.headers["retry-after"] == "1"
        assert error_of(client.get("/v1/models"), 503)["code"] == "loading"


def test_one_stream_too_many_is_refused_with_a_time_to_come_again(serving, tiny_model):
    service = serving(tiny_model, Limits(streams=1))
    kept = service.server.open(name="microphone")
    with service.client() as client:
        answer = client.post(ROUTE, files={"file": CLIP.read_bytes()})
        assert error_of(answer, 429)["code"] == "streams"
        assert answer.headers["retry-after"] == "1"
        kept.close()
        assert client.post(ROUTE, files={"file": CLIP.read_bytes()}).json() == {"text": WORDS}


def test_a_client_that_leaves_ends_its_stream(serving, tiny_model):
    service = serving(tiny_model)
    spoken, rate = soundfile.read(CLIP)
    long = wav(np.tile(spoken, 60), rate)
    with pytest.raises(httpx.ReadTimeout), service.client() as client:
        client.post(ROUTE, files={"file": long}, timeout=httpx.Timeout(WAIT_S, read=0.3))
    settle(service, lambda: service.server.counts.ended)
    assert dict(service.server.counts.ended) == {"closed": 1}


def test_recordings_leave_nothing_on_disk(serving, tiny_model, tmp_path, monkeypatch):
    """A temporary file would be in this folder, or could not be made at all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    service = serving(tiny_model)
    spoken, rate = soundfile.read(CLIP)
    with service.client() as client:
        file = wav(np.concatenate([spoken, np.zeros(rate * 60)]), rate)
        assert len(file) > 2**20, "more than is kept in memory by default"
        assert client.post(ROUTE, files={"file": file}).json() == {"text": WORDS}
    assert not (tmp_path / "none").exists()
